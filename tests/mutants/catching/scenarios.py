"""Single moments, each of which some fault shows at: what a sound store does there is known.

A scenario takes a seed and returns what was wrong, as (oracle, text); nothing of a sound store.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Callable, Iterator

from shoal.coordinator.log import format as wal_format
from shoal.shm.errors import CorruptionError
from tests.mutants.catching import in_memory, on_disk, rig
from tests.mutants.catching.rig import Problem

_RUNS_PER_COLLECTION = 25
_runs = itertools.count(1)

# The quick ones first: a fault is looked for with one after the other.
SCENARIOS: dict[str, Callable[[int], list[Problem]]] = {
    scenario.__name__: scenario
    for scenario in (
        *(on_disk.visible_only_when_durable, in_memory.group_of_operations, on_disk.failed_sync),
        *(in_memory.conflict_with_clear, in_memory.expiry, in_memory.validation, on_disk.acknowledged_after_kill),
        *(in_memory.conflict_across_take_over, in_memory.resent_after_kill, on_disk.damage_before_acknowledged),
        *(on_disk.torn_tail, on_disk.acknowledged_after_power_cut, on_disk.checkpoint_and_power_cut),
        *(in_memory.revoked_snapshot, on_disk.checkpointed, in_memory.open_snapshots),
    )
}


def run_scenario(name: str, seed: int) -> list[Problem]:
    """What is wrong; an error that a sound store does not raise is, too."""
    with _machine():
        try:
            return SCENARIOS[name](seed)
        except CorruptionError as error:
            return [("opens again", str(error))]
        except (AssertionError, ArithmeticError, LookupError, TypeError, ValueError, OSError) as error:
            if isinstance(error, TypeError) and "argument" in str(error):
                raise  # a mutant does not fit what it replaces any more: that is no catch
            return [("no such error", f"{type(error).__name__}: {error}")]


@contextlib.contextmanager
def _machine() -> Iterator[None]:
    """Afterwards the real boot id, and no descriptors left open."""
    boot_id = wal_format.boot_id
    try:
        yield
    finally:
        wal_format.boot_id = boot_id
        while rig.opened:
            rig.opened.pop().close_descriptor()
        if next(_runs) % _RUNS_PER_COLLECTION == 0:
            gc.collect()  # each mapping holds a descriptor until the cycle it is in goes

"""Operations in which workers contend: one key for all, and transactions that take their time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..peers import BenchError, Session
from .base import BySeed, Operation, Step
from .kv import ReadModifyWrite, random_picks

_HOT_KEY = "hot"
_THINKING_S = 0.002


class Hot(Operation):
    """Changes of one value by a function of the worker."""

    name = "hot"
    title = "hot: all processes change one value by a Python function; no change lost"
    competes = True

    def items(self) -> dict[str, Any]:
        """The value, for stores that keep it as a key."""
        return {_HOT_KEY: 0}

    def targets(self) -> list[str]:
        """The one key."""
        return [_HOT_KEY]

    def prepare(self, session: Session, targets: Sequence[str]) -> None:
        """The value, for stores that keep it as something else."""
        session.make_hot(targets[0])

    def step(self, session: Session, targets: Sequence[str], worker: int, seed: int) -> Step:
        """All workers do the same."""
        hot, key = session.hot, targets[0]
        return lambda: hot(key, _one_more)

    def check(self, session: Session, targets: Sequence[str], operations: int, by_seed: BySeed = ()) -> None:
        """The value has grown by one for each change."""
        value = session.hot_value(targets[0])
        if value != operations:
            raise BenchError(f"{operations} changes were acknowledged and the value shows {value}")


class Think(ReadModifyWrite):
    """Read-modify-writes that take their time in between."""

    name = "think"
    title = f"think: rmw as above, with {_THINKING_S * 1000:g} ms of thinking between read and write; no addition lost"
    competes = True

    def step(self, session: Session, targets: Sequence[str], worker: int, seed: int) -> Step:
        """Each worker has random keys of its own."""
        keys = random_picks(targets, seed)
        think = session.think
        return lambda: think(next(keys), _THINKING_S)


def _one_more(value: int) -> int:
    return value + 1

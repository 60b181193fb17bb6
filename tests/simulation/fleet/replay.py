"""The state of the store after each commit, as the log says it: what each check of a fleet looks at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from shoal.coordinator.log.format import COORDINATOR, LogRecord
from shoal.coordinator.log.reader import read_commit
from shoal.shm.wire.request import triples

State = dict[bytes, bytes]
Change = tuple[bytes | None, bytes | None]  # what a key held before, and after


class Commit(NamedTuple):
    """One commit, and every key that it wrote or that was there in a range that it cleared.

    ``is_own``: the coordinator's own: what ended or expired, and upkeep. ``ids``: client id and commit id of those that
    have a part in it. ``submitted_ms``, ``logged_ms``: between which moments it was decided.
    """

    version: int
    is_own: bool
    ids: list[tuple[int, int]]
    changed: dict[bytes, Change]
    submitted_ms: int
    logged_ms: int


def replay(
    records: list[LogRecord],
    submitted_ms: dict[int, int],
    logged_ms: dict[int, int],
    state: State,
    expiring: set[bytes],
) -> Iterator[Commit]:
    """Each commit; ``state`` is as it was before it until the next one is asked for.

    ``expiring``: those of its keys that may expire.
    """
    for record in records:
        logged = read_commit("log", 0, record)
        after: dict[bytes, bytes | None] = {}
        for lower, upper in logged.clears:
            after.update((key, None) for key in state if lower <= key < upper)
        for key, value, expires_ms in triples(logged.writes):
            after[key] = value
            (expiring.add if expires_ms else expiring.discard)(key)
        changed = {key: (state.get(key), value) for key, value in after.items()}
        ids = [(client_id, commit_id) for client_id, commit_id, _ in logged.outcomes]
        version = record.version
        yield Commit(
            version, record.client_id == COORDINATOR and not ids, ids, changed,
            submitted_ms.get(version, 0), logged_ms[version],
        )  # fmt: skip
        for key, value in after.items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value

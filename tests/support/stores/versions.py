"""How many versions a call takes, although the coordinator makes empty ones of its own, to free memory."""

from __future__ import annotations

from collections.abc import Callable

import shoal

_CALLS = 5


def versions_taken(db: shoal.Database, call: Callable[[], object]) -> int:
    """The least number of versions that went by during ``call``, which is called until two calls took the same few.

    An idle coordinator makes an empty version now and then, and is idle soon: not during each of some calls.
    """
    return least_taken(lambda: db.info().commit_version, call)


def least_taken(published: Callable[[], int], call: Callable[[], object]) -> int:
    """``versions_taken`` by another way to ask for the newest version."""
    taken: list[int] = []
    while len(taken) < _CALLS and taken.count(min(taken, default=0)) < 2:
        before = published()
        call()
        taken.append(published() - before)
    return min(taken)

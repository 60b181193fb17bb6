"""The end of a holder: in slices, if it holds much, and once for all, if the store has no room to say so."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from shoal.shm.wire.answer import ANSWERED
from tests.unit.coordinator.presence.test_control_requests import Coordinator
from tests.unit.coordinator.presence.test_control_requests import at as at

HELD = 1500
LOOKED_AT = 300  # by one slice at most


def reclaim(at: Coordinator) -> None:
    """Have the index hold what is there, and no keys that were deleted."""
    while at.reclaimer.step(0.0) or (at.reclaimer.waits_for_a_version() and at.engine.make_version()):
        pass


def test_a_slice_looks_at_few_of_many(at: Coordinator) -> None:
    """Commits wait for a slice, so its length does not depend on how much is held; nor is any of it forgotten."""
    database = at.client().database_id
    for number in range(HELD):
        at.take(at.client(database), b"%d" % number, ttl_ms=30_000 if number % 2 else 500)
    looked_at = 0

    def iterate(lower: bytes, upper: bytes) -> Iterator[tuple[bytes, int]]:
        nonlocal looked_at
        for found in at.writer.ordered_index.iterate(lower, upper):
            looked_at += 1
            yield found

    watched: Any = SimpleNamespace(newest=at.writer.newest, ordered_index=SimpleNamespace(iterate=iterate))
    at.holders._writer = watched
    for after_s in (0.0, 0.9):  # at the second turn those with the short ttl end, slice by slice
        at.turn(after_s)
    while at.holders.due_in_s() <= 0:
        at.turn()
    reclaim(at)
    assert at.entries() == HELD // 2
    assert at.held(b"0") == []
    assert at.held(b"1") == [database]
    at.requests.gone(database)
    slices = 0
    while at.entries():
        looked_at = 0
        at.turn()
        reclaim(at)
        assert looked_at <= LOOKED_AT
        slices += 1
    assert slices == -(-(HELD // 2) // 256)
    assert not at.holders


def test_who_has_gone_renews_nothing(at: Coordinator) -> None:
    """A database whose last client has gone has ended, also while there is no room for the commit that says so."""
    database = at.client().database_id
    at.take(at.client(database))
    engine: Any = at.holders._engine
    full: Any = SimpleNamespace(
        commit_own=lambda decide: False, finish_group=engine.finish_group, operations=engine.operations
    )
    at.holders._engine = full
    at.requests.gone(database)
    assert at.ask(at.client(database), "renew", []) == (ANSWERED, [0])
    assert at.held() == [database]
    at.holders._engine = engine
    at.turn(after_s=1.0)
    assert at.held() == []

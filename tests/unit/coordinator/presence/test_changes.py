"""What commits changed, told page by page over a commit engine: cleared ranges, bounds, what is not kept any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.coordinator.log.writer import WalWriter
from shoal.coordinator.presence.changes import Change, Changes, Page
from shoal.shm.limits import DEFAULT_LIMITS
from shoal.shm.wire.answer import COMMITTED, decode_answer
from shoal.shm.wire.frames import LENGTH_BYTES
from shoal.shm.wire.request import decode_request, encode_mutations, encode_request
from tests.unit.coordinator.presence.test_control_requests import Coordinator, at  # noqa: F401 (a fixture)

LOWER, UPPER = b"k", b"l"


class Watched:
    """A coordinator of its own, and a commit that writes and clears at once."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.at = coordinator
        self.log: WalWriter = coordinator.log
        self.changes: Changes = coordinator.requests._changes
        self.reclaimer = coordinator.engine._reclaimer
        self.ids = 0

    def commit(self, writes: Mapping[bytes, bytes | None], *clears: bytes) -> int:
        flat = [part for key, value in writes.items() for part in (key, value, 0)]
        self.ids += 1
        raw = encode_request(self.ids, 0, 0, b"", encode_mutations(flat, list(clears)))
        answer = self.at.engine.submit(1, decode_request(raw, ()))
        self.at.engine.finish_group()
        _, status, version, _ = decode_answer(answer[LENGTH_BYTES:])
        assert status == COMMITTED
        return version

    def page(self, version: int, after: bytes = b"") -> Page:
        return self.changes.page(LOWER, UPPER, version, after, self.at.engine.published)

    def pages(self, version: int) -> list[Change]:
        told: list[Change] = []
        page = Page(version, b"", False, [])
        while page.version < self.at.engine.published:
            page = self.page(page.version, page.after)
            assert not page.is_lost
            told += page.changes
        return told

    def reclaim(self) -> None:
        for _ in range(4):
            while self.reclaimer.step(10.0):
                pass


@pytest.fixture
def watched(at: Coordinator) -> Watched:  # noqa: F811 (the fixture)
    return Watched(at)


def test_a_cleared_range_is_told_key_by_key(watched: Watched) -> None:
    """The keys that were there, in as many pages as it takes, each once; not those that were deleted before."""
    since = watched.commit({b"k%05d" % n: b"v" for n in range(2_600)} | {b"z": b"v"})
    watched.commit({b"k00007": None})
    cleared = watched.commit({b"k00001": b"new", b"k9": b"new"}, LOWER, UPPER, b"k1", b"y")
    told = watched.pages(since)[1:]
    assert [key for _, key, _ in told] == [b"k%05d" % n for n in range(2_600) if n != 7] + [b"k9"]
    assert {version for version, _, _ in told} == {cleared}
    assert {key: value for _, key, value in told if value is not None} == {b"k00001": b"new", b"k9": b"new"}
    assert len(watched.page(since).changes) == 1_000


def test_a_page_is_bounded_in_bytes(watched: Watched) -> None:
    """Though a single change may be longer."""
    since = watched.commit({b"k": b"0"})
    for n in range(5):
        watched.commit({b"k": bytes([n]) * 200_000})
    assert [len(watched.page(version).changes) for version in range(since, since + 5)] == [2, 2, 2, 2, 1]


def test_a_key_that_was_overwritten_often(watched: Watched) -> None:
    """A page takes a bounded number of steps: what is below too many newer versions is left to the log."""
    since = watched.commit({b"k": b"0"})
    for n in range(300):
        watched.commit({b"k": b"%d" % n, b"k2": b"x"})
    watched.changes._most_steps = 1_000
    assert len(watched.pages(since)) == 600
    watched.changes._most_steps = 299
    page = watched.page(since)
    assert (page.is_lost, page.changes, page.version) == (True, [], since)
    assert len(watched.pages(since + 200)) == 200


def test_the_lower_key_of_a_cleared_range(watched: Watched) -> None:
    """It is told if it was there, and as what the commit wrote if it did."""
    since = watched.commit({b"other": b"1"})
    watched.commit({}, b"k", b"k5")
    assert watched.pages(since) == []
    watched.commit({b"k": b"1"})
    watched.commit({}, b"k", b"k5")
    watched.commit({b"k": b"2"}, b"k", b"k5")
    assert [change[1:] for change in watched.pages(since)] == [(b"k", b"1"), (b"k", None), (b"k", b"2")]


def test_what_a_watch_was_told_up_to_is_kept(watched: Watched) -> None:
    """Until it is told further, given up, or its database is gone; else only the newest is known."""
    since = watched.commit({b"k": b"0"})
    for n in (b"1", b"2"):
        watched.commit({b"k": n})
    watched.changes.keep(4711, 1, since)
    watched.reclaim()
    assert [value for _, _, value in watched.page(since).changes] == [b"1", b"2"]
    watched.changes.keep(4711, 1, since + 1)
    watched.reclaim()
    assert [value for _, _, value in watched.page(since + 1).changes] == [b"2"]
    watched.changes.gone(4711)
    watched.commit({b"k": b"3"})
    watched.reclaim()
    lost = watched.page(since)
    assert (lost.is_lost, lost.changes) == (True, [])
    assert watched.page(since + 2).changes == [(since + 3, b"k", b"3")]
    watched.changes.keep(4711, 2, since + 3)
    watched.changes.forget(4711, 2)
    assert watched.reclaimer.watched == {}


def test_a_cleared_range_that_is_not_known_any_more(watched: Watched) -> None:
    """It is lost as a whole: some of its keys would be a gap."""
    since = watched.commit({b"k1": b"1", b"k2": b"2"})
    watched.commit({}, LOWER, UPPER)
    assert len(watched.page(since).changes) == 2
    watched.commit({b"other": b"1"})
    watched.reclaim()
    assert watched.page(since) == Page(since, b"", True, [])


def test_what_the_window_has_forgotten_is_lost(watched: Watched) -> None:
    """From its floor on it is known."""
    since = watched.commit({b"k": b"1"})
    floor = watched.commit({b"k": b"2"})
    watched.commit({b"k": b"3"})
    watched.changes._window.forget(floor, 0, 1)
    assert watched.page(since).is_lost
    assert [value for _, _, value in watched.page(floor).changes] == [b"3"]


def test_watches_are_forgotten_before_snapshots_are_revoked(watched: Watched) -> None:
    """When history takes too much room, first those who can go on from the log."""
    since = watched.commit({b"k": b"0"})
    pinned = [since]
    watched.reclaimer.pinned = lambda: pinned
    watched.reclaimer.limits = DEFAULT_LIMITS._replace(history_bytes=1_000, snapshot_grace_s=1.0)
    watched.changes.keep(4711, 1, since)
    watched.reclaimer.step(1.0)
    for n in range(100):
        watched.commit({b"k": bytes([n]) * 1_000})
    watched.reclaimer.step(2.5)
    watched.reclaimer.step(4.0)
    assert (watched.reclaimer.watched, watched.reclaimer.revoked) == ({}, 0)
    watched.reclaimer.step(4.1)
    assert watched.reclaimer.revoked == 1


def test_a_commit_that_waits_for_room_waits_for_no_watch(watched: Watched) -> None:
    """A watch of any age is forgotten then; a snapshot has its grace."""
    since = watched.commit({b"k": b"0"})
    pinned = [since]
    watched.reclaimer.pinned = lambda: pinned
    watched.changes.keep(4711, 1, since)
    watched.commit({b"k": b"1"})
    watched.reclaimer.step(1.0)
    assert watched.reclaimer.watched == {1: since}
    watched.reclaimer.step(1.1, urgent=True)
    assert (watched.reclaimer.watched, watched.reclaimer.revoked) == ({}, 0)


COMMITS = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from([b"j", b"k", b"k1", b"k2", b"l"]), st.none() | st.just(b"v"), max_size=3),
        st.lists(st.sampled_from([b"a", b"k", b"k1", b"k2", b"l", b"z"]), min_size=2, max_size=2).map(sorted)
        | st.just([]),
    ),
    max_size=8,
)


@pytest.mark.long
@given(commits=COMMITS)
def test_the_window_and_a_plain_list_agree(commits: list[Any]) -> None:
    """``changed_in`` gives the commits, keys and ranges that a list of them gives."""
    window = ConflictWindow(0)
    for version, (writes, clears) in enumerate(commits, 1):
        if clears:
            window.add_clear(version, *clears)
        window.add_writes(version, list(writes))
    for since in range(len(commits) + 1):
        _, found = window.changed_in(LOWER, UPPER, since, len(commits))
        expected = []
        for version, (writes, clears) in enumerate(commits, 1):
            keys = [key for key in writes if LOWER <= key < UPPER]
            reaches = bool(clears) and clears[0] < clears[1] and clears[0] < UPPER and clears[1] > LOWER
            rows = [(*clears, version)] if reaches else []
            if version > since and (keys or rows):
                expected.append((version, keys, rows))
        assert found == expected

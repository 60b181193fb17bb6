"""coordinator.conflict_window and validate against the naive rule: remember every write forever."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.coordinator.commit.validate import validate
from shoal.shm.wire.request import CommitSet

Range = tuple[bytes, bytes]
Commits = list[tuple[set[bytes], list[Range]]]  # of each the keys written and the ranges cleared
KEYS = st.sampled_from([bytes([a, b]) for a in b"abc" for b in b"012"])
RANGES = st.tuples(KEYS, KEYS).map(lambda pair: (min(pair), max(pair) + b"\0"))
COMMITS = st.lists(st.tuples(st.sets(KEYS, max_size=4), st.lists(RANGES, max_size=1)), max_size=25)


def filled(commits: Commits, first: int = 1) -> ConflictWindow:
    window = ConflictWindow(first - 1)
    for version, (keys, clears) in enumerate(commits, first):
        for lower, upper in clears:
            window.add_clear(version, lower, upper)
        window.add_writes(version, sorted(keys))
    return window


def touched_key(commits: Commits, key: bytes, snapshot: int) -> list[int]:
    """Versions after ``snapshot`` that wrote or cleared ``key``."""
    return [
        version
        for version, (keys, clears) in enumerate(commits, 1)
        if version > snapshot and (key in keys or any(lower <= key < upper for lower, upper in clears))
    ]


def touched_range(commits: Commits, lower: bytes, upper: bytes, snapshot: int) -> list[int]:
    """Versions after ``snapshot`` that wrote in, or cleared some of, ``[lower, upper)``."""
    return [
        version
        for version, (keys, clears) in enumerate(commits, 1)
        if version > snapshot
        and (any(lower <= key < upper for key in keys) or any(max(lo, lower) < min(up, upper) for lo, up in clears))
    ]


def reads(snapshot: int, keys: Iterable[bytes] = (), ranges: Iterable[Range] = ()) -> CommitSet:
    return CommitSet(1, snapshot, 0, list(keys), list(ranges), [], [], [], None, b"")


@pytest.mark.long
@given(COMMITS, KEYS, st.integers(0, 26))
def test_point_reads(commits: Commits, key: bytes, snapshot: int) -> None:
    """A read key conflicts exactly if a later commit wrote or cleared it, and the version named is one that did."""
    found = filled(commits).written_since(key, snapshot)
    expected = touched_key(commits, key, snapshot)
    assert bool(found) == bool(expected)
    assert not found or found in expected


@pytest.mark.long
@given(COMMITS, st.lists(st.one_of(RANGES, st.tuples(KEYS, KEYS)), min_size=1, max_size=8), st.integers(0, 26))
def test_range_reads(commits: Commits, ranges: list[Range], snapshot: int) -> None:
    """Ranges that were read, empty or overlapping ones too, conflict exactly if a later commit wrote or cleared in one.

    The key named is in one of them, and the version is one that touched it.
    """
    found = filled(commits).written_in(ranges, snapshot)
    expected = {version for bounds in ranges for version in touched_range(commits, *bounds, snapshot)}
    assert (found is not None) == bool(expected)
    if found is not None:
        assert any(
            lower <= found[0] < upper and found[1] in touched_range(commits, lower, upper, snapshot)
            for lower, upper in ranges
        )


@given(COMMITS, st.integers(0, 25), st.integers(0, 8), st.integers(0, 30), KEYS, RANGES, st.integers(0, 26))
def test_forgetting_never_hides_a_conflict(
    commits: Commits, oldest: int, least: int, more: int, key: bytes, bounds: Range, snapshot: int
) -> None:
    """After forgetting, snapshots from the floor on are judged as before, and older ones always conflict.

    Nobody who is still kept for (snapshots from ``oldest`` on, with room for the keys) is refused needlessly.
    """
    window = filled(commits)
    most = least + more
    window.forget(oldest, least, most)
    written = sum(len(keys) + len(clears) for keys, clears in commits)
    if written <= most:
        assert window.floor <= oldest
    if written <= least:
        assert window.floor == 0
    for request, expected in (
        (reads(snapshot, keys=[key]), touched_key(commits, key, snapshot)),
        (reads(snapshot, ranges=[bounds]), touched_range(commits, *bounds, snapshot)),
    ):
        conflict = validate(request, window, 0)
        if snapshot >= max(oldest, window.floor):
            assert (conflict is not None) == bool(expected)
        elif snapshot < window.floor:
            assert conflict is not None
    kept = sum(len(keys) + len(clears) for version, (keys, clears) in enumerate(commits, 1) if version > window.floor)
    assert len(window) <= max(kept, 0)


@pytest.mark.long
@given(COMMITS, st.sets(st.integers(1, 25)), st.integers(0, 25), st.integers(0, 30), KEYS, RANGES, st.integers(0, 26))
def test_sweeps(
    commits: Commits, swept: set[int], oldest: int, most: int, key: bytes, bounds: Range, snapshot: int
) -> None:
    """What sweeps deleted conflicts only for who has read something that has expired since, also after forgetting."""
    window, everything, others, alive = ConflictWindow(0), Commits(), Commits(), set[bytes]()
    for version, (keys, clears) in enumerate(commits, 1):
        if version in swept:  # it deletes what is there
            everything.append((keys & alive, []))
            others.append((set(), []))
            alive -= keys
        else:
            everything.append((keys, clears))
            others.append((keys, clears))
            alive |= keys
        written, cleared = everything[-1]
        before = window.last_writes(sorted(written))
        for lower, upper in cleared:
            window.add_clear(version, lower, upper)
        window.add_writes(version, sorted(written))
        if version in swept:
            window.note_sweep(version, before)
    window.forget(oldest, 0, most)
    if snapshot < window.floor:
        return
    for valid_until_ms, counting in ((0, others), (1001, others), (1000, everything)):
        for request, expected in (
            (reads(snapshot, keys=[key]), touched_key(counting, key, snapshot)),
            (reads(snapshot, ranges=[bounds]), touched_range(counting, *bounds, snapshot)),
        ):
            conflict = validate(request._replace(valid_until_ms=valid_until_ms), window, 1000)
            assert (conflict is not None) == bool(expected)
            assert conflict is None or conflict.found_version in expected


def test_below_the_floor_reads_conflict() -> None:
    """What was read below the floor cannot be judged any more: it conflicts. Blind writes are not validated."""
    window = ConflictWindow(100)
    assert validate(reads(3, keys=[b"k"]), window, 0) == (b"k", 3, 100)
    assert validate(reads(3, ranges=[(b"a", b"b")]), window, 0) == (b"a", 3, 100)
    assert validate(reads(100, keys=[b"k"], ranges=[(b"a", b"b")]), window, 0) is None


def test_conflict_names_key_and_versions() -> None:
    """Key, the snapshot it was read at, and the version that changed it."""
    window = filled([({b"a0"}, []), ({b"b0"}, []), ({b"a0", b"b1"}, [])])
    assert validate(reads(1, keys=[b"b0", b"a0"]), window, 0) == (b"b0", 1, 2)
    assert validate(reads(2, keys=[b"b0", b"a0"]), window, 0) == (b"a0", 2, 3)
    assert validate(reads(2, ranges=[(b"b", b"c")]), window, 0) == (b"b1", 2, 3)
    assert validate(reads(3, keys=[b"a0", b"b0"], ranges=[(b"a", b"z")]), window, 0) is None


def test_empty_range_and_bounds() -> None:
    """The lower bound belongs to a range, the upper does not."""
    window = filled([({b"m"}, [])])
    assert window.written_in([(b"m", b"n")], 0) == (b"m", 1)
    assert window.written_in([(b"l", b"m")], 0) is None
    assert window.written_in([(b"m\0", b"z")], 0) is None


@pytest.mark.long
def test_many_ranges_of_one_commit() -> None:
    """A commit may clear as many ranges as it likes, and a transaction may read as many."""
    window = ConflictWindow(0)
    for number in range(50_000):
        window.add_clear(1, b"%06d" % (2 * number), b"%06d" % (2 * number + 1))
    assert window.written_since(b"050000", 0) == 1
    assert window.written_since(b"050001", 0) == 0
    assert window.written_in([(b"%06d" % (2 * n + 1), b"%06d" % (2 * n + 2)) for n in range(5000)], 0) is None
    assert window.written_in([(b"050001", b"050003")], 0) == (b"050002", 1)
    window.add_writes(2, [b"key"])
    window.forget(1, 0, 500_000)
    assert (window.floor, len(window)) == (1, 1)
    assert window.written_since(b"050000", 1) == 0

"""Who is told of a write: all that wait for it, and nobody else, whatever their number."""

from __future__ import annotations

import random
import time

import pytest

from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.coordinator.presence.waiters import KeyRange, Waiters
from shoal.primitives.keys import after


def written(*keys: bytes, clears: tuple[KeyRange, ...] = ()) -> ConflictWindow:
    window = ConflictWindow(0)
    window.add_writes(1, list(keys))
    for clear in clears:
        window.add_clear(1, *clear)
    return window


def test_keys_prefixes_and_other_ranges() -> None:
    """Each kind of range is found by a key in it, and not by one beside it; the first to come is the first told."""
    waiters = Waiters()
    waiters.add("range", [(b"a/10", b"a/17")])
    waiters.add("key", [(b"a/15", b"a/15\0")])
    waiters.add("prefix", [(b"a/1", b"a/2")])
    waiters.add("all", [(b"", b"\xff")])
    waiters.add("other", [(b"b", b"b\0"), (b"c", b"d")])
    assert waiters.touched(written(b"a/15"), 0) == ["range", "key", "prefix", "all"]
    assert waiters.touched(written(b"a/17"), 0) == ["prefix", "all"]
    assert waiters.touched(written(b"a/150"), 0) == ["range", "prefix", "all"]
    assert waiters.touched(written(b"a/2", b"b"), 0) == ["all", "other"]
    assert waiters.touched(written(b"cc"), 0) == ["all", "other"]
    assert waiters.touched(written(b"cc"), 1) == []


def test_cleared_ranges() -> None:
    """A range tombstone touches all that overlaps it."""
    waiters = Waiters()
    waiters.add("key", [(b"k5", b"k5\0")])
    waiters.add("prefix", [(b"k", b"l")])
    waiters.add("outside", [(b"l", b"m"), (b"j", b"j\0")])
    assert waiters.touched(written(clears=((b"k4", b"k6"),)), 0) == ["key", "prefix"]
    assert waiters.touched(written(clears=((b"k6", b"k7"),)), 0) == ["prefix"]


def test_what_is_forgotten_touches_all() -> None:
    """If the window has forgotten what was written since, nobody may be left asleep."""
    waiters = Waiters()
    waiters.add("key", [(b"k", b"k\0")])
    assert waiters.touched(ConflictWindow(7), 6) == ["key"]
    assert waiters.touched(ConflictWindow(7), 7) == []


def test_removal_leaves_nothing() -> None:
    """One that waits no longer is not told, and the indexes are as empty as before."""
    waiters = Waiters()
    waiters.add("one", [(b"k", b"k\0"), (b"k", b"l"), (b"a1", b"a7")])
    waiters.add("two", [(b"k", b"k\0")])
    waiters.remove("one")
    waiters.remove("nobody")
    assert waiters.touched(written(b"k", b"a3"), 0) == ["two"]
    waiters.remove("two")
    assert not waiters
    assert [waiters._by_key, waiters._by_prefix, waiters._lengths] == [{}, {}, {}]


def test_against_a_plain_search() -> None:
    """Random ranges and keys of few letters: the same as comparing every range with every key."""
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)

    def text() -> bytes:
        return bytes(rng.choice((0, 97, 98, 254, 255)) for _ in range(rng.randint(1, 4)))

    for _ in range(200):
        waiters, ranges = Waiters(), {}
        for name in range(rng.randint(0, 12)):
            bounds = sorted((text(), text()))
            choice = rng.random()
            if choice < 0.3:
                bounds = [bounds[0], bounds[0] + b"\0"]
            elif choice < 0.6 and bounds[0].rstrip(b"\xff"):
                bounds = [bounds[0], after(bounds[0])]
            if bounds[0] < bounds[1]:
                ranges[name] = (bounds[0], bounds[1])
                waiters.add(name, [ranges[name]])
        keys = [text() for _ in range(rng.randint(0, 4))]
        expected = [name for name, (lower, upper) in ranges.items() if any(lower <= key < upper for key in keys)]
        assert waiters.touched(written(*keys), 0) == expected, (ranges, keys)


@pytest.mark.parametrize("kind", ["keys", "prefixes"])
def test_many_waiters_cost_little(kind: str) -> None:
    """10,000 that wait for other keys: a commit looks up two or three entries and walks nothing."""
    waiters = Waiters()
    for i in range(10_000):
        key = b"run-%05d/k" % i
        waiters.add(i, [(key, key + b"\0") if kind == "keys" else (key, after(key))])
    window = written(b"run-x/other")
    begin_s = time.perf_counter()
    for _ in range(1_000):
        assert waiters.touched(window, 0) == []
    assert time.perf_counter() - begin_s < 0.5  # 1 us each; a walk over all would take a millisecond
    assert waiters.touched(written(b"run-00042/k"), 0) == [42]

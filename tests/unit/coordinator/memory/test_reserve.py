"""Commits that write less than they delete: how they are told, and the memory kept for deletes that they may use."""

from __future__ import annotations

import random
from typing import Any

import pytest

from shoal.coordinator.commit.apply import ClientSessions
from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.host import THIS_MACHINE
from shoal.coordinator.memory.check_report import check_segment
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.reserve import growth_bytes
from shoal.coordinator.memory.writer import Writer
from shoal.primitives.rules.registry import TABLE
from shoal.shm.limits import MIB
from shoal.shm.memory.layout import NODE_HEADER_WORDS, RECORD_HEADER_WORDS, words_for
from shoal.shm.memory.segment import Segment
from shoal.shm.wire.answer import COMMITTED, REFUSED, decode_answer
from shoal.shm.wire.frames import LENGTH_BYTES
from shoal.shm.wire.request import CommitSet, FlatWrites

_BYTES = 20_000  # two blocks
_FAR_MS = 2**50


class _Engine:
    """An engine over eight MiB, without a log."""

    def __init__(self) -> None:
        self.segment = Segment.create(8 * MIB, 12345)
        self.writer = Writer(self.segment)
        reclaimer, window = Reclaimer(self.writer, list), ConflictWindow(0)
        self._engine = CommitEngine(
            *(self.writer, reclaimer, window, None, THIS_MACHINE, 0, ClientSessions(), False, TABLE)
        )
        self._commit_id = 0

    def submit(self, writes: FlatWrites, clears: list[tuple[bytes, bytes]] | None = None) -> int:
        self._commit_id += 1
        request = CommitSet(self._commit_id, 0, 0, [], [], writes, clears or [], [], None, b"")
        _, status, _, _ = decode_answer(self._engine.submit(1, request)[LENGTH_BYTES:])
        self._engine.finish_group()
        return status

    def fill(self) -> list[bytes]:
        """Put values until the memory is full; the keys it has."""
        keys: list[bytes] = []
        while self.submit([b"%05d" % len(keys), bytes(_BYTES), 0]) == COMMITTED:
            keys.append(b"%05d" % len(keys))
        return keys

    def findings(self) -> list[Any]:
        return list(check_segment(self.segment, self._engine.published, self.writer))


def _live_bytes(state: dict[bytes, tuple[bytes, int]]) -> int:
    words = 0
    for key, (value, expires_ms) in state.items():
        words += NODE_HEADER_WORDS + words_for(len(key))
        words += RECORD_HEADER_WORDS + words_for(len(value)) + bool(expires_ms)
    return 8 * words


def test_growth_is_what_the_live_data_grow_by() -> None:
    """Over keys that are new, overwritten, deleted, absent or cleared, with and without a time to live."""
    engine, rng, state = _Engine(), random.Random(11), dict[bytes, tuple[bytes, int]]()
    for _ in range(500):
        writes: FlatWrites = []
        after = dict(state)
        for number in rng.sample(range(40), rng.randrange(1, 6)):
            key = b"k" * (number + 1)
            value = None if rng.random() < 0.4 else bytes(rng.randrange(300))
            expires_ms = rng.choice([0, _FAR_MS]) if value is not None else 0
            writes += [key, value, expires_ms]
            if value is None:
                after.pop(key, None)
            else:
                after[key] = value, expires_ms
        only_deletes = all(value is None for value in writes[1::3])
        expected = None if only_deletes else _live_bytes(after) - _live_bytes(state)
        assert growth_bytes(engine.writer, writes) == expected
        assert engine.submit(writes) == COMMITTED
        state = after
        if rng.random() < 0.1:
            assert engine.submit([], [(b"k" * 10, b"k" * 30)]) == COMMITTED
            state = {key: held for key, held in state.items() if not 10 <= len(key) < 30}


def test_what_a_commit_clears_counts() -> None:
    """Each key once, whether ranges overlap or a key is written as well; of a large range no more than there is."""
    engine = _Engine()
    writes: FlatWrites = [part for i in range(900) for part in (b"%04d" % i, bytes(i % 100), 0)]
    state = {key: (value, 0) for key, value in zip(writes[::3], writes[1::3], strict=True)}
    assert engine.submit(writes) == COMMITTED
    changes: FlatWrites = [b"0050", b"new", 0, b"0600", None, 0, b"0601", b"new", 0]
    after = {key: held for key, held in state.items() if not b"0040" <= key < b"0300"} | {b"0050": (b"new", 0)}
    after[b"0601"] = b"new", 0
    del after[b"0600"]
    clears = [(b"0040", b"0200"), (b"0100", b"0300")]
    assert growth_bytes(engine.writer, changes, clears) == _live_bytes(after) - _live_bytes(state)
    assert growth_bytes(engine.writer, [b"0050", None, 0], clears) is None
    assert engine.submit(changes, clears) == COMMITTED
    assert growth_bytes(engine.writer, changes, clears) == 0
    for start in range(0, 9_000, 900):
        assert engine.submit([part for i in range(900) for part in (b"n%04d" % (start + i), b"v", 0)]) == COMMITTED
    growth = growth_bytes(engine.writer, [b"key", b"value", 0], [(b"n", b"o")])
    assert growth is not None
    assert -9_000 * 8 * 10 < growth < -900 * 8


def test_in_full_memory_what_does_not_grow_goes_on() -> None:
    """A commit that deletes as much as it writes is done, again and again; one that adds is refused."""
    engine = _Engine()
    keys = engine.fill()
    for i in range(2 * len(keys)):
        new = b"%05d" % (len(keys) + i)
        assert engine.submit([keys[i % len(keys)], None, 0, new, bytes(_BYTES), 0]) == COMMITTED
        keys[i % len(keys)] = new
    assert engine.submit([b"new", bytes(2 * _BYTES), 0]) == REFUSED
    assert engine.findings() == []


@pytest.mark.long
def test_deletes_keep_half_of_the_memory_that_is_kept_for_them() -> None:
    """What such commits free lies scattered, and what they write needs whole blocks: they end before the deletes do."""
    engine = _Engine()
    small = [b"s%06d" % i for i in range(12_000)]
    for start in range(0, len(small), 100):
        assert engine.submit([part for key in small[start : start + 100] for part in (key, bytes(300), 0)]) == COMMITTED
    large = engine.fill()
    scattered = [key for start in range(100) for key in small[start::100]]
    heap = engine.writer.heap
    done = 0
    while True:
        gone = scattered[100 * done : 100 * (done + 1)]
        writes: FlatWrites = [part for key in gone for part in (key, None, 0)]
        writes += [b"w%06d" % done, bytes(_BYTES), 0]
        if engine.submit(writes) == REFUSED:
            break
        done += 1
    assert done > 0
    assert heap.free_blocks > heap.reserve_blocks // 2
    for key in [*large, *scattered[100 * done :], *(b"w%06d" % i for i in range(done))]:
        assert engine.submit([key, None, 0]) == COMMITTED
    assert engine.findings() == []

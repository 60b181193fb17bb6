"""Many keys written at once are as good as each by a commit of its own: same content, same indexes, sound memory."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest

from shoal.coordinator.memory.check_report import check_segment
from shoal.coordinator.memory.loading import KeyLoader, apply_versions
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.recovery.recover import apply_entries, load_keys
from shoal.coordinator.recovery.replay import publish
from shoal.shm.errors import StoreFullError
from shoal.shm.files.checkpoint import KeyBlock
from shoal.shm.limits import DEFAULT_LIMITS, MIB, Limits
from shoal.shm.memory.layout import W_HASH_MASK, W_KEYS
from shoal.shm.memory.reader import Reader
from shoal.shm.memory.segment import Segment

SMALL = Limits(leaf_entries=4, branch_entries=4, bucket_fill=4)
FAR_MS = 1 << 62
NEWEST = 1_000_000
# Beside the node, in an allocation of its own, in the largest size class, and in blocks of its own.
VALUE_BYTES = (0, 1, 7, 8, 20, 150, 300, 8_000, 8_200, 40_000)


class Memory:
    """An empty segment, and what is done to it."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS, size_bytes: int = 64 * MIB) -> None:
        self.segment = Segment.create(size_bytes, 99)
        self.writer = Writer(self.segment, limits)
        self.reclaimer = Reclaimer(self.writer, list)
        self.reader = Reader(self.segment, limits=limits)

    def content(self) -> list[Any]:
        return list(self.reader.scan(b"", None, NEWEST))

    def publish(self) -> None:
        publish(self.writer, self.reclaimer, NEWEST)

    def check(self) -> None:
        assert check_segment(self.segment, NEWEST, self.writer) == []


def flat_keys(rng: random.Random, count: int, sizes: tuple[int, ...] = VALUE_BYTES) -> list[Any]:
    """Keys in order, as a block of a checkpoint has them: key, value, version and expiry of each, flat."""
    keys = {rng.randbytes(rng.choice((1, 2, 9, 40, 300))) for _ in range(count)}
    flat: list[Any] = []
    for key in sorted(keys):
        size = rng.choice(sizes) if rng.random() < 0.1 else rng.randrange(30)
        flat += (key, rng.randbytes(size), rng.randrange(1, NEWEST), rng.choice((0, 0, FAR_MS)))
    return flat


def in_blocks(flat: list[Any], keys: int) -> list[KeyBlock]:
    return [KeyBlock(flat[at : at + 4 * keys]) for at in range(0, len(flat), 4 * keys)]


def _add_all(loader: KeyLoader, blocks: list[KeyBlock]) -> None:
    for block in blocks:
        loader.add(block.keys, block.values, block.expires_ms, block.versions)


@pytest.mark.parametrize("limits", [DEFAULT_LIMITS, SMALL], ids=["default", "small"])
@pytest.mark.parametrize("count", [0, 1, 5, 145, 2_000])
def test_a_checkpoint_is_loaded_as_by_commits(limits: Limits, count: int) -> None:
    """Keys, values, versions, expiry, counts and the size of the hash directory are those of one commit per key."""
    flat = flat_keys(random.Random(count), count)
    loaded, one_by_one = Memory(limits), Memory(limits)
    load_keys(iter(in_blocks(flat, 300)), NEWEST, loaded.writer, loaded.reclaimer)
    for block in in_blocks(flat, 300):
        apply_entries(block, one_by_one.writer)
    one_by_one.publish()
    assert loaded.content() == one_by_one.content()
    assert len(loaded.content()) == len(flat) // 4
    assert [loaded.reader.find(key, NEWEST) for key in flat[::4]] == [v for _, v in loaded.content()]
    assert loaded.segment.words[W_KEYS] == len(flat) // 4
    assert len(loaded.writer.expiry) == sum(map(bool, flat[3::4]))
    if limits is DEFAULT_LIMITS:
        assert loaded.segment.words[W_HASH_MASK] == one_by_one.segment.words[W_HASH_MASK]
    loaded.check()


def test_commits_go_on_after_a_load() -> None:
    """Loaded keys can be overwritten and deleted, and new ones stand among them."""
    rng = random.Random(7)
    flat = flat_keys(rng, 1_500)
    memory = Memory(SMALL)
    load_keys(iter(in_blocks(flat, 100)), 5, memory.writer, memory.reclaimer)
    model = dict(zip(flat[::4], flat[1::4], strict=True))
    for version in range(6, 1_000):
        key = rng.choice(flat[::4]) if rng.random() < 0.7 else rng.randbytes(3)
        value = None if rng.random() < 0.4 else rng.randbytes(rng.choice(VALUE_BYTES))
        write = [key, value, 0]
        memory.writer.apply(version, [], write, memory.writer.plan(write))
        publish(memory.writer, memory.reclaimer, version)
        model.pop(key, None)
        if value is not None:
            model[key] = value
    memory.publish()
    assert {key: found.value for key, found in memory.content()} == model
    memory.check()


@pytest.mark.long
def test_a_load_without_room_for_many_goes_on_one_by_one() -> None:
    """Whatever fits key by key is loaded: a plan for many keys at once asks for more room than they take."""
    rng = random.Random(11)
    one_by_one = Memory(size_bytes=8 * MIB)
    flat: list[Any] = []
    with contextlib.suppress(StoreFullError):
        for number in range(1_000_000):
            entry = [b"%08d" % number, rng.randbytes(rng.randrange(100)), 1, 0]
            apply_entries(KeyBlock(entry), one_by_one.writer)
            flat += entry
    many = KeyLoader(Memory(size_bytes=8 * MIB).writer)
    with pytest.raises(StoreFullError):  # else this would test nothing
        _add_all(many, in_blocks(flat, len(flat)))
    loaded = Memory(size_bytes=8 * MIB)
    load_keys(iter(in_blocks(flat, len(flat))), NEWEST, loaded.writer, loaded.reclaimer)
    assert [(key, found.value) for key, found in loaded.content()] == list(zip(flat[::4], flat[1::4], strict=True))
    loaded.check()


def test_what_has_no_room_leaves_nothing() -> None:
    """StoreFullError before the first write: neither a key nor an allocation is left of the batch."""
    memory = Memory(size_bytes=8 * MIB)
    load_keys(iter([KeyBlock([b"before", b"1", 1, 0])]), NEWEST, memory.writer, memory.reclaimer)
    used_words = memory.writer.heap.used_words
    writes: list[Any] = []
    for number in range(16):
        writes += (b"%d" % number, bytes(MIB), 0)
    with pytest.raises(StoreFullError):
        apply_versions(memory.writer, writes, [2] * 16)
    with pytest.raises(StoreFullError):
        KeyLoader(memory.writer).add(writes[::3], writes[1::3], writes[2::3], [2] * 16)
    memory.publish()
    assert [key for key, _ in memory.content()] == [b"before"]
    assert memory.writer.heap.used_words == used_words
    memory.check()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(6))
def test_versions_of_many_commits_at_once(seed: int) -> None:
    """New keys, overwrites of every size, deletes and expiry, in batches: content and memory are those of commits."""
    rng = random.Random(seed)
    keys = [rng.randbytes(rng.choice((1, 3, 200))) for _ in range(150)]
    together, apart = Memory(SMALL), Memory(SMALL)
    version = 0
    for _ in range(60):
        writes: list[Any] = []
        versions: list[int] = []
        for key in rng.sample(sorted(set(keys)), rng.randrange(1, 40)):
            version += rng.randrange(1, 3)
            value = None if rng.random() < 0.3 else rng.randbytes(rng.choice(VALUE_BYTES))
            writes += (key, value, 0 if value is None else rng.choice((0, 0, FAR_MS)))
            versions.append(version)
        apply_versions(together.writer, writes, versions)
        publish(together.writer, together.reclaimer, version)
        for i, each in enumerate(versions):
            write = writes[3 * i : 3 * i + 3]
            apart.writer.apply(each, [], write, apart.writer.plan(write))
            publish(apart.writer, apart.reclaimer, each)
        assert together.content() == apart.content(), f"seed {seed}"
        assert together.writer.keys == apart.writer.keys
    for memory in (together, apart):
        memory.publish()
        memory.check()


def test_a_record_is_written_over_one_of_its_size() -> None:
    """An overwrite that takes as many words needs no memory and leaves nothing to reclaim; any other does."""
    memory = Memory()
    apply_versions(memory.writer, [b"key", b"x" * 20, 0], [1])
    publish(memory.writer, memory.reclaimer, 1)
    used_words = memory.writer.heap.used_words
    apply_versions(memory.writer, [b"key", b"y" * 24, 0], [2])
    assert memory.writer.heap.used_words == used_words
    assert not memory.writer.garbage
    apply_versions(memory.writer, [b"key", b"z" * 25, 0], [3])
    assert memory.writer.heap.used_words > used_words
    memory.publish()
    assert [(key, found.value, found.version) for key, found in memory.content()] == [(b"key", b"z" * 25, 3)]
    memory.check()

"""What a reader in C must do as one in plain Python: end at every damaged reference, and when its segment is closed."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from shoal.shm.errors import CorruptionError, SnapshotExpiredError
from shoal.shm.key_location_cache import KeyLocationCache
from shoal.shm.limits import BUCKET_ENTRIES
from shoal.shm.memory.layout import (
    DIRECTORY_WORD,
    INDEX_ENTRIES,
    RECORD_META,
    RECORD_PREVIOUS,
    W_HASH_MASK,
    W_HORIZON,
    W_ORDER_ROOT,
    W_PUBLISHED,
    W_RANGE_TOMBSTONES,
)
from shoal.shm.memory.reader import Reader
from shoal.shm.memory.record import find_node, visible_record
from shoal.shm.memory.segment import Segment
from tests.support.stores.segment_store import Store

KEYS = [b"key %d" % number for number in range(300)]
# References behind the end. With a few words added, the last ones would lead to the start if numbers wrapped around.
OUTSIDE = [2**40, 2**61, 2**63 - 1, 2**63, 2**64 - 256, 2**64 - 3, 2**64 - 2, 2**64 - 1]


def _place(words: memoryview, name: str, node: int) -> int:
    leaf = words[words[words[W_ORDER_ROOT] + INDEX_ENTRIES] + INDEX_ENTRIES]
    return {
        "bucket": DIRECTORY_WORD,
        "node": node,
        "previous record": words[node] + RECORD_PREVIOUS,
        "root": W_ORDER_ROOT,
        "branch": words[W_ORDER_ROOT] + INDEX_ENTRIES,
        "leaf": words[words[W_ORDER_ROOT] + INDEX_ENTRIES] + INDEX_ENTRIES,
        "node of a leaf": leaf + INDEX_ENTRIES,
    }[name]


@pytest.mark.parametrize("reference", OUTSIDE)
@pytest.mark.parametrize(
    "place", ["bucket", "node", "previous record", "root", "branch", "leaf", "node of a leaf", "entry of a bucket"]
)
def test_references_outside_are_damage(place: str, reference: int) -> None:
    """Each reference behind the end is CorruptionError, however large: in find, in a scan, and by name."""
    store = Store()
    store.commit({KEYS[0]: b"1"})
    store.pinned.append(1)
    store.commit({KEYS[0]: b"2", KEYS[1]: b"3"})
    words = store.segment.words
    node = store.writer.hash_index.find(KEYS[0])
    if place == "entry of a bucket":
        bucket = words[DIRECTORY_WORD]
        for at in range(BUCKET_ENTRIES):
            words[bucket + at] = reference
    else:
        words[_place(words, place, node)] = reference
    snapshot = 1 if place == "previous record" else store.version
    reads: list[Callable[[], Any]] = [lambda: list(store.reader.scan(KEYS[0], None, snapshot))]
    if "leaf" not in place and place not in ("root", "branch"):
        reads = [lambda: store.reader.find(KEYS[0], snapshot)]
        if snapshot != 1:
            reads.append(lambda: store.reader.get_named(KeyLocationCache(b""), KEYS[0].decode()))
            # The first call begins an epoch, the next uses the cache.
            place_kept = KeyLocationCache(b"")
            place_kept.state = (store.writer.epoch_words[0], {})
            reads.append(lambda: store.reader.get_named(place_kept, KEYS[0].decode()))
    for read in reads:
        with pytest.raises(CorruptionError):
            read()


@pytest.mark.parametrize("reference", OUTSIDE)
def test_a_rule_alone_says_index_error(reference: int) -> None:
    """Called alone, the rules of records raise IndexError for a reference behind the end, and nothing else."""
    store = Store()
    store.commit({KEYS[0]: b"1"})
    words = store.segment.words
    with pytest.raises(IndexError):
        visible_record(words, reference, store.version, 0)
    words[DIRECTORY_WORD] = reference
    with pytest.raises(IndexError):
        find_node(words, store.segment.mm, 12345, KEYS[0])


def test_any_word_may_be_damaged() -> None:
    """Whatever stands in header, directory, buckets, index, nodes and records, a read ends with what it documents."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(30):
        store = Store()
        store.commit({key: b"v" * rng.choice([1, 300]) for key in KEYS})
        store.pinned.append(1)
        store.commit({rng.choice(KEYS): rng.choice([b"new", None])}, [(KEYS[3], KEYS[5])])
        words = store.segment.words
        nodes = [store.writer.hash_index.find(key) for key in KEYS]
        index = [W_ORDER_ROOT, words[W_ORDER_ROOT], words[W_ORDER_ROOT] + INDEX_ENTRIES]
        index += range(words[index[-1]], words[index[-1]] + 20)
        header = [W_HASH_MASK, W_RANGE_TOMBSTONES, W_HORIZON, W_PUBLISHED, DIRECTORY_WORD, *index]
        targets = [*header, *nodes, *(words[node] + RECORD_META for node in nodes), *(node + 1 for node in nodes)]
        for word in rng.sample(targets, rng.choice([1, 3, 30])):
            words[word] = rng.choice([0, 1, *rng.sample(nodes, 3), len(words) - 1, len(words), *OUTSIDE])
        _read_all(store, rng)


def _read_all(store: Store, rng: random.Random) -> None:
    words = store.segment.words
    reader, place = Reader(store.segment, store.writer.epoch_words), KeyLocationCache(b"")
    for key in rng.sample(KEYS, 60):
        _ends(reader.find, key, store.version)
        if words[W_HORIZON] <= words[W_PUBLISHED]:  # else it reads again, for ever
            _ends(reader.get_named, place, key.decode())
    for version in (1, store.version):
        _ends(lambda at: list(reader.scan(b"", None, at)), version)


def _ends(read: Callable[..., Any], *arguments: Any) -> None:
    with suppress(CorruptionError, SnapshotExpiredError):
        read(*arguments)


class TestClosed:
    """A segment that is unmapped while its reader is still there."""

    def test_later_reads_are_value_errors(self) -> None:
        """Every read of a closed reader is ValueError; a scan under way ends with it, too; by name, ``moved`` reads."""
        store = Store()
        store.commit(dict.fromkeys(KEYS, b"v"))
        segment = Segment.attach(store.segment.read_only_fd())
        asked: list[str] = []

        def moved(_place: KeyLocationCache, name: str) -> bytes:
            asked.append(name)
            return b"elsewhere"

        place = KeyLocationCache(b"")
        reader = Reader(segment, store.writer.epoch_words, moved)
        for _ in range(2):
            assert reader.get_named(place, KEYS[0].decode()) == b"v"
        under_way = reader.scan(b"", None, store.version)
        next(under_way)
        reader.close()
        segment.close()
        with pytest.raises(ValueError, match="closed"):
            segment.mm[0:8]  # it is unmapped at once, whatever refers to the reader
        with pytest.raises(ValueError, match=r"released|closed"):
            reader.words[0]
        for read in (
            lambda: reader.find(KEYS[0], store.version),
            lambda: reader.find_latest(KEYS[0]),
            lambda: list(reader.scan(b"", None, store.version)),
            lambda: list(under_way),
            lambda: reader.verify(store.version),
        ):
            with pytest.raises(ValueError, match=r"released|closed"):
                read()
        assert reader.get_named(place, "key 1") == b"elsewhere"
        assert asked == ["key 1"]
        store.segment.close_descriptor()

"""The walk through a bucket: what is there is found, what is not is not, and damage is an error of its own.

Keys equal to bytes of the header are what a removed mark would be taken for, which is 1: the header as a node.
"""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.shm import limits
from shoal.shm.errors import CorruptionError, SnapshotExpiredError
from shoal.shm.key_location_cache import KeyLocationCache
from shoal.shm.limits import Limits
from shoal.shm.memory import layout
from shoal.shm.memory.layout import (
    DIRECTORY_WORD,
    LENGTH_MASK,
    NODE_KEY_LENGTH,
    RECORD_META,
    RECORD_PREVIOUS,
    REMOVED,
    W_GENERATION,
    W_HORIZON,
)
from shoal.shm.memory.reader import Reader
from shoal.shm.memory.record import find_node
from tests.support.present import present
from tests.support.stores.segment_store import Store

_MARK_KEY = REMOVED * 8 + layout.NODE_HEADER_WORDS * 8  # where the key would begin if the mark were a node


def _crafted(store: Store) -> bytes:
    """The key that the header seems to have as the node of a removed mark: its length is the generation."""
    return store.segment.mm[_MARK_KEY : _MARK_KEY + store.segment.words[W_GENERATION]]


def _marks(store: Store) -> int:
    words = store.segment.words
    bucket = words[DIRECTORY_WORD]
    return words[bucket : bucket + limits.BUCKET_ENTRIES].tolist().count(REMOVED)


def test_a_removed_mark_is_no_node() -> None:
    """Of keys made of header bytes, past marks of every position, none is found that is not there."""
    store = Store()
    for start in range(0, 100, 20):
        store.commit({b"gone %d" % number: b"1" for number in range(start, start + 20)})
        store.commit({b"gone %d" % number: None for number in range(start, start + 20)})
        store.commit({b"other": b"1"})
        store.reclaim_all()
    assert _marks(store) >= 90
    for generation in range(1, 300):
        store.segment.words[W_GENERATION] = generation
        key = _crafted(store)
        assert find_node(store.segment.words, store.segment.mm, 12345, key) == 0
        assert store.reader.find(key, store.version) is None


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40)), max_size=60), st.sampled_from([4, 12, 144]))
@settings(max_examples=present(settings.default).max_examples // 2, suppress_health_check=list(HealthCheck))
def test_reader_and_writer_find_the_same(steps: list[tuple[int, int]], fill: int) -> None:
    """Keys come and go, crafted ones too: index and readers find what a dict has, in small buckets and large ones."""
    store = Store(bounds=Limits(bucket_fill=fill))
    model: dict[bytes, bytes] = {}
    all_keys = {b"key %d" % number for number in range(31)}
    for number, generation in steps:
        store.segment.words[W_GENERATION] = generation
        crafted = _crafted(store) if generation else b"key 0"
        key = crafted if number == 30 else b"key %d" % number
        all_keys |= {key, crafted}
        value = None if key in model else b"%d" % store.version
        store.commit({key: value})
        store.reclaim_all()
        if value is None:
            del model[key]
        else:
            model[key] = value
        reader = Reader(store.segment)
        for each in all_keys:
            node = store.writer.hash_index.find(each)
            assert node == find_node(store.segment.words, store.segment.mm, 12345, each)
            assert node != REMOVED
            found = reader.find(each, store.version)
            assert (found.value if found else None) == model.get(each)
            assert bool(node) >= (each in model)
            if each.isascii():
                assert store.value(each) == model.get(each)


def _peak(read: Any) -> int:
    """Bytes of memory that ``read`` took, whatever it raised of what is documented."""
    tracemalloc.start()
    try:
        read()
    except (CorruptionError, SnapshotExpiredError):
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize("length", [48 << 20, LENGTH_MASK, 1 << 40, 2**64 - 1])
def test_an_impossible_length_takes_no_memory(length: int) -> None:
    """The length in a node, or in a record, may be anything in reused memory: so many bytes are never copied."""
    store = Store(128 * limits.MIB)
    store.commit({b"key": b"value"})
    words, place = store.segment.words, KeyLocationCache(b"")
    for _ in range(2):
        assert store.reader.get_named(place, "key") == b"value"
    node = store.writer.hash_index.find(b"key")
    entry = next(i for i in range(words[DIRECTORY_WORD], len(words)) if words[i] == node)
    reads = (
        lambda: store.reader.find(b"key", 1),
        lambda: store.reader.get_named(place, "key"),
        lambda: store.reader.get_named(KeyLocationCache(b""), "key"),
        lambda: list(store.reader.scan(b"", None, 1)),
    )
    elsewhere = DIRECTORY_WORD + 1000  # near the beginning of the segment: there is enough behind it to be copied
    words[elsewhere], words[elsewhere + NODE_KEY_LENGTH] = words[node], length
    record = elsewhere + 100
    words[record], words[record + RECORD_META] = 1, length
    for word, stale in ((entry, elsewhere), (node, record)):
        sound, words[word] = words[word], stale
        for read in reads:
            assert _peak(read) < limits.MIB
        words[word] = sound
    assert store.value(b"key") == b"value"


def test_a_bucket_without_an_end() -> None:
    """A walk ends after one round, as damage."""
    store = Store()
    store.commit({b"key": b"value"})
    words = store.segment.words
    for i in range(limits.BUCKET_ENTRIES):
        words[words[DIRECTORY_WORD] + i] = REMOVED
    for key in (b"key", b"other"):
        with pytest.raises(CorruptionError, match="without an end"):
            store.reader.find(key, store.version)
    words[W_HORIZON] = 9
    with pytest.raises(SnapshotExpiredError):
        store.reader.find(b"key", store.version)


def test_a_chain_in_a_circle() -> None:
    """A chain of versions that comes back to itself is damage, not an endless walk."""
    store = Store()
    store.commit({b"key": b"v" * 500})
    store.pinned.append(1)
    store.commit({b"key": b"w" * 500})
    words = store.segment.words
    record = words[store.writer.hash_index.find(b"key")]
    words[record + RECORD_PREVIOUS] = record
    with pytest.raises(CorruptionError, match="do not fall"):
        store.reader.find(b"key", 1)


@pytest.mark.parametrize("versions", [63, 64, 65, 127, 128, 129, 192])
def test_a_long_chain(versions: int) -> None:
    """A key that has been written often since a snapshot is absent to it, however long the walk to its end is."""
    store = Store()
    store.pinned.append(0)
    for _ in range(versions):
        store.commit({b"key": b"v" * 500})
    assert store.reader.find(b"key", 0) is None
    assert store.reader.find(b"key", 1) == (b"v" * 500, 1, 0)


@pytest.mark.long
@given(st.integers(0, 2**32))
@settings(max_examples=present(settings.default).max_examples)
def test_garbage(seed: int) -> None:
    """With words of buckets, nodes and records overwritten, every read gives something or a documented error."""
    rng = random.Random(seed)
    store, place = Store(), KeyLocationCache(b"")
    keys = [b"key %d" % number for number in range(40)]
    store.commit({key: b"v" * rng.choice([1, 300]) for key in keys})
    store.pinned.append(1)
    for _ in range(3):
        store.commit({rng.choice(keys): rng.choice([b"new", None])})
    words = store.segment.words
    nodes = [store.writer.hash_index.find(key) for key in keys]
    records = [words[node] for node in nodes]
    targets = [*nodes, *records, *(word + 1 for word in nodes + records), *(record + 2 for record in records)]
    targets += range(words[DIRECTORY_WORD], words[DIRECTORY_WORD] + limits.BUCKET_ENTRIES)
    sources = [0, 1, 2, *nodes, *records, DIRECTORY_WORD, len(words) - 1, len(words), 2**48, 2**63, 2**64 - 1]
    for word in rng.sample(targets, rng.choice([1, 5, 50])):
        words[word] = rng.choice([*sources, rng.randrange(len(words)), rng.randrange(2**64)])

    def read_all() -> None:
        reader = Reader(store.segment, store.writer.epoch_words)
        read: Any
        for read in (
            *(lambda key=key: reader.find(key, rng.choice([1, store.version])) for key in keys),
            *(lambda key=key: reader.get_named(place, key.decode()) for key in keys),
            *(lambda version=version: list(reader.scan(b"", None, version)) for version in (1, store.version)),
        ):
            try:
                read()
            except (CorruptionError, SnapshotExpiredError):
                continue

    assert _peak(read_all) < 64 * limits.MIB

"""Nodes and records: read as they were written, and visible by one rule, whose naive form is a list of versions."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.shm.errors import CorruptionError, SnapshotExpiredError
from shoal.shm.limits import MAX_ENCODED_VALUE_BYTES, MIB
from shoal.shm.memory import layout
from shoal.shm.memory.layout import NODE_HEADER_WORDS, RECORD_META, RECORD_PREVIOUS, W_HORIZON, words_for
from shoal.shm.memory.record import (
    NEWEST,
    is_beside,
    is_cleared,
    node_key,
    value_at,
    visible_record,
    write_node,
    write_record,
)
from shoal.shm.memory.segment import Segment
from shoal.shm.operation import VersionedValue
from tests.support.present import present

NODE, FIRST = 10_000, 10_100  # references of the key's node, and of its oldest record
RECORD_WORDS = 50  # apart
KEY = b"a key of 23 bytes, odd."
NOW_MS = 1_000
# Value (None deletes) and expiry of a version.
VERSIONS = st.lists(
    st.tuples(st.one_of(st.none(), st.binary(max_size=40)), st.sampled_from([0, NOW_MS - 1, NOW_MS, NOW_MS + 1])),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def segment() -> Iterator[Segment]:
    made = Segment.create(8 * MIB, 1)
    yield made
    os.close(made._fd)


def _write_key(segment: Segment, versions: list[tuple[bytes | None, int]]) -> None:
    """Write a key with these versions: 10, 20 and so on."""
    record = 0
    for at, (value, expires_ms) in enumerate(versions):
        previous, record = record, FIRST + at * RECORD_WORDS
        write_record(segment.mm, record, 10 * (at + 1), previous, value, expires_ms if value is not None else 0)
    write_node(segment.mm, NODE, KEY, record)


@given(VERSIONS, st.sampled_from(range(0, 75, 5)), st.sampled_from(range(0, 75, 5)))
@settings(max_examples=present(settings.default).max_examples, suppress_health_check=list(HealthCheck))
def test_what_is_visible(
    segment: Segment, versions: list[tuple[bytes | None, int]], snapshot: int, cleared_at: int
) -> None:
    """The newest version up to the snapshot, unless it deletes, was cleared by a newer version, or has expired."""
    _write_key(segment, versions)
    expected = None
    for at, (value, expires_ms) in enumerate(versions):
        version = 10 * (at + 1)
        if version <= snapshot:
            gone = version < cleared_at or 0 < expires_ms <= NOW_MS
            expected = None if value is None or gone else VersionedValue(value, version, expires_ms)
    record = visible_record(segment.words, NODE, snapshot, cleared_at, NOW_MS)
    found = value_at(segment.words, segment.mm, record, snapshot) if record else None
    assert found == expected
    assert type(found) is type(expected)
    assert node_key(segment, NODE) == KEY
    assert is_cleared(segment.words, NODE, cleared_at) == (10 * len(versions) < cleared_at)
    newest = visible_record(segment.words, NODE, NEWEST, 0, at_ms=0)
    assert newest == (0 if versions[-1][0] is None else FIRST + (len(versions) - 1) * RECORD_WORDS)


def test_the_clock_decides_where_no_time_is_given(segment: Segment) -> None:
    """Without a time of reading, a record that expired long ago is absent and one that expires far ahead is there."""
    for expires_ms, there in ((1, False), (1 << 62, True)):
        _write_key(segment, [(b"v", expires_ms)])
        assert bool(visible_record(segment.words, NODE, 10, 0)) == there


def test_beside_its_node(segment: Segment) -> None:
    """A record is beside its node if it follows the key and the allocation reaches beyond the key; only then."""
    node_words = NODE_HEADER_WORDS + words_for(len(KEY))
    _write_key(segment, [(b"v", 0)])
    for record, allocated, beside in (
        (NODE + node_words, node_words + 4, True),
        (NODE + node_words, node_words, False),  # the next allocation begins where the node's ends
        (NODE + node_words + 1, node_words + 4, False),
        (FIRST, node_words + 4, False),
        (NODE - 4, node_words + 4, False),
    ):
        assert is_beside(segment.words, NODE, record, allocated) == beside


def test_an_impossible_length_is_never_copied(segment: Segment) -> None:
    """A length beyond all values is CorruptionError, or SnapshotExpiredError once the horizon has passed."""
    words = segment.words
    _write_key(segment, [(b"v", 0)])
    words[FIRST + RECORD_META] = MAX_ENCODED_VALUE_BYTES + 1
    with pytest.raises(CorruptionError, match="a value of"):
        value_at(words, segment.mm, FIRST, 10)
    words[W_HORIZON] = 11
    try:
        with pytest.raises(SnapshotExpiredError):
            value_at(words, segment.mm, FIRST, 10)
    finally:
        words[W_HORIZON] = 0


def test_a_chain_that_does_not_fall(segment: Segment) -> None:
    """A walk along records that lead in a circle ends, as damage or, behind the horizon, as an expired snapshot."""
    words = segment.words
    _write_key(segment, [(b"v", 0), (b"w", 0), (b"x", 0)])
    words[FIRST + RECORD_PREVIOUS] = FIRST + 2 * RECORD_WORDS
    with pytest.raises(CorruptionError, match="do not fall"):
        visible_record(words, NODE, 5, 0)
    words[W_HORIZON] = 6
    try:
        with pytest.raises(SnapshotExpiredError):
            visible_record(words, NODE, 5, 0)
    finally:
        words[W_HORIZON] = 0
    assert visible_record(words, NODE, 20, 0) == FIRST + RECORD_WORDS


def test_the_layout_has_no_holes() -> None:
    """Header words are all different and inside the header; rows of range tombstones fill a block with its header."""
    header = [value for name, value in vars(layout).items() if name.startswith("W_")]
    assert len(header) == len(set(header))
    assert max(header) < layout.DIRECTORY_WORD
    assert layout.TOMBSTONE_CHUNK_HEADER_WORDS == 2

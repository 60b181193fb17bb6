"""A request: what a client sends to the coordinator, as bytes.

    request      8 bytes    commit id: each of a client is higher than the one before
                 8 bytes    snapshot version the reads were made at
                 8 bytes    time from which on the commit is void, as something read has expired; ms since the epoch;
                            0: never
                 4 bytes    length of the reads
                 reads      msgpack [[key, ...], [[lower, upper], ...]], empty if nothing was read
                 mutations  msgpack [writes, clears, operations, control]
                              writes      [key, value or nil (delete), expires_ms (0: never), key, ...] flat
                              clears      [lower, upper, lower, ...] flat, done before the writes
                              operations  [[name, arguments], ...], the first argument a key
                              control     nil or [name, arguments]: a control request, which commits nothing

The log keeps the mutations as they were sent (their bytes are copied, not packed again), so their form is durable:
``coordinator.log.format`` has its version.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Container, Iterator
from typing import Any, NamedTuple

import msgpack

from shoal.shm import codec
from shoal.shm.errors import LimitExceededError
from shoal.shm.limits import (
    ADVICE_FOR_COMMITS,
    MAX_COMMIT_BYTES,
    MAX_ENCODED_VALUE_BYTES,
    MAX_ENGINE_KEY_BYTES,
    MAX_TIME_MS,
    MIB,
)
from shoal.shm.wire.frames import LENGTH_BYTES, FrameError

try:
    import cython
except ModuleNotFoundError:
    from shoal.shm import cython_shim as cython  # type: ignore[no-redef]

if cython.compiled:
    from cython.cimports.commit_set import usual_mutations, usual_request
    from cython.cimports.frame_bytes import framed_request as framed

_HEADER = struct.Struct("<QQQI")
_FRAMED_HEADER = struct.Struct("<IQQQI")  # with the frame's length in front
HEADER_BYTES = _HEADER.size

NO_READS = b""

# CommitSet(...) without its Python frame takes 0.4 us less.
_new_tuple = tuple.__new__

_SMALL_BYTES = 1 * MIB
_MOST_LISTS = 1 << 20  # a commit of events has a list per event, and 660,000 events at most


# key, value (None deletes), expires_ms, key, ...: as msgpack returns it. An object per write would take 0.3 us each.
FlatWrites = list[Any]


class CommitSet(NamedTuple):
    """A decoded request."""

    commit_id: int
    snapshot: int
    valid_until_ms: int
    keys_read: list[bytes]
    ranges_read: list[tuple[bytes, bytes]]
    writes: FlatWrites
    clears: list[tuple[bytes, bytes]]
    operations: list[tuple[str, list[Any]]]
    control: tuple[str, list[Any]] | None
    mutations: bytes


def encode_reads(keys: list[bytes], ranges: list[tuple[bytes, bytes]]) -> bytes:
    """The reads part of a request."""
    return codec.pack([keys, ranges]) if keys or ranges else NO_READS


def encode_mutations(
    writes: list[Any],
    clears: list[bytes] | None = None,
    operations: list[Any] | None = None,
    control: tuple[str, list[Any]] | None = None,
) -> bytes:
    """The mutations part of a request; ``writes`` and ``clears`` flat."""
    return codec.pack([writes, clears, operations, control])


def encode_request(commit_id: int, snapshot: int, valid_until_ms: int, reads: bytes, mutations: bytes) -> bytes:
    """A whole request."""
    return framed_request(commit_id, snapshot, valid_until_ms, reads, mutations)[LENGTH_BYTES:]


def framed_request(commit_id: int, snapshot: int, valid_until_ms: int, reads: bytes, mutations: bytes) -> bytes:
    """A whole request, framed."""
    if cython.compiled:
        return framed(commit_id, snapshot, valid_until_ms, reads, mutations)
    length, reads_bytes = HEADER_BYTES + len(reads) + len(mutations), len(reads)
    return _FRAMED_HEADER.pack(length, commit_id, snapshot, valid_until_ms, reads_bytes) + reads + mutations


def check_size(size_bytes: int) -> None:
    """LimitExceededError for reads or mutations that are larger than those of any commit."""
    if size_bytes > MAX_COMMIT_BYTES:
        raise LimitExceededError("size of the commit in bytes", MAX_COMMIT_BYTES, size_bytes, ADVICE_FOR_COMMITS)


def decode_request(message: bytes, known: Container[str]) -> CommitSet:
    """The request in ``message``, with every part checked; FrameError for anything that no client sends.

    ``known`` holds the names of all operations. Compiled, the usual form is parsed in one walk: 0.6 us in place of 1.8.
    """
    try:
        if cython.compiled:
            usual = usual_request(message, MAX_ENGINE_KEY_BYTES, MAX_ENCODED_VALUE_BYTES, _SMALL_BYTES)
            if usual is not None:
                _check_known(usual[7], known)
                return _new_tuple(CommitSet, usual)
        commit_id, snapshot, valid_until_ms, reads_bytes = _HEADER.unpack_from(message)
        keys_read: list[bytes] = []
        ranges_read: list[tuple[bytes, bytes]] = []
        if reads_bytes:  # a blind write, the hot path, has none
            keys_read, ranges = _unpack(message[HEADER_BYTES : HEADER_BYTES + reads_bytes])
            if type(keys_read) is not list or type(ranges) is not list:
                raise ValueError("what was read is not keys and ranges")
            _check_keys(keys_read)
            ranges_read = [_range(lower, upper) for lower, upper in ranges]
        mutations = message[HEADER_BYTES + reads_bytes :]
        writes, clears, operations, control = decode_mutations(mutations)
        if operations:
            _check_known(operations, known)
    except (ValueError, TypeError, struct.error, IndexError, KeyError) as error:
        raise FrameError(f"not a commit set: {error}") from error
    parts = (
        commit_id,
        snapshot,
        valid_until_ms,
        keys_read,
        ranges_read,
        writes,
        clears,
        operations,
        control,
        mutations,
    )
    return _new_tuple(CommitSet, parts)


def decode_mutations(
    mutations: bytes,
) -> tuple[FlatWrites, list[tuple[bytes, bytes]], list[tuple[str, list[Any]]], tuple[str, list[Any]] | None]:
    """Writes, clears, operations and control request; ValueError or TypeError for a wrong form."""
    if cython.compiled:
        usual = usual_mutations(mutations, MAX_ENGINE_KEY_BYTES, MAX_ENCODED_VALUE_BYTES, _SMALL_BYTES)
        if usual is not None:
            return usual
    parts: tuple[Any, Any, Any, Any] = _unpack(mutations)
    writes, flat_clears, operations, control = parts
    check_writes(writes)
    clears = []
    if flat_clears:
        clears = [_range(flat_clears[i], flat_clears[i + 1]) for i in range(0, len(flat_clears), 2)]
    if operations:
        for name, arguments in operations:
            if type(name) is not str or type(arguments) is not list or not arguments:
                raise ValueError("not an operation")
            _check_key(arguments[0])
    if control is not None and not (type(control) is list and len(control) == 2 and type(control[0]) is str):
        raise ValueError("an unknown control request")
    asked = None if control is None else (control[0], control[1])
    return writes, clears, list(operations or ()), asked


def _check_known(operations: list[Any], known: Container[str]) -> None:
    for name, _ in operations:
        if name not in known:
            raise ValueError("an unknown operation")


def _unpack(raw: bytes) -> Any:
    """Decode msgpack. One byte may become an empty list of 64 bytes, so the lists of a large message are counted."""
    if len(raw) <= _SMALL_BYTES:
        return codec.unpackb(raw)
    lists = itertools.count(1)

    def take_list(items: list[Any]) -> list[Any]:
        if next(lists) > _MOST_LISTS:
            raise ValueError(f"more than {_MOST_LISTS:,} lists")
        return items

    def take_map(_: Any) -> None:
        raise ValueError("a map, which no request has")

    return msgpack.unpackb(raw, list_hook=take_list, object_hook=take_map)


def check_writes(writes: Any) -> None:
    """ValueError unless the segment can hold these writes, which are applied without another check."""
    if type(writes) is not list or len(writes) % 3:
        raise ValueError("writes are not whole")
    for at in range(0, len(writes), 3):
        key, value, expires_ms = writes[at], writes[at + 1], writes[at + 2]
        if type(key) is not bytes or not 0 < len(key) <= MAX_ENGINE_KEY_BYTES:
            raise ValueError("a key is not 1 to 4,096 bytes")
        if value is not None and (type(value) is not bytes or len(value) > MAX_ENCODED_VALUE_BYTES):
            raise ValueError("a value is not bytes within the limit")
        if type(expires_ms) is not int or not 0 <= expires_ms <= MAX_TIME_MS:
            raise ValueError("an expiry is not a time")
    if len(writes) > 3 and len(set(writes[::3])) * 3 != len(writes):
        raise ValueError("a key is written twice")


def triples(writes: FlatWrites) -> Iterator[tuple[bytes, bytes | None, int]]:
    """Key, value and expiry of each write."""
    parts = iter(writes)
    return zip(parts, parts, parts, strict=False)  # one iterator: it ends for all three at once


def _check_keys(keys: Any) -> None:
    for key in keys:
        _check_key(key)


def _check_key(key: Any) -> None:
    if type(key) is not bytes or not 0 < len(key) <= MAX_ENGINE_KEY_BYTES:
        raise ValueError("a key is not 1 to 4,096 bytes")


def _range(lower: Any, upper: Any) -> tuple[bytes, bytes]:
    if type(lower) is not bytes or type(upper) is not bytes:
        raise ValueError("a range is not two keys")
    if len(lower) > MAX_ENGINE_KEY_BYTES or len(upper) > MAX_ENGINE_KEY_BYTES:
        raise ValueError("a range's key is too long")
    return lower, upper

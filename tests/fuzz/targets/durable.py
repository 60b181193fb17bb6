"""What lies in a store directory: log files, checkpoints, store.json, the epoch word."""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from pathlib import Path
from typing import Any

from xxhash import xxh3_64_intdigest

from shoal.coordinator.log import format as wal_format
from shoal.coordinator.log.format import FileHead
from shoal.coordinator.memory.check_report import check_segment
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.recovery.recover import recover
from shoal.shm import codec, limits
from shoal.shm.errors import ConfigurationError, CorruptionError, StoreFullError
from shoal.shm.files import checkpoint, epoch_file, store_files
from shoal.shm.files.epoch_file import EpochWord
from shoal.shm.files.store_files import StoreMeta
from shoal.shm.memory.layout import EPOCH_BITS
from shoal.shm.memory.reader import Reader
from shoal.shm.memory.segment import Segment
from shoal.shm.wire import answer as wire_answer
from shoal.shm.wire import request as wire_request
from tests.fuzz.target import encoded, part, parts_of, script, target, word
from tests.support.stores.damaged import MemoryStorage

_SCRATCH = Path(tempfile.gettempdir()) / f"shoal-fuzz-{os.getuid()}-{os.getpid()}"
_CHECKPOINT_BLOCK = struct.Struct("<QIIQ")
_OLD_KEY = b"\7default\7default\7default\1r\1k"  # of formats 1 and 2


def _mutations(i: int) -> bytes:
    return wire_request.encode_mutations([b"\1t\1a\1g\1r\1k%d" % i, codec.encode(i), 0])


def _wal_seeds() -> list[bytes]:
    records = [[0, 7, i, _mutations(i), b""] for i in range(1, 4)]
    decided = codec.pack([[b"\1t\1a\1g\1r\1n", codec.encode(5), 0], [5]])
    operations = wire_request.encode_mutations([])
    clear = wire_request.encode_mutations([], [b"\1t", b"\1u"])
    return [
        script(1, records),
        script(1, records, b""),
        script(1, [*records, [0, 8, 1, operations, decided], [0, 8, 2, clear, b""]]),
        log_file(records),
        log_file(records)[:-9],
        log_file(records, store_id=bytes(range(16))),
        log_file([[0, 7, 1, wire_request.encode_mutations([_OLD_KEY, codec.encode(1), 0]), b""]], format_version=2),
        script(1, records, b"", 2),
    ]


def log_file(
    records: list[Any],
    first_version: int = 1,
    store_id: bytes | None = None,
    format_version: int = wal_format.FORMAT_VERSION,
) -> bytes:
    """A log file whose checksums fit, whatever is in its records: [synced, client, commit id, mutations, decided]."""
    data = wal_format.encode_file_head(FileHead(1, first_version, 0, 0, store_id, format_version))
    for i, record in enumerate(records):
        if type(record) is not list:
            record = [0, 0, 0, record]
        mutations, decided = (encoded(record[k]) if k < len(record) else b"" for k in (3, 4))
        data += wal_format.encode_record(
            first_version + i, word(record, 0), 0, word(record, 1), word(record, 2), mutations, decided
        )
    return data


@target(_wal_seeds)
def log(data: bytes) -> None:
    """A log recovers to a sound segment, or is CorruptionError; also one whose checksums fit what shoal never wrote."""
    parts = parts_of(data)
    raw = data
    if parts is not None:
        store_id = bytes(16) if len(parts) > 2 else None
        raw = log_file(part(parts, 1, list, []), 1, store_id, 2 if len(parts) > 3 else wal_format.FORMAT_VERSION)
    wal_format.decode_file_head(raw)
    wal_format.find_record(raw, 0)
    _recovers({"wal-000000000001.log": raw})


def _says_what_is_wrong(error: CorruptionError) -> None:
    assert error.file
    assert error.expected
    assert error.found
    assert len(str(error)) < 1000


def _recovers(files: dict[str, bytes]) -> None:
    segment = Segment.create(limits.MIN_STORE_BYTES, 1)
    writer = Writer(segment)
    try:
        found = recover(MemoryStorage(files), writer, Reclaimer(writer, list))
    except CorruptionError as error:
        _says_what_is_wrong(error)
    except StoreFullError:
        pass
    else:
        assert check_segment(segment, found.version, writer) == []
        for key, entry in Reader(segment).scan(b"", None, found.version):
            assert type(key) is type(entry.value) is bytes
        for client_id, outcome in found.sessions.items():
            wire_answer.encode_answer(client_id, wire_answer.COMMITTED, outcome[1], outcome[2])
    finally:
        segment.close_descriptor()


def _checkpoint_seeds() -> list[bytes]:
    entries = [b"\1t\1a\1g\1r\1a", codec.encode(1), 3, 0, b"\1t\1a\1g\1r\1b", b"\xc0", 5, 2**60]
    sessions = [[7, 1, 5, []], [8, 3, 4, [1, None]]]
    blocks = [[1, [9, 1_700_000_000_000]], [2, entries], [3, [2, sessions]]]
    named = [[1, [9, 1_700_000_000_000, bytes(range(16))]], *blocks[1:]]
    old = [named[0], [2, [*entries, _OLD_KEY, codec.encode(1), 3, 0]], [3, [3, sessions]]]
    return [
        script(blocks, b""),
        script(named, b""),
        script([[1, [9, 0]], [2, []], [3, [0, []]]], b""),
        checkpoint_file(blocks),
        checkpoint_file(old, 2),
        script(old, b"", 1),
    ]


def checkpoint_file(blocks: list[Any], format_version: int = checkpoint.FORMAT_VERSION) -> bytes:
    """A checkpoint whose checksums are right, whatever is in its blocks: [kind, content]."""
    data = b""
    for block in blocks:
        if type(block) is not list:
            block = [2, block]
        kind = word(block, 0) % 2**32
        content = encoded(block[1]) if len(block) > 1 else b""
        digest = xxh3_64_intdigest(struct.pack("<II", kind, len(content)) + content)
        data += _CHECKPOINT_BLOCK.pack(checkpoint._MAGICS[format_version - 1], kind, len(content), digest) + content
    return data


@target(_checkpoint_seeds)
def checkpoints(data: bytes) -> None:
    """A checkpoint is read whole, or is CorruptionError; also one whose checksums fit what shoal never wrote."""
    parts = parts_of(data)
    raw = data
    if parts is not None:
        format_version = word(parts, 2) % 3 + 1 if len(parts) > 2 else checkpoint.FORMAT_VERSION
        raw = checkpoint_file(part(parts, 0, list, []), format_version) + encoded(part(parts, 1, bytes, b""))
    _recovers({checkpoint.file_name(9): raw})


def _json_seeds() -> list[bytes]:
    def file(**fields: Any) -> bytes:
        import json

        return json.dumps({"format": 1, "durability": "buffered", "max_bytes": 8 << 20} | fields).encode()

    return [
        *(
            file(),
            file(durability="strict"),
            file(format=2),
            file(format=2, store_id="0f" * 16),
            file(format=3, store_id="0f" * 16),
            file(format=4),
            file(max_bytes=10**400),
            file(durability=None),
        ),
        *(file(max_bytes=1.5), file(format=True), b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"9" * 10_000, b""),
    ]


@target(_json_seeds)
def store_json(data: bytes) -> None:
    """``store.json`` says how a store can be served, or is CorruptionError or ConfigurationError."""
    _SCRATCH.mkdir(exist_ok=True)
    (_SCRATCH / store_files.META_FILE).write_bytes(data)
    try:
        meta = store_files.read_meta(_SCRATCH)
    except CorruptionError as error:
        _says_what_is_wrong(error)
        return
    except ConfigurationError:
        return
    assert meta is not None
    assert meta.durability in store_files.DURABILITIES
    assert type(meta.max_bytes) is int
    store_files.check_max_bytes(meta.max_bytes)
    store_files.write_meta(_SCRATCH, meta)
    assert store_files.read_meta(_SCRATCH) == StoreMeta(*meta)


def _epoch_seeds() -> list[bytes]:
    words = (0, 1 << 40, (1 << 40) - 1, 2**64 - 1, (2**24 - 1) << 40, (2**24 - 2) << 40)
    return [struct.pack("<Q", value) + bytes(4088) for value in words] + [b"", b"\1", bytes(8192)]


@target(_epoch_seeds)
def epoch(data: bytes) -> None:
    """The epoch file has a generation the next coordinator can raise, or is CorruptionError, on either side.

    An empty one counts as not there for those that read.
    """
    _SCRATCH.mkdir(exist_ok=True)
    path = _SCRATCH / epoch_file.EPOCH_FILE
    path.write_bytes(data)
    with contextlib.suppress(CorruptionError, *(() if data else (FileNotFoundError,))):
        assert EpochWord(_SCRATCH, writable=False).generation >= 0
    try:
        word_ = EpochWord(_SCRATCH, writable=True)
    except CorruptionError:
        return
    word_.words[0] = word_.generation + 1 << EPOCH_BITS  # as a coordinator does when it begins to serve
    word_.words[0] += 1
    assert EpochWord(_SCRATCH, writable=False).generation == word_.generation

"""Every byte of the write-ahead log: names of files, their heads, records, and what was decided for a commit.

Durable: a change comes with a new FORMAT_VERSION. Nothing outside this file packs or parses these bytes.

    file head (72 bytes)                          record (56 bytes and the body, padded with zeros to 8)
      0  8  magic "shoalwal"                        0  4  magic "swal"
      8  8  format version                          4  4  length of the body in bytes
     16  8  number of the file                      8  8  xxh3-64 of bytes 16.. and the body, xor bytes 0..7
     24  8  first commit version in it             16  8  commit version
     32  8  version known to be on disk            24  8  version known to be on disk when this was written
     40  8  boot id of the machine                 32  8  boot id of the machine
     48 16  id of the store                        40  8  client id, 0 (COORDINATOR) for commits of the coordinator
     64  8  xxh3-64 of bytes 0..63                 48  8  commit id of that client, 0 in a mark of a clean close
                                                   56     body

    body of a record
      0  4  length of the mutations in bytes
      4     mutations as the client sent them (wire.request); those of an empty commit if operations decided everything
            what was decided: nothing if no operation was, else msgpack of
              [writes, results]                      one commit; results of its operations in order
              [[], [status, details]]                a pipelined commit that changed nothing: its answer
              [writes, [], outcomes]                 a batch; outcomes [[client id, commit id, results], ...]
            writes  [key, value or nil, expires_ms, key, ...] flat, as in the mutations

Formats 1 and 2 have keys as ``shm.files.old_keys`` says, which are renamed when they are read. Format 1 has no id of
the store: its file head is 56 bytes, with the checksum at 48. All else is the same.

Records stand at multiples of 8. Versions follow each other without gaps, over files too. Two fields tell a torn tail
from damage. A record that says "up to version V is on disk" proves that everything up to V was whole once. And within
one boot the page cache outlives every process, so nothing can be torn before a whole record of the same boot.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NamedTuple

from shoal.shm import codec
from shoal.shm.files.old_keys import renamed
from shoal.shm.wire import request as wire_request
from shoal.shm.wire.request import FlatWrites

try:
    import cython
except ModuleNotFoundError:
    from shoal.shm import cython_shim as cython  # type: ignore[no-redef]

if cython.compiled:
    from cython.cimports.log_record import log_record, whole_record
    from cython.cimports.xxh3 import xxh3_64_intdigest
else:
    from xxhash import xxh3_64_intdigest

FORMAT_VERSION = 3
COORDINATOR = 0  # the client id of commits that the coordinator makes itself
CLOSE_MARK = 0  # the commit id of a mark of a clean close
ALIGNMENT_BYTES = 8  # of records in a file
FORMAT_WITHOUT_ID = 1
_NEWEST_WITH_OLD_KEYS = 2
_FILE_MAGIC = int.from_bytes(b"shoalwal", "little")
_RECORD_MAGIC_BYTES = b"swal"
_RECORD_MAGIC = int.from_bytes(_RECORD_MAGIC_BYTES, "little")
_NAME_PREFIX, _NAME_SUFFIX = "wal-", ".log"

_FILE_HEAD = struct.Struct("<QQQQQQ16s")
_FILE_HEAD_WITHOUT_ID = struct.Struct("<QQQQQQ")
_CHECKSUM_BYTES = 8
FILE_HEAD_BYTES = _FILE_HEAD.size + _CHECKSUM_BYTES
_FILE_HEAD_WITHOUT_ID_BYTES = _FILE_HEAD_WITHOUT_ID.size + _CHECKSUM_BYTES
FORMAT_OFFSET, NUMBER_OFFSET, FIRST_VERSION_OFFSET, STORE_ID_OFFSET = 8, 16, 24, 48  # in a file's head

_RECORD_HEAD = struct.Struct("<IIQQQQQQ")
RECORD_HEAD_BYTES = _RECORD_HEAD.size
_RECORD_START = struct.Struct("<IIQQQQQQI")  # the head, and the length of the mutations
_CHECKSUM = struct.Struct("<QQ")  # magic and length of the body, checksum
_CHECKED = struct.Struct("<QQQQQI")  # the fields that the checksum covers, and the length of the mutations
_CHECKED_FROM = _CHECKSUM.size
_FIELD_BYTES = RECORD_HEAD_BYTES - _CHECKED_FROM
_MUTATIONS_LENGTH = struct.Struct("<I")
_MUTATIONS_LENGTH_BYTES = _MUTATIONS_LENGTH.size
_PADDING = tuple(bytes(-n & 7) for n in range(8))
# A record takes at most so many bytes beside its mutations and what was decided; a mark of a clean close has neither.
RECORD_OVERHEAD_BYTES = RECORD_HEAD_BYTES + 16
CLOSE_MARK_BYTES = RECORD_OVERHEAD_BYTES

# A named tuple without its Python frame: recovery makes two for each logged commit.
_new_tuple = tuple.__new__

# What the client of a commit is told: client id, commit id, results of its operations.
Outcome = tuple[int, int, list[Any]]


class FileHead(NamedTuple):
    """What a log file says of itself. ``store_id`` is None in format 1, and a head without one is of format 1.

    The reader knows all formats; the writer makes the newest.
    """

    number: int
    first_version: int
    synced_version: int
    boot_id: int
    store_id: bytes | None = None
    format_version: int = FORMAT_VERSION

    @property
    def size_bytes(self) -> int:
        """How long the head is in the file."""
        return _FILE_HEAD_WITHOUT_ID_BYTES if self.store_id is None else FILE_HEAD_BYTES

    def proves(self, version: int, boot_id: int) -> bool:
        """Whether ``version`` must have been whole before this was written, seen in boot ``boot_id``."""
        return self.synced_version >= version or (self.first_version > version and self.boot_id == boot_id != 0)


class LogRecord(NamedTuple):
    """A record of the log: one commit, or a mark of a clean close."""

    version: int
    synced_version: int
    boot_id: int
    client_id: int
    commit_id: int
    mutations: bytes
    decided: bytes  # empty if no operation was decided, else as ``encode_decided`` or ``encode_batch`` made it

    def proves(self, version: int, boot_id: int) -> bool:
        """Whether ``version`` must have been whole before this was written, seen in boot ``boot_id``."""
        return self.synced_version >= version or (self.version >= version and self.boot_id == boot_id != 0)

    @property
    def is_close_mark(self) -> bool:
        """Whether this only says that the log was closed in order."""
        return self.client_id == COORDINATOR and self.commit_id == CLOSE_MARK


class Decided(NamedTuple):
    """What operations were decided to write and to answer."""

    writes: FlatWrites
    results: list[Any]  # of the one commit; empty for a batch
    outcomes: list[Outcome]  # of a batch, one for each client; empty for one commit


class LoggedCommit(NamedTuple):
    """What a record says was done."""

    version: int
    client_id: int
    writes: FlatWrites
    clears: list[tuple[bytes, bytes]]
    outcomes: list[Outcome]  # of every client that has a part in it; none for a commit of the coordinator
    body_bytes: int


def file_name(number: int) -> str:
    """The name of a log file."""
    return f"{_NAME_PREFIX}{number:012}{_NAME_SUFFIX}"


def file_number(name: str) -> int | None:
    """The number in a log file's name, None for any other name."""
    digits = name[len(_NAME_PREFIX) : -len(_NAME_SUFFIX)]
    if digits.isascii() and digits.isdecimal() and name == file_name(int(digits)):
        return int(digits)
    return None


def boot_id() -> int:
    """A number that changes with every boot; 0 where the system has no such thing."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        return 0
    return int(text.strip().replace("-", "")[:16], 16)


def encode_file_head(head: FileHead) -> bytes:
    """The first bytes of a log file."""
    if head.store_id is None:
        raw = _FILE_HEAD_WITHOUT_ID.pack(_FILE_MAGIC, FORMAT_WITHOUT_ID, *head[:-2])
    else:
        raw = _FILE_HEAD.pack(_FILE_MAGIC, head.format_version, *head[:-1])
    return raw + xxh3_64_intdigest(raw).to_bytes(_CHECKSUM_BYTES, "little")


def decode_file_head(data: bytes) -> FileHead | None:
    """The head of a log file, None if it is not whole."""
    version = int.from_bytes(data[FORMAT_OFFSET:NUMBER_OFFSET], "little")
    head = _FILE_HEAD_WITHOUT_ID if version == FORMAT_WITHOUT_ID else _FILE_HEAD
    if not FORMAT_WITHOUT_ID <= version <= FORMAT_VERSION or len(data) < head.size + _CHECKSUM_BYTES:
        return None
    raw = data[: head.size]
    if xxh3_64_intdigest(raw).to_bytes(_CHECKSUM_BYTES, "little") != data[head.size : head.size + _CHECKSUM_BYTES]:
        return None
    magic, _, *fields = head.unpack(raw)
    return FileHead(*fields)._replace(format_version=version) if magic == _FILE_MAGIC else None


def records_begin(head: FileHead | None, data: bytes) -> int:
    """Where the first record of a log file stands: behind its head, or where it would if the head is not whole."""
    if head is not None:
        return head.size_bytes
    of_format_1 = decode_record(data, _FILE_HEAD_WITHOUT_ID_BYTES) is not None
    return _FILE_HEAD_WITHOUT_ID_BYTES if of_format_1 else FILE_HEAD_BYTES


def encode_record(
    version: int, synced_version: int, boot_id: int, client_id: int, commit_id: int, mutations: bytes, decided: bytes
) -> bytes:
    """A record as it stands in the file, padding included."""
    if cython.compiled:
        return log_record(_RECORD_MAGIC, version, synced_version, boot_id, client_id, commit_id, mutations, decided)
    checked = b"".join(
        (
            _CHECKED.pack(version, synced_version, boot_id, client_id, commit_id, len(mutations)),
            mutations,
            decided,
        )
    )
    head = _RECORD_MAGIC | len(checked) - _FIELD_BYTES << 32
    return _CHECKSUM.pack(head, xxh3_64_intdigest(checked) ^ head) + checked + _PADDING[len(checked) & 7]


def decode_record(data: bytes, offset: int) -> tuple[LogRecord, int] | None:
    """The whole record at ``offset`` and where the next would begin; None if there is none."""
    if cython.compiled:
        fields = whole_record(data, offset, _RECORD_MAGIC)
        if fields is None:
            return None
        length = _MUTATIONS_LENGTH_BYTES + len(fields[5]) + len(fields[6])
        return _new_tuple(LogRecord, fields), _padded(offset + RECORD_HEAD_BYTES + length)
    start = offset + _RECORD_START.size
    if start > len(data):
        return None
    magic, body_length, checksum, version, synced_version, boot, client_id, commit_id, mutations_length = (
        _RECORD_START.unpack_from(data, offset)
    )
    end = offset + RECORD_HEAD_BYTES + body_length
    if magic != _RECORD_MAGIC or end > len(data) or body_length < _MUTATIONS_LENGTH_BYTES:
        return None
    if xxh3_64_intdigest(data[offset + _CHECKED_FROM : end]) ^ (magic | body_length << 32) != checksum:
        return None
    split = start + mutations_length
    if split > end:
        return None
    parts = (version, synced_version, boot, client_id, commit_id, data[start:split], data[split:end])
    return _new_tuple(LogRecord, parts), _padded(end)


def record_bytes(record: LogRecord) -> int:
    """How long a record is in the file, without its padding."""
    return RECORD_HEAD_BYTES + _MUTATIONS_LENGTH_BYTES + len(record.mutations) + len(record.decided)


def stated_end(data: bytes, offset: int) -> int | None:
    """Where the next record begins, by the length in the record at ``offset``, whole or not; None if none is there."""
    if offset + RECORD_HEAD_BYTES > len(data) or not data.startswith(_RECORD_MAGIC_BYTES, offset):
        return None
    return _padded(offset + RECORD_HEAD_BYTES + int.from_bytes(data[offset + 4 : offset + 8], "little"))


def find_record(data: bytes, offset: int) -> tuple[LogRecord, int] | None:
    """The first whole record at or after ``offset``, and its place."""
    while True:
        offset = data.find(_RECORD_MAGIC_BYTES, offset)
        if offset < 0:
            return None
        found = decode_record(data, offset) if offset % ALIGNMENT_BYTES == 0 else None
        if found is not None:
            return found[0], offset
        offset += 1


def encode_decided(writes: FlatWrites, results: list[Any]) -> bytes:
    """What the operations of one commit were decided to write and to answer."""
    return codec.pack([writes, results])


def encode_batch(writes: FlatWrites, outcomes: list[Outcome]) -> bytes:
    """What the operations of a batch were decided to write together, and what each client is told."""
    return codec.pack([writes, [], outcomes])


def decode_decided(decided: bytes) -> Decided:
    """What operations were decided; ValueError, TypeError or OverflowError for what ``encode_*`` never makes."""
    writes, results, *batches = codec.decode(decided)
    wire_request.check_writes(writes)
    outcomes = [outcome for batch in batches for outcome in batch]
    if type(results) is not list or not all(_is_outcome(outcome) for outcome in outcomes):
        raise ValueError("outcomes are not client, commit and results")
    return Decided(writes, results, [(client_id, commit_id, each) for client_id, commit_id, each in outcomes])


def decode_commit(record: LogRecord, format_version: int = FORMAT_VERSION) -> LoggedCommit:
    """The commit in a record whose checksum is right and which is not a mark of a clean close, with keys of today.

    ValueError, TypeError, LookupError or OverflowError if shoal never writes such a record.
    """
    version, _, _, client_id, commit_id, mutations, decided = record
    writes, clears, _, _ = wire_request.decode_mutations(mutations)
    outcomes: list[Outcome] = []
    results: list[Any] = []
    if decided:
        more_writes, results, outcomes = decode_decided(decided)
        writes = writes + more_writes
    if client_id != COORDINATOR:
        outcomes = [(client_id, commit_id, results), *outcomes]
    if format_version <= _NEWEST_WITH_OLD_KEYS:
        writes[::3] = [renamed(key) for key in writes[::3]]
        clears = [(renamed(lower), renamed(upper)) for lower, upper in clears]
    body_bytes = len(mutations) + len(decided)
    return _new_tuple(LoggedCommit, (version, client_id, writes, clears, outcomes, body_bytes))


def _padded(end: int) -> int:
    return end + (-end & ALIGNMENT_BYTES - 1)


def _is_outcome(outcome: Any) -> bool:
    return (
        type(outcome) is list
        and [type(part) for part in outcome] == [int, int, list]
        and all(0 <= number < 1 << 64 for number in outcome[:2])
    )

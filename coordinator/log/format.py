"""A record of the write-ahead log, and the head of its files. Durable: changes come with a new FORMAT_VERSION.

    file head (72 bytes)                          record (56 bytes and the body, padded to 8)
      0  8  magic "shoalwal"                        0  4  magic "swal"
      8  8  format version                          4  4  length of the body in bytes
     16  8  number of the file                      8  8  xxh3-64 of bytes 16.. and the body, xor bytes 0..7
     24  8  first commit version in it             16  8  commit version
     32  8  version known to be on disk            24  8  version known to be on disk when this was written
     40  8  boot id of the machine, 8 bytes        32  8  boot id of the machine, 8 bytes
     48 16  id of the store                        40  8  client id, 0 the coordinator itself
     64  8  xxh3-64 of bytes 0..63                 48  8  commit id of that client, 0 a mark of a clean close
                                                   56     body: 4 bytes length of the mutations, the mutations as the
                                                          client sent them (wire.request), msgpack [writes, results]
                                                          of the operations if there were any

Format 1 has no id of the store: its file head is 56 bytes, with the checksum at 48. Records are the same in both.

Versions follow each other without gaps, over files too. Two fields tell a torn tail from damage: a record that says
"up to version V is on disk" proves that everything up to V was whole once; and within one boot the page cache outlives
every process, so nothing can be torn before a whole record.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

FORMAT_VERSION = 2
_FORMAT_WITHOUT_ID = 1
FILE_MAGIC = int.from_bytes(b"shoalwal", "little")
RECORD_MAGIC = int.from_bytes(b"swal", "little")

_FILE_HEAD = struct.Struct("<QQQQQQ16s")
_FILE_HEAD_WITHOUT_ID = struct.Struct("<QQQQQQ")
_CHECKSUM_BYTES = 8
FILE_HEAD_BYTES = _FILE_HEAD.size + _CHECKSUM_BYTES
_FILE_HEAD_WITHOUT_ID_BYTES = _FILE_HEAD_WITHOUT_ID.size + _CHECKSUM_BYTES
FORMAT_OFFSET, NUMBER_OFFSET, FIRST_VERSION_OFFSET, STORE_ID_OFFSET = 8, 16, 24, 48  # in a file's head
_RECORD_HEAD = struct.Struct("<IIQQQQQQ")
RECORD_HEAD_BYTES = _RECORD_HEAD.size
_CHECKSUM = struct.Struct("<QQ")
_CHECKED = struct.Struct("<QQQQQI")
_FIELD_BYTES = 40
_PADDING = tuple(bytes(-n & 7) for n in range(8))
_MUTATIONS_LENGTH = struct.Struct("<I")
_MAGIC_BYTES = b"swal"


class FileHead(NamedTuple):
    """What a log file says of itself. ``store_id`` is None in format 1, and a head without one is of format 1."""

    number: int
    first_version: int
    synced_version: int
    boot_id: int
    store_id: bytes | None = None

    @property
    def size_bytes(self) -> int:
        """How long the head is in the file."""
        return _FILE_HEAD_WITHOUT_ID_BYTES if self.store_id is None else FILE_HEAD_BYTES

    def proves(self, version: int, boot_id: int) -> bool:
        """Whether ``version`` must have been whole before this was written, seen in boot ``boot_id``."""
        return self.synced_version >= version or (self.first_version > version and self.boot_id == boot_id != 0)


class Record(NamedTuple):
    """One commit in the log."""

    version: int
    synced_version: int
    boot_id: int
    client_id: int
    commit_id: int
    mutations: bytes
    # msgpack [writes, results], of joined commits [writes, [], [[client id, commit id, results], …]]; empty without
    # operations
    decided: bytes

    def proves(self, version: int, boot_id: int) -> bool:
        """Whether ``version`` must have been whole before this was written, seen in boot ``boot_id``."""
        return self.synced_version >= version or (self.version >= version and self.boot_id == boot_id != 0)

    @property
    def is_close_mark(self) -> bool:
        """Whether this only says that the log was closed in order."""
        return self.client_id == 0 and self.commit_id == 0


def file_name(number: int) -> str:
    """The name of a log file."""
    return f"wal-{number:012}.log"


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
        raw = _FILE_HEAD_WITHOUT_ID.pack(FILE_MAGIC, _FORMAT_WITHOUT_ID, *head[:-1])
    else:
        raw = _FILE_HEAD.pack(FILE_MAGIC, FORMAT_VERSION, *head)
    return raw + xxh3_64_intdigest(raw).to_bytes(_CHECKSUM_BYTES, "little")


def decode_file_head(data: bytes) -> FileHead | None:
    """The head of a log file, None if it is not whole."""
    version = int.from_bytes(data[FORMAT_OFFSET:NUMBER_OFFSET], "little")
    head = _FILE_HEAD_WITHOUT_ID if version == _FORMAT_WITHOUT_ID else _FILE_HEAD
    if version not in (_FORMAT_WITHOUT_ID, FORMAT_VERSION) or len(data) < head.size + _CHECKSUM_BYTES:
        return None
    raw = data[: head.size]
    if xxh3_64_intdigest(raw).to_bytes(_CHECKSUM_BYTES, "little") != data[head.size : head.size + _CHECKSUM_BYTES]:
        return None
    magic, _, *fields = head.unpack(raw)
    return FileHead(*fields) if magic == FILE_MAGIC else None


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
    checked = b"".join(
        (
            _CHECKED.pack(version, synced_version, boot_id, client_id, commit_id, len(mutations)),
            mutations,
            decided,
        )
    )
    head = RECORD_MAGIC | len(checked) - _FIELD_BYTES << 32
    return _CHECKSUM.pack(head, xxh3_64_intdigest(checked) ^ head) + checked + _PADDING[len(checked) & 7]


def decode_record(data: bytes, offset: int) -> tuple[Record, int] | None:
    """The whole record at ``offset`` and where the next would begin; None if there is none."""
    if offset + RECORD_HEAD_BYTES > len(data):
        return None
    magic, body_length, checksum, version, synced_version, boot, client_id, commit_id = _RECORD_HEAD.unpack_from(
        data, offset
    )
    end = offset + RECORD_HEAD_BYTES + body_length
    if magic != RECORD_MAGIC or end > len(data) or body_length < _MUTATIONS_LENGTH.size:
        return None
    head = magic | body_length << 32
    if xxh3_64_intdigest(data[offset + 16 : end]) ^ head != checksum:
        return None
    start = offset + RECORD_HEAD_BYTES
    (mutations_length,) = _MUTATIONS_LENGTH.unpack_from(data, start)
    split = start + _MUTATIONS_LENGTH.size + mutations_length
    if split > end:
        return None
    mutations = data[start + _MUTATIONS_LENGTH.size : split]
    record = Record(version, synced_version, boot, client_id, commit_id, mutations, data[split:end])
    return record, end + (-end & 7)


def record_bytes(record: Record) -> int:
    """How long a record is in the file, without what pads it."""
    return RECORD_HEAD_BYTES + _MUTATIONS_LENGTH.size + len(record.mutations) + len(record.decided)


def stated_end(data: bytes, offset: int) -> int | None:
    """Where the record at ``offset``, whole or not, says that the next begins; None if nothing there looks like one."""
    if offset + RECORD_HEAD_BYTES > len(data) or not data.startswith(_MAGIC_BYTES, offset):
        return None
    end = offset + RECORD_HEAD_BYTES + int.from_bytes(data[offset + 4 : offset + 8], "little")
    return end + (-end & 7)


def find_record(data: bytes, offset: int) -> tuple[Record, int] | None:
    """The first whole record at or after ``offset`` and its place; records stand at multiples of 8."""
    while True:
        offset = data.find(_MAGIC_BYTES, offset)
        if offset < 0:
            return None
        found = decode_record(data, offset) if offset % 8 == 0 else None
        if found is not None:
            return found[0], offset
        offset += 1

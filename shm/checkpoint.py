"""A checkpoint: every live key at one commit version, in a sequential, checksummed file. A backup is the same.

    file      block, block, ...
    block     8 bytes  magic "shoalck" and the format version
              4 bytes  kind: HEAD, KEYS or END
              4 bytes  length of the content in bytes
              8 bytes  xxh3-64 of kind, length and content
              content  msgpack
                       HEAD  [commit version, created, ms since the epoch]
                       KEYS  [key, value, commit version, expires_ms, key, ...] flat, keys ascending
                       END   [number of keys, [[client id, commit id, version, results], ...]]

It is written by a reader that holds a snapshot, so commits go on meanwhile; under another name, then renamed: a file
by the right name is whole, or it was damaged since.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from xxhash import xxh3_64_intdigest

from shoal.shm import clock, codec
from shoal.shm.errors import CorruptionError
from shoal.shm.limits import CHECKPOINT_BLOCK_BYTES
from shoal.shm.reader import Reader
from shoal.shm.storage import DiskStorage, private_file, raise_if_full

FORMAT_VERSION = 1
_MAGIC = int.from_bytes(b"shoalck", "little") | FORMAT_VERSION << 56
_BLOCK = struct.Struct("<QIIQ")
_CHECKED = struct.Struct("<II")
HEAD, KEYS, END = 1, 2, 3
_PREFIX, _SUFFIX = "checkpoint-", ".ckpt"

# One client's last commit: client id, commit id, version, results.
Remembered = list[Any]


class Entry(NamedTuple):
    """One live key."""

    key: bytes
    value: bytes
    version: int
    expires_ms: int


def file_name(version: int) -> str:
    """The name of the checkpoint at ``version``."""
    return f"{_PREFIX}{version:020}{_SUFFIX}"


def version_of(name: str) -> int | None:
    """The version in a checkpoint's file name, None for any other name."""
    if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
        return int(name[len(_PREFIX) : -len(_SUFFIX)])
    return None


def write_checkpoint(directory: Path, reader: Reader, version: int, remembered: list[Remembered]) -> int:
    """Write all keys live at ``version``, which the caller has pinned, and return how many there were.

    Raises ``SnapshotExpiredError`` if the snapshot is revoked and ``StoreFullError`` if the disk is full; in either
    case, and after a kill, nothing but a file of another name is left.
    """
    final = directory / file_name(version)
    temporary = directory / f"{final.name}.new"
    fd = private_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        with os.fdopen(fd, "wb", buffering=CHECKPOINT_BLOCK_BYTES) as out:
            out.write(_block(HEAD, [version, clock.now_ms()]))
            keys = 0
            flat: list[Any] = []
            size = 0
            for key, found in reader.scan(b"", None, version):
                flat += (key, found.value, found.version, found.expires_ms)
                size += len(key) + len(found.value) + 24
                keys += 1
                if size >= CHECKPOINT_BLOCK_BYTES:
                    out.write(_block(KEYS, flat))
                    flat, size = [], 0
            out.write(_block(KEYS, flat) + _block(END, [keys, remembered]))
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise_if_full(error, f"the checkpoint {temporary}")
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    os.replace(temporary, final)
    DiskStorage(directory).sync_directory()
    return keys


class CheckpointReader:
    """A checkpoint file, verified block by block as it is read."""

    def __init__(self, name: str, data: bytes) -> None:
        self._name = name
        self._data = data
        self.version = 0
        self.remembered: list[Remembered] = []

    def entries(self) -> Iterator[list[Entry]]:
        """All keys, a block at a time; ``version`` is set before the first, ``remembered`` after the last."""
        offset, keys, kind = 0, 0, 0
        previous = b""
        while kind != END:
            expected_first = kind == 0
            kind, content, following = self._block(offset)
            if (kind == HEAD) != expected_first:
                self._damaged(offset, "a head block first and once", f"a block of kind {kind}")
            if kind == HEAD:
                self.version = content[0]
                if file_name(self.version) != self._name:
                    self._damaged(offset, f"the version in the name {self._name}", str(self.version))
            elif kind == KEYS:
                entries = [Entry(*content[i : i + 4]) for i in range(0, len(content), 4)]
                for entry in entries:
                    if entry.key <= previous:
                        self._damaged(offset, "keys in ascending order", repr(entry.key))
                    previous = entry.key
                keys += len(entries)
                yield entries
            else:
                if content[0] != keys:
                    self._damaged(offset, f"{content[0]} keys", f"{keys}")
                self.remembered = content[1]
            offset = following
        if offset != len(self._data):
            self._damaged(offset, "the end of the file", f"{len(self._data) - offset} more bytes")

    def _block(self, offset: int) -> tuple[int, Any, int]:
        data = self._data
        if offset + _BLOCK.size > len(data):
            self._damaged(offset, "a block", f"the end of the file at {len(data)}")
        magic, kind, length, checksum = _BLOCK.unpack_from(data, offset)
        start = offset + _BLOCK.size
        content = data[start : start + length]
        if magic != _MAGIC:
            self._damaged(offset, f"magic and format {_MAGIC:#x}", f"{magic:#x}")
        if len(content) != length or xxh3_64_intdigest(_CHECKED.pack(kind, length) + content) != checksum:
            self._damaged(offset, "a block with a matching checksum", "another checksum")
        return kind, codec.unpackb(content), start + length

    def _damaged(self, offset: int, expected: str, found: str) -> None:
        raise CorruptionError(self._name, offset, expected, found)


def _block(kind: int, content: Any) -> bytes:
    raw: bytes = codec.pack(content)
    checked = _CHECKED.pack(kind, len(raw))
    return _BLOCK.pack(_MAGIC, kind, len(raw), xxh3_64_intdigest(checked + raw)) + raw

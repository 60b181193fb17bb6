"""A checkpoint: every live key at one commit version, in a sequential, checksummed file. A backup holds one as well.

    file      block, block, ...
    block     8 bytes  magic "shoalck" and the format version
              4 bytes  kind: HEAD, KEYS or END
              4 bytes  length of the content in bytes
              8 bytes  xxh3-64 of kind, length and content
              content  msgpack
                       HEAD  [commit version, time of creation in ms since the epoch, id of the store]; format 1: no id
                       KEYS  [key, value, commit version, expires_ms, key, ...] flat, keys ascending
                       END   [number of keys, client sessions: [[client id, commit id, version, results], ...]]
              Keys of formats 1 and 2 are as ``old_keys`` says, and are renamed when they are read.

- A reader that holds a snapshot writes it, so commits go on meanwhile: the helper of the coordinator, a backup, repair.
- It is written under another name, synced, and then renamed, which publishes it. So a file of the right name is whole,
  or was damaged later. SIGKILL before that leaves a file whose name ends in ``.new``, which recovery removes.
- A reader of the file has one block of it in memory at a time, and a damaged length makes it read no more than that.
"""

from __future__ import annotations

import os
import reprlib
import struct
from collections.abc import Iterator
from itertools import islice
from operator import lt
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from xxhash import xxh3_64, xxh3_64_intdigest

from shoal.shm import clock, codec
from shoal.shm.errors import CorruptionError
from shoal.shm.files.old_keys import renamed
from shoal.shm.files.regular_file import private_file
from shoal.shm.files.storage import DiskStorage, Storage, raise_if_full
from shoal.shm.files.store_files import STORE_ID_BYTES, of_another_store
from shoal.shm.limits import CHECKPOINT_BLOCK_BYTES, MAX_ENCODED_VALUE_BYTES, MAX_ENGINE_KEY_BYTES, MAX_TIME_MS, MIB
from shoal.shm.memory.reader import Reader

FORMAT_VERSION = 3
_MAGIC_BYTES = b"shoalck"
_MAGICS = [int.from_bytes(_MAGIC_BYTES, "little") | version << 56 for version in range(1, FORMAT_VERSION + 1)]
_MAGIC = _MAGICS[-1]
_BLOCK = struct.Struct("<QIIQ")
_CHECKED = struct.Struct("<II")
HEAD, KEYS, END = 1, 2, 3
_PREFIX, _SUFFIX = "checkpoint-", ".ckpt"
# A longer block is verified piece by piece before it is read whole: its length may be damaged.
_LONG_BLOCK_BYTES = MAX_ENCODED_VALUE_BYTES + 1 * MIB

# The session of one client: its id, and of its last commit the id, the version and the results.
Session = list[Any]


class Entry(NamedTuple):
    """One live key."""

    key: bytes
    value: bytes
    version: int
    expires_ms: int


class KeyBlock:
    """The keys of one block in columns: the key at a position has the value, version and expiry at that position.

    Columns are checked and loaded many keys at a time. To iterate over a block yields an ``Entry`` for each key.
    """

    __slots__ = ("expires_ms", "keys", "values", "versions")

    def __init__(self, flat: list[Any]) -> None:
        self.keys: list[bytes] = flat[::4]
        self.values: list[bytes] = flat[1::4]
        self.versions: list[int] = flat[2::4]
        self.expires_ms: list[int] = flat[3::4]

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Entry]:
        return map(Entry, self.keys, self.values, self.versions, self.expires_ms)


def file_name(version: int) -> str:
    """The name of the checkpoint at ``version``."""
    return f"{_PREFIX}{version:020}{_SUFFIX}"


def temporary_name_of(version: int) -> str:
    """The name under which this process writes the checkpoint at ``version``; recovery removes such a file."""
    return f"{file_name(version)}.{os.getpid()}.new"


def version_of(name: str) -> int | None:
    """The version in a checkpoint's file name, None for any other name."""
    digits = name[len(_PREFIX) : -len(_SUFFIX)]
    if digits.isascii() and digits.isdecimal() and name == file_name(int(digits)):
        return int(digits)
    return None


def write_checkpoint(
    directory: Path,
    reader: Reader,
    version: int,
    sessions: list[Session],
    store_id: bytes | None = None,
    temporary_name: str | None = None,
    block_bytes: int = CHECKPOINT_BLOCK_BYTES,
) -> int:
    """Write all keys live at ``version``, a snapshot that the caller has pinned; return the number of keys.

    ``store_id`` names the store it belongs to; any store accepts a checkpoint without one. ``temporary_name`` is the
    file to write to first. It may be there, with room reserved on the disk; the room not needed is given back.

    Raises ``SnapshotExpiredError`` if the snapshot is revoked and ``StoreFullError`` if the disk is full; then the
    temporary file is removed.
    """
    final = directory / file_name(version)
    # A helper may outlive its coordinator, and the next one may write the same version: each has a file of its own.
    temporary = directory / (temporary_name or temporary_name_of(version))
    try:
        fd = private_file(temporary, os.O_WRONLY | os.O_CREAT)
        with os.fdopen(fd, "wb", buffering=block_bytes) as out:
            out.write(_block(HEAD, [version, clock.now_ms(), store_id]))
            keys = size = 0
            flat: list[Any] = []
            for key, found in reader.scan(b"", None, version):
                flat += (key, found.value, found.version, found.expires_ms)
                size += len(key) + len(found.value) + 24
                keys += 1
                if size >= block_bytes:
                    out.write(_block(KEYS, flat))
                    flat, size = [], 0
            out.write(_block(KEYS, flat) + _block(END, [keys, sessions]))
            out.truncate()
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
    """Reads and verifies a checkpoint file, one block in memory at a time."""

    def __init__(self, storage: Storage, name: str, expected_id: bytes | None = None) -> None:
        self._storage = storage
        self._name = name
        self.size_bytes = storage.size(name)
        self._expected_id = expected_id
        self.store_id: bytes | None = None
        self.version = 0
        self.sessions: list[Session] = []
        self._previous = b""  # the last key read
        self._keys = 0  # keys read
        self._has_old_keys = False  # whether the block read last has keys of formats 1 and 2

    def entries(self) -> Iterator[KeyBlock]:
        """All keys, a block at a time. ``version`` is known before the first, ``sessions`` after the last.

        Raises ``CorruptionError`` at the first damage.
        """
        old: list[Entry] = []
        for part in self.past_damage():
            if isinstance(part, CorruptionError):
                raise part
            if self._has_old_keys:
                old += part
            else:
                yield part
        if old:  # renamed, they are in another order
            block = KeyBlock([field for entry in sorted(old) for field in entry])
            if not _is_sound(block, b"", self.version):
                self._damaged(0, "each key in one form", "a key in two")
            yield block

    def past_damage(self) -> Iterator[KeyBlock | CorruptionError]:
        """The same, with an error in the place of every damaged block, and the readable blocks behind it."""
        offset, kind, damaged = 0, 0, False
        self.version = version_of(self._name) or 0
        self._previous, self._keys = b"", 0
        while kind != END or offset < self.size_bytes:
            try:
                if kind == END:
                    self._damaged(offset, "the end of the file", f"{self.size_bytes - offset} more bytes")
                found, content, following = self._block(offset)
                if (found == HEAD) != (kind == 0):
                    self._damaged(offset, "a head block first and once", f"a block of kind {found}")
                kind = found
                if kind == HEAD:
                    self._take_head(offset, content)
                elif kind == KEYS:
                    yield self._entries_of(offset, content)
                else:
                    self._take_end(offset, content, damaged)
            except CorruptionError as error:
                yield error
                kind, damaged = kind or HEAD, True
                following = self._next_block(offset)
                if following == self.size_bytes:
                    return
            offset = following

    def _take_head(self, offset: int, content: Any) -> None:
        if not _is_head(content):
            self._damaged(offset, "a version, a time and the store's id", reprlib.repr(content))
        if file_name(content[0]) != self._name:
            self._damaged(offset, f"the version in the name {self._name}", str(content[0]))
        self.store_id = content[2] if len(content) > 2 else None
        if self.is_of_another_store:
            raise of_another_store(self._name, offset, self._expected_id, self.store_id)

    @property
    def is_of_another_store(self) -> bool:
        """Whether its head, which has been read, names another store than the expected one."""
        return None not in (self.store_id, self._expected_id) and self.store_id != self._expected_id

    def _entries_of(self, offset: int, content: Any) -> KeyBlock:
        if type(content) is not list or len(content) % 4:
            self._damaged(offset, "key, value, version and expiry of each key", reprlib.repr(content))
        block = KeyBlock(content)
        if not _is_sound(block, self._previous, self.version):
            self._damaged(offset, "possible keys in ascending order", self._first_unsound(content))
        self._previous = block.keys[-1] if block.keys else self._previous
        self._keys += len(block)
        if self._has_old_keys:
            block.keys = [*map(renamed, block.keys)]
        return block

    def _first_unsound(self, flat: list[Any]) -> str:
        previous = self._previous
        for at in range(0, len(flat), 4):
            one = flat[at : at + 4]
            if not _is_sound(KeyBlock(one), previous, self.version):
                return reprlib.repr(one)
            previous = one[0]
        raise AssertionError("each key of the block is sound, and the block is not")

    def _take_end(self, offset: int, content: Any, damaged: bool) -> None:
        if not _is_end(content):
            self._damaged(offset, "a number of keys and the last commit of each client", reprlib.repr(content))
        if content[0] != self._keys and not damaged:
            self._damaged(offset, f"{content[0]} keys", f"{self._keys}")
        self.sessions = content[1]

    def _next_block(self, offset: int) -> int:
        """Where to read on behind a damaged block: at its end if another block begins there, else at the next magic."""
        head = self._read(offset, _BLOCK.size)
        if len(head) == _BLOCK.size:
            _, _, length, _ = _BLOCK.unpack(head)
            end: int = offset + _BLOCK.size + length
            if self._read(end, len(_MAGIC_BYTES)) == _MAGIC_BYTES:
                return end
        offset += 1
        while piece := self._read(offset, CHECKPOINT_BLOCK_BYTES):
            found = piece.find(_MAGIC_BYTES)
            if found >= 0:
                return offset + found
            offset += max(1, len(piece) - len(_MAGIC_BYTES) + 1)
        return self.size_bytes

    def _read(self, offset: int, size: int) -> bytes:
        return self._storage.read_at(self._name, offset, max(0, min(size, self.size_bytes - offset)))

    def _block(self, offset: int) -> tuple[int, Any, int]:
        head = self._read(offset, _BLOCK.size)
        if len(head) < _BLOCK.size:
            self._damaged(offset, "a block", f"the end of the file at {self.size_bytes}")
        magic, kind, length, checksum = _BLOCK.unpack(head)
        start = offset + _BLOCK.size
        if magic not in _MAGICS:
            self._damaged(offset, f"magic and format {_MAGIC:#x}", f"{magic:#x}")
        self._has_old_keys = magic != _MAGIC
        checked = _CHECKED.pack(kind, length)
        is_sound = length <= _LONG_BLOCK_BYTES or self._checksum_in_pieces(checked, start, length) == checksum
        content = self._read(start, length) if is_sound and start + length <= self.size_bytes else None
        if content is None or xxh3_64_intdigest(checked + content) != checksum:
            self._damaged(offset, "a block with a matching checksum", "another checksum")
        if kind not in (HEAD, KEYS, END):
            self._damaged(offset, f"a block of kind {HEAD}, {KEYS} or {END}", f"kind {kind}")
        try:
            return kind, codec.unpackb(content), start + length
        except ValueError as error:
            self._damaged(offset, "msgpack", str(error) or type(error).__name__)

    def _checksum_in_pieces(self, checked: bytes, start: int, length: int) -> int:
        found = xxh3_64(checked)
        for position in range(start, min(start + length, self.size_bytes), CHECKPOINT_BLOCK_BYTES):
            found.update(self._read(position, min(CHECKPOINT_BLOCK_BYTES, start + length - position)))
        return found.intdigest()

    def _damaged(self, offset: int, expected: str, found: str) -> NoReturn:
        raise CorruptionError(self._name, offset, expected, found)


def _is_sound(block: KeyBlock, after: bytes, newest: int) -> bool:
    """Whether the segment can hold these keys, and they ascend from ``after`` on.

    A matching checksum does not say that shoal wrote the file. A column at a time, this takes 0.2 us a key.
    """
    keys, values, versions, expires_ms = block.keys, block.values, block.versions, block.expires_ms
    return not keys or (
        {*map(type, keys), *map(type, values)} == {bytes}
        and {*map(type, versions), *map(type, expires_ms)} == {int}
        and after < keys[0]
        and all(map(lt, keys, islice(keys, 1, None)))
        and max(map(len, keys)) <= MAX_ENGINE_KEY_BYTES
        and max(map(len, values)) <= MAX_ENCODED_VALUE_BYTES
        and min(versions) > 0
        and max(versions) <= newest
        and min(expires_ms) >= 0
        and max(expires_ms) <= MAX_TIME_MS
    )


def _is_head(content: Any) -> bool:
    if type(content) is not list or len(content) not in (2, 3) or type(content[0]) is not int:
        return False
    store_id = content[2] if len(content) > 2 else None
    return store_id is None or (type(store_id) is bytes and len(store_id) == STORE_ID_BYTES)


def _is_end(content: Any) -> bool:
    return (
        type(content) is list
        and [type(part) for part in content] == [int, list]
        and all(
            type(last) is list
            and [type(part) for part in last] == [int, int, int, list]
            and all(0 <= number < 1 << 64 for number in last[:3])
            for last in content[1]
        )
    )


def _block(kind: int, content: Any) -> bytes:
    raw: bytes = codec.pack(content)
    checked = _CHECKED.pack(kind, len(raw))
    return _BLOCK.pack(_MAGIC, kind, len(raw), xxh3_64_intdigest(checked + raw)) + raw

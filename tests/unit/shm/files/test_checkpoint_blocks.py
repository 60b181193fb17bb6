"""The blocks of a checkpoint: what is read of damaged ones, and how much memory that takes."""

from __future__ import annotations

import os
import reprlib
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from xxhash import xxh3_64_intdigest

from shoal.shm import codec
from shoal.shm.errors import CorruptionError
from shoal.shm.files import checkpoint
from shoal.shm.files.checkpoint import END, HEAD, KEYS, CheckpointReader
from shoal.shm.files.storage import DiskStorage
from shoal.shm.limits import MAX_ENCODED_VALUE_BYTES

VERSION = 9
STORE_ID = bytes(range(16))
NAME = checkpoint.file_name(VERSION)
ENTRIES = [b"a", b"1", 3, 0, b"b", b"2", 9, 5_000]
SESSIONS = [[7, 1, 5, []], [8, 3, 4, [1, None]]]
LENGTH_OFFSET = 12
MAGIC = int.from_bytes(b"shoalck", "little") | checkpoint.FORMAT_VERSION << 56


def block(kind: int, content: object) -> bytes:
    """A block by the diagram at the head of ``checkpoint``."""
    raw = codec.pack(content)
    checked = struct.pack("<II", kind, len(raw)) + raw
    return struct.pack("<Q", MAGIC) + checked[:8] + struct.pack("<Q", xxh3_64_intdigest(checked)) + raw


def reader_of(directory: Path, *blocks: bytes, hole_bytes: int = 0) -> CheckpointReader:
    with open(directory / NAME, "wb") as out:
        out.write(b"".join(blocks))
        out.truncate(out.tell() + hole_bytes)
    return CheckpointReader(DiskStorage(directory), NAME, STORE_ID)


HEAD_BLOCK = block(HEAD, [VERSION, 1_700_000_000_000, STORE_ID])
KEYS_BLOCK = block(KEYS, ENTRIES)


def test_a_whole_file(tmp_path: Path) -> None:
    """The diagram is the format: keys, sessions and store come back as they were put into blocks by hand."""
    reader = reader_of(tmp_path, HEAD_BLOCK, KEYS_BLOCK, block(END, [2, SESSIONS]))
    assert [tuple(entry) for entries in reader.entries() for entry in entries] == [tuple(ENTRIES[:4]), (*ENTRIES[4:],)]
    assert (reader.version, reader.sessions, reader.store_id) == (VERSION, SESSIONS, STORE_ID)


@pytest.mark.parametrize("length", [2**32 - 1, 2**28, 2**24 + 2**21])
def test_a_damaged_length_takes_no_memory(tmp_path: Path, length: int) -> None:
    """A block that says it is huge, in a huge file, is found damaged without a copy of the file in memory."""
    damaged = bytearray(KEYS_BLOCK)
    damaged[LENGTH_OFFSET : LENGTH_OFFSET + 4] = struct.pack("<I", length)
    reader = reader_of(tmp_path, HEAD_BLOCK, bytes(damaged), hole_bytes=1 << 28)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptionError, match=f"{NAME} is damaged at byte {len(HEAD_BLOCK)}"):
            list(reader.entries())
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_a_long_block_is_read(tmp_path: Path) -> None:
    """A block beyond the bound that is verified in pieces is read as any other: many clients have long results."""
    sessions = [[client, 1, 5, [b"x" * (1 << 20)]] for client in range(1, 20)]
    reader = reader_of(tmp_path, HEAD_BLOCK, KEYS_BLOCK, block(END, [2, sessions]))
    assert sum(map(len, reader.entries())) == 2
    assert reader.sessions == sessions


def test_what_is_behind_damage(tmp_path: Path) -> None:
    """Behind a damaged block ``past_damage`` reads on at the next one."""
    flipped = bytearray(KEYS_BLOCK)
    flipped[-1] ^= 1
    last = block(KEYS, [b"c", b"3", 1, 0])
    reader = reader_of(tmp_path, HEAD_BLOCK, bytes(flipped), last, block(END, [3, []]))
    found: Any = reader.past_damage()
    error, entries = found
    assert isinstance(error, CorruptionError)
    assert error.offset == len(HEAD_BLOCK)
    assert [entry.key for entry in entries] == [b"c"]


UNSOUND = {
    "a key that is text": ["b", b"2", 9, 0],
    "an empty key": [b"", b"2", 9, 0],
    "a long key": [b"b" * 4097, b"2", 9, 0],
    "a value that is none": [b"b", None, 9, 0],
    "a long value": [b"b", bytes(MAX_ENCODED_VALUE_BYTES + 1), 9, 0],
    "version 0": [b"b", b"2", 0, 0],
    "a version above that of the checkpoint": [b"b", b"2", VERSION + 1, 0],
    "a version that is true": [b"b", b"2", True, 0],
    "an expiry in the past of time": [b"b", b"2", 9, -1],
    "an expiry that is no time": [b"b", b"2", 9, 1 << 63],
    "an expiry that is a float": [b"b", b"2", 9, 1.0],
    "a key for the second time": [b"a", b"2", 9, 0],
}


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("entry", UNSOUND.values(), ids=UNSOUND)
def test_unsound_keys_are_damage(tmp_path: Path, entry: list[Any], at: int) -> None:
    """A right checksum does not make a key sound: wherever in a block it stands, the error shows that entry."""
    entries: list[list[Any]] = [[b"a", b"1", 3, 0], [b"c", b"3", 3, 0]]
    entries.insert(at, entry)
    flat = [part for each in entries for part in each]
    first = block(KEYS, [b"Z", b"1", 3, 0])
    reader = reader_of(tmp_path, HEAD_BLOCK, first, block(KEYS, flat), block(END, [4, []]))
    is_repeated = entry[0] == b"a"
    with pytest.raises(CorruptionError, match=f"damaged at byte {len(HEAD_BLOCK + first)}") as caught:
        list(reader.entries())
    assert is_repeated or reprlib.repr(entry) in str(caught.value)


@pytest.mark.parametrize("flat", [[b"a", b"1", 3], [b"a", b"1", 3, 0, b"b"], {"a": 1}, None], ids=repr)
def test_keys_that_are_not_whole(tmp_path: Path, flat: Any) -> None:
    """Columns of different lengths are damage, and so is anything but a list."""
    reader = reader_of(tmp_path, HEAD_BLOCK, block(KEYS, flat), block(END, [1, []]))
    with pytest.raises(CorruptionError, match="key, value, version and expiry"):
        list(reader.entries())


def test_names_of_files() -> None:
    """Only the exact name of a version is a checkpoint's; a temporary one is not."""
    assert checkpoint.version_of(NAME) == VERSION
    temporary = checkpoint.temporary_name_of(VERSION)
    assert str(os.getpid()) in temporary
    for name in (temporary, "checkpoint-9.ckpt", NAME.replace("9.", "٩."), "checkpoint-.ckpt", NAME + ".new"):
        assert checkpoint.version_of(name) is None

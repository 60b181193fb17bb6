"""The bytes of the write-ahead log: durable, so pinned here as they were first written."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.coordinator.log.format import (
    COORDINATOR,
    FILE_HEAD_BYTES,
    FileHead,
    LogRecord,
    decode_commit,
    decode_decided,
    decode_file_head,
    decode_record,
    encode_batch,
    encode_decided,
    encode_file_head,
    encode_record,
    file_name,
    file_number,
    find_record,
    record_bytes,
    records_begin,
    stated_end,
)
from shoal.shm import codec
from shoal.shm.wire.request import encode_mutations

BOOT, STORE_ID = 0x1122, bytes(range(16))
PUT = encode_mutations([b"k", b"\x01", 0])
NOTHING = encode_mutations([])
HEADS = [
    (
        FileHead(7, 100, 99, BOOT, STORE_ID),
        (
            "73686f616c77616c030000000000000007000000000000006400000000000000630000000000000022110000000000000001020304050607"
            "08090a0b0c0d0e0f6118a89b5ff5558e"
        ),
    ),
    (
        FileHead(7, 100, 99, BOOT, STORE_ID, 2),
        (
            "73686f616c77616c020000000000000007000000000000006400000000000000630000000000000022110000000000000001020304050607"
            "08090a0b0c0d0e0f5a74ead8bdba127a"
        ),
    ),
    (
        FileHead(7, 100, 99, BOOT, None, 1),
        "73686f616c77616c010000000000000007000000000000006400000000000000630000000000000022110000000000009bf1c66f1c49ffdc",
    ),
]
DECIDED = encode_decided([b"k", b"\x02", 0], [[0, "x"]])
BATCH = encode_batch([b"k", b"\x03", 0], [(9, 5, [[1]]), (10, 1, [None])])
RECORDS = [
    (
        LogRecord(5, 4, BOOT, 9, 3, PUT, b""),
        (
            "7377616c100000000028edc25cc4ea52050000000000000004000000000000002211000000000000090000000000000003000000000000"
            "000c0000009493c4016bc4010100c0c0c0"
        ),
    ),
    (
        LogRecord(6, 4, BOOT, 9, 4, NOTHING, DECIDED),
        (
            "7377616c17000000fb42d5658e35220c060000000000000004000000000000002211000000000000090000000000000004000000000000"
            "00050000009490c0c0c09293c4016bc4010200919200a17800"
        ),
    ),
    (
        LogRecord(7, 4, BOOT, COORDINATOR, 7, NOTHING, BATCH),
        (
            "7377616c1f000000da36f06bf926358c070000000000000004000000000000002211000000000000000000000000000007000000000000"
            "00050000009490c0c0c09393c4016bc40103009092930905919101930a0191c000"
        ),
    ),
    (
        LogRecord(7, 7, BOOT, COORDINATOR, 0, b"", b""),  # the mark of a clean close
        (
            "7377616c040000009d37c64fa5cb5a79070000000000000007000000000000002211000000000000000000000000000000000000000000"
            "0000000000"
        ),
    ),
]


@pytest.mark.parametrize(("head", "raw"), HEADS)
def test_file_heads_as_they_stand_on_disk(head: FileHead, raw: str) -> None:
    """Every format of a file's head is read byte for byte, and written so (the old ones by tests alone)."""
    assert encode_file_head(head).hex() == raw
    assert decode_file_head(bytes.fromhex(raw) + bytes(100)) == head
    assert records_begin(head, b"") == head.size_bytes == len(raw) // 2


@pytest.mark.parametrize(("record", "raw"), RECORDS)
def test_records_as_they_stand_on_disk(record: LogRecord, raw: str) -> None:
    """A record is written and read byte for byte; the next begins at a multiple of 8."""
    data = encode_record(*record)
    assert data.hex()[: 2 * record_bytes(record)] == raw[: 2 * record_bytes(record)]
    assert len(data) % 8 == 0
    assert data[record_bytes(record) :].strip(b"\0") == b""
    assert decode_record(bytes(8) + data, 8) == (record, 8 + len(data))
    assert record.is_close_mark == (record.commit_id == 0)


def test_any_flipped_bit_is_noticed() -> None:
    """No byte of a head or a record may change without its checksum saying so."""
    head, record = bytearray(encode_file_head(HEADS[0][0])), bytearray(encode_record(*RECORDS[1][0]))
    for at in range(FILE_HEAD_BYTES):
        head[at] ^= 1
        assert decode_file_head(bytes(head)) is None
        head[at] ^= 1
    for at in range(record_bytes(RECORDS[1][0])):
        record[at] ^= 1
        assert decode_record(bytes(record), 0) is None
        record[at] ^= 1
    assert decode_record(bytes(record[:-8]), 0) is None


def test_what_was_decided() -> None:
    """Writes, results and outcomes come back as they were given."""
    assert decode_decided(DECIDED) == ([b"k", b"\x02", 0], [[0, "x"]], [])
    assert decode_decided(BATCH) == ([b"k", b"\x03", 0], [], [(9, 5, [[1]]), (10, 1, [None])])


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [[]],
        [[b"k", b"v"], []],  # a write is not whole
        [[b"k", b"v", 0, b"k", b"w", 0], []],  # a key twice
        [[b"", b"v", 0], []],
        [[], None],
        [[], [], [[1, 2]]],
        [[], [], [[1, 2, None]]],
        [[], [], [[-1, 2, []]]],
        [[], [], [[True, 2, []]]],
    ],
    ids=repr,
)
def test_nothing_that_shoal_decides(parts: list[Any]) -> None:
    """A checksum says that bytes are as they were written, not that shoal wrote them."""
    with pytest.raises((ValueError, TypeError)):
        decode_decided(codec.pack(parts))


def test_commits() -> None:
    """Who is told what, of a client's own commit, of a batch, and of the coordinator's."""
    put, operations, batch = (decode_commit(record) for record, _ in RECORDS[:3])
    assert (put.writes, put.clears, put.outcomes) == ([b"k", b"\x01", 0], [], [(9, 3, [])])
    assert (operations.writes, operations.outcomes) == ([b"k", b"\x02", 0], [(9, 4, [[0, "x"]])])
    assert (batch.client_id, batch.outcomes) == (COORDINATOR, [(9, 5, [[1]]), (10, 1, [None])])
    own = decode_commit(LogRecord(8, 7, BOOT, COORDINATOR, 8, PUT, b""))
    assert own.outcomes == []


def test_commits_of_old_formats() -> None:
    """Their keys are read as those of today, in writes, in what was decided and in the bounds of ranges."""
    old, key = b"\7default" * 3 + b"\1r", b"\x81\x81\x81\1r"
    mutations = encode_mutations([old + b"\1a", b"\x01", 0, old + b"\1b", None, 0], [old, old[:-1] + b"s"])
    record = LogRecord(5, 4, BOOT, 9, 3, mutations, encode_decided([old + b"\3c", b"\x02", 7], [None]))
    commit = decode_commit(record, 2)
    assert commit.writes == [key + b"\1a", b"\x01", 0, key + b"\1b", None, 0, key + b"\3c", b"\x02", 7]
    assert commit.clears == [(key, key[:-1] + b"s")]
    assert decode_commit(record).writes[0] == old + b"\1a"


def test_finding_records_behind_damage() -> None:
    """Whole records are found at multiples of 8, and a broken one says where the next begins."""
    first, second = (encode_record(*record) for record, _ in RECORDS[:2])
    data = bytearray(first + second)
    data[20] ^= 1
    assert find_record(bytes(data), 0) == (RECORDS[1][0], len(first))
    assert stated_end(bytes(data), 0) == len(first)
    assert find_record(b"x" + second, 0) is None  # not aligned
    assert stated_end(bytes(64), 0) is None


def test_file_names() -> None:
    """Only names that ``file_name`` makes are log files."""
    assert file_name(12) == "wal-000000000012.log"
    assert [file_number(name) for name in (file_name(12), file_name(10**12), "wal-12.log", "wal-x.log", "")] == [
        *(12, 10**12, None, None, None)
    ]

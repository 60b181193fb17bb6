"""Zeros ahead of the log's records: they never replace a record, and no failure of a sync is lost."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import subprocess
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

import shoal
from shoal.coordinator.log.reader import WalReader
from shoal.coordinator.log.writer import WalWriter
from shoal.coordinator.log.zero_fill import ZeroFill
from shoal.shm.files import file_system
from shoal.shm.files.storage import DiskStorage
from shoal.shm.limits import Limits
from shoal.shm.wire.request import encode_mutations
from tests.support.stores.damaged import MemoryFile
from tests.support.workers.crash_workers import wait_for

STORE_ID = bytes(16)
STEP_BYTES = 512


def _file(size: int) -> tuple[dict[str, bytearray], ZeroFill]:
    files: dict[str, bytearray] = {}
    return files, ZeroFill(MemoryFile(files, "wal", size), STEP_BYTES, nullcontext())


def test_zeros_never_replace_records() -> None:
    """In any order of steps and claims the file has the records, and zeros behind them; the zeros reach its end."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(200):
        size = rng.choice([100, 512, 1000, 4096])
        files, file = _file(size)
        expected = bytearray()
        eager = rng.random()
        while True:
            if rng.random() < eager:
                file.fill()
            record = rng.randbytes(rng.randrange(1, 300))
            if len(expected) + len(record) > size:
                break
            assert file.claim(len(expected) + len(record)) >= len(expected) + len(record)
            file.write(len(expected), record)
            expected += record
        while file.fill():
            pass
        assert files["wal"] == expected.ljust(size, b"\0")
        assert file.records_end == size


def test_zeros_go_on_behind_what_is_claimed() -> None:
    """Records that come first take the rest of their step; what lies behind it is written ahead as before."""
    files, file = _file(4 * STEP_BYTES)
    files["wal"][:] = b"x" * file.size  # so that zeros show
    assert file.claim(STEP_BYTES + 1) == 2 * STEP_BYTES
    assert file.fill()
    assert not file.fill()
    assert files["wal"] == b"x" * 2 * STEP_BYTES + bytes(2 * STEP_BYTES)


def test_without_a_step_there_are_no_zeros() -> None:
    """Then the whole file is for records at once."""
    files: dict[str, bytearray] = {}
    file = ZeroFill(MemoryFile(files, "wal", 100), 0, nullcontext())
    assert file.records_end == file.claim(7) == 100
    assert not file.fill()


class _BadFile(MemoryFile):
    """Its first sync fails, and the kernel tells only one of its callers."""

    syncs = 0

    def sync(self) -> None:
        self.syncs += 1
        if self.syncs == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("first", ["zeros", "records"])
def test_a_failed_sync_fails_every_later_one(first: str) -> None:
    """Whoever is told of it: the zeros share pages and a descriptor with records."""
    file = ZeroFill(_BadFile({}, "wal", 4096), STEP_BYTES, threading.Lock())
    with pytest.raises(OSError, match="Input/output"):
        file.fill() if first == "zeros" else file.sync()
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            file.sync()
        with pytest.raises(OSError, match="Input/output"):
            file.fill()
    assert file.claim(4096) == 4096
    with pytest.raises(OSError, match="Input/output"):
        file.sync()


class _SlowFile(MemoryFile):
    """Notes whether two threads sync it at the same time, or one syncs it when it is closed."""

    syncing = closed = wrong = False

    def sync(self) -> None:
        self.wrong |= self.syncing or self.closed
        self.syncing = True
        time.sleep(0.001)
        self.syncing = False

    def close(self) -> None:
        self.wrong |= self.syncing
        self.closed = True


def test_one_sync_of_a_file_at_a_time() -> None:
    """While zeros are written, the coordinator's sync waits for the thread's; so does closing the file."""
    slow = _SlowFile({}, "wal", 40 * STEP_BYTES)
    file = ZeroFill(slow, STEP_BYTES, threading.Lock())
    filling = threading.Thread(target=lambda: [None for _ in range(80) if file.fill()])
    filling.start()
    for _ in range(10):
        file.sync()
    file.close()
    filling.join()
    assert not slow.wrong


@pytest.mark.long
def test_a_log_with_a_thread_that_fills_it(tmp_path: Path) -> None:
    """Commits of all sizes, with a thread writing zeros as fast as it can: the reader finds every one."""
    storage, limits = DiskStorage(tmp_path), Limits(log_file_bytes=64 * 1024)
    log = WalWriter(storage, 1, 0, STORE_ID, limits=limits, fill_step_bytes=4096)
    stopping = threading.Event()

    def fill() -> None:
        while not stopping.is_set():
            log.fill_ahead()

    thread = threading.Thread(target=fill)
    thread.start()
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    values = [rng.randbytes(rng.choice([10, 1000, 9000, 100_000])) for _ in range(100)]
    try:
        for version, value in enumerate(values, 1):
            mutations = encode_mutations([b"key", value, 0])
            if not log.has_room(len(mutations)):
                log.reserve(len(mutations), None if rng.random() < 0.3 else len(mutations))
            log.append(version, 7, version, mutations, b"")
            if rng.random() < 0.3:
                log.sync()
    finally:
        stopping.set()
        thread.join()
    log.close()
    assert len(log.first_versions) > 5
    assert [commit.writes[1] for commit in WalReader(storage, 0).records()] == values


needs_extents = pytest.mark.skipif(shutil.which("filefrag") is None, reason="there is no filefrag")


def _unwritten_pages(path: Path) -> int:
    """How many pages of a file the file system takes for reserved and never written."""
    found = subprocess.run(["filefrag", "-v", "-b4096", str(path)], check=True, capture_output=True, text=True).stdout
    extents = re.findall(r"\n +\d+: +\d+\.\. *\d+: +\d+\.\. *\d+: +(\d+):(.*)", found)
    return sum(int(pages) for pages, flags in extents if "unwritten" in flags)


@pytest.mark.long
@needs_extents
def test_a_strict_store_writes_ahead(tmp_path: Path) -> None:
    """A little after it is opened, nearly every page of its log files is one that a sync overwrites."""
    if not file_system.overwrites_in_place(tmp_path):
        pytest.skip("this file system is not known to overwrite pages in place")
    with shoal.open(tmp_path / "store", durability="strict", linger=0.0):
        files = sorted((tmp_path / "store").glob("wal-*.log"))
        assert len(files) == 2
        pages = files[0].stat().st_size // 4096
        wait_for(lambda: max(map(_unwritten_pages, files)) < pages // 8, "zeros in the log")


@pytest.mark.long
@needs_extents
def test_other_stores_do_not(tmp_path: Path) -> None:
    """``buffered`` syncs in a thread: nobody waits for that, and zeros would only be more to write."""
    if not file_system.overwrites_in_place(tmp_path):
        pytest.skip("this file system is not known to overwrite pages in place")
    with shoal.open(tmp_path / "store", linger=0.0) as db:
        shoal.KVStore(db).put("run", "key", 1)
        time.sleep(0.3)
        spare = max((tmp_path / "store").glob("wal-*.log"))
        assert _unwritten_pages(spare) == spare.stat().st_size // 4096

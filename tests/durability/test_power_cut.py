"""The power goes while a store on a real file system is written to: what was promised is on the disk.

A small ext4 on a loop device, in two ways:

- *cut*: the kernel is told to stop the file system as it is (EXT4_IOC_SHUTDOWN without flushing the journal, which is
  how file systems themselves are tested): nothing that was not on the device gets there any more.
- *copied*: the image is copied again and again while it is in use, and every copy is a disk after a power cut. The
  processes stand still during a copy, as it takes longer than an instant; the kernel may go on writing pages.

Then the file system is mounted anew, which replays its journal, and the store is opened. What neither can show: a
disk that lies about its own cache.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import select
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import shoal
from tests.mutants.coordinator import mutated_coordinators
from tests.support.histories.history_workers import seed_from
from tests.support.present import present
from tests.support.stores.loop_disks import PAGE_BYTES, Disk, ThinDisk, run, why_not
from tests.support.workers.crash_workers import DEADLINE_S, kill, processes_of, wait_for

RUN = "power"
# Buffered: synced every 100 ms. A sync takes its time on a busy machine, so this much older is surely on the disk.
BUFFERED_LOSS_S = 3.0
WORKERS = 3


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    probe = tmp_path / "probe"
    probe.mkdir()
    reason = why_not(probe)
    shutil.rmtree(probe)
    if reason is not None:
        pytest.skip(reason)
    disk = Disk.make(tmp_path)
    try:
        yield disk
    finally:
        for pid in processes_of(disk.mounted / "store"):
            kill(pid)
        disk.detach()


class Acknowledged(NamedTuple):
    """One commit that a worker was told of."""

    version: int
    key: str
    at_s: float  # on the clock of time.monotonic


class Load:
    """Workers that commit without pause and note what they were told in files on another disk."""

    def __init__(self, path: Path, directory: Path, durability: str) -> None:
        fork = multiprocessing.get_context("fork")
        self._path, self._durability = path, durability
        self._logs = [directory / f"w{i}.log" for i in range(WORKERS)]
        self._processes = [fork.Process(target=self._work, args=(i,)) for i in range(WORKERS)]

    def _work(self, number: int) -> None:
        out = os.open(self._logs[number], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        with contextlib.suppress(shoal.ShoalError, OSError), self._open() as db:
            for n in range(1_000_000):
                key = f"w{number}/{n}"
                with db.transaction(RUN) as txn:
                    txn.kv.put(key, "v" * 300)
                    if n % 8 == 0:
                        txn.on(f"{RUN}{number}").events.append("step", n)
                os.write(out, b"%d %s %f\n" % (txn.version, key.encode(), time.monotonic()))

    def _open(self) -> shoal.Database:
        return shoal.open(self._path, durability=self._durability, timeout=DEADLINE_S, linger=0.1)

    def __enter__(self) -> Load:
        for process in self._processes:
            process.start()
        wait_for(lambda: all(log.exists() and log.stat().st_size > 1000 for log in self._logs), "the load to begin")
        return self

    def __exit__(self, *_error: object) -> None:
        for process in self._processes:
            process.kill()
            process.join()
            process.close()
        for pid in processes_of(self._path):
            kill(pid)
        wait_for(lambda: not processes_of(self._path), "the coordinator to die")

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """Workers, coordinator and its helper do nothing meanwhile."""
        pids = [process.pid for process in self._processes] + processes_of(self._path)
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(present(pid), number)
            if number == signal.SIGSTOP:
                yield

    def acknowledged(self) -> list[Acknowledged]:
        """Everything until now, a line that is being written left aside."""
        found = []
        for log in self._logs:
            for line in log.read_bytes().split(b"\n")[:-1]:
                version, key, at_s = line.split(b" ")
                found.append(Acknowledged(int(version), key.decode(), float(at_s)))
        return sorted(found)


def _judge(path: Path, durability: str, acknowledged: list[Acknowledged], cut_s: float) -> str:
    """Open what is left and compare it with the promises; a line on what was found.

    What was acknowledged after the cut is no promise: a machine without power answers nobody, whereas ext4 stopped in
    the middle of an fdatasync may let it return without an error.
    """
    with shoal.open(path, timeout=DEADLINE_S, linger=0.0) as db:
        version = db.info().commit_version
        assert db.check() == []
        there = set(shoal.KVStore(db).list(RUN))
        for number in range(WORKERS):
            assert shoal.EventLog(db).verify_chain(f"{RUN}{number}").is_valid
    wait_for(lambda: not processes_of(path), "the coordinator to end", pause_s=0.02)
    promised = [commit for commit in acknowledged if commit.at_s <= cut_s]
    inside = {commit.key for commit in acknowledged if commit.version <= version}
    beyond = {commit.key for commit in acknowledged if commit.version > version}
    lost = [commit for commit in promised if commit.version > version]
    assert inside <= there, f"not a prefix: {sorted(inside - there)[:5]} are missing below version {version}"
    assert not there & beyond, f"not a prefix: commits beyond version {version} are there"
    assert len(there - inside) <= WORKERS, "more is there than was ever asked for"
    assert durability == "buffered" or not lost, f"{len(lost)} commits were acknowledged and are lost: {lost[:3]}"
    oldest_s = max((cut_s - commit.at_s for commit in lost), default=0.0)
    assert oldest_s <= BUFFERED_LOSS_S, f"what was acknowledged {oldest_s:.2f} s before the cut is lost"
    return f"{durability}: {len(promised)} acknowledged, {len(lost)} lost, the oldest {oldest_s * 1000:.0f} ms old"


def _cut_often(disk: Disk, directory: Path, durability: str, rounds: int) -> None:
    rng = random.Random(seed_from(31))
    path = disk.mounted / "store"
    for n in range(rounds):
        logs = directory / f"round-{n}"
        logs.mkdir()
        shutil.rmtree(path, ignore_errors=True)
        with Load(path, logs, durability) as load:
            time.sleep(rng.random() * (1.0 if durability == "strict" else 1.5))
            cut_s = time.monotonic()
            disk.cut()
            time.sleep(0.05)
        disk.unmount()
        disk.mount()
        print(_judge(path, durability, load.acknowledged(), cut_s))


def _copy_often(disk: Disk, directory: Path, durability: str, copies: int) -> None:
    rng = random.Random(seed_from(32))
    path = disk.mounted / "store"
    taken: list[tuple[Disk, list[Acknowledged], float]] = []
    with Load(path, directory, durability) as load:
        for n in range(copies):
            time.sleep(rng.random() * 0.5)
            with load.standing_still():
                cut_s = time.monotonic()
                promised = load.acknowledged()
                taken.append((disk.copy(directory / f"copy-{n}"), promised, cut_s))
    for copy, promised, cut_s in taken:
        copy.mount()
        try:
            print(_judge(copy.mounted / "store", durability, promised, cut_s))
        finally:
            copy.detach()
            shutil.rmtree(copy.image.parent)


WAYS: list[Callable[[Disk, Path, str, int], None]] = [_cut_often, _copy_often]


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["strict", "buffered"])
@pytest.mark.parametrize("way", WAYS, ids=["cut", "copied"])
def test_power_cut_on_a_real_file_system(disk: Disk, tmp_path: Path, durability: str, way: Callable[..., None]) -> None:
    """strict: everything acknowledged before the cut is there. buffered: a prefix that lacks only the newest.

    Nothing is there in part, check() is clean, event chains are whole.
    """
    way(disk, tmp_path, durability, 10)


@pytest.fixture
def thin_disk(disk: Disk, tmp_path: Path) -> Iterator[ThinDisk]:
    """Such a disk; ``disk`` has seen whether one can be had at all."""
    if shutil.which("filefrag") is None or shutil.which("fallocate") is None:
        pytest.skip("there is no filefrag or no fallocate")
    thin = ThinDisk.make(tmp_path)
    try:
        yield thin
    finally:
        for pid in processes_of(thin.mounted / "store"):
            kill(pid)
        thin.detach()
        run("umount", "-l", str(thin.image.parent))


@pytest.mark.slow
@pytest.mark.parametrize("mended", ["in the end", "after the first"])
@pytest.mark.parametrize("condition", [None, "copying_disk"], ids=["zeros ahead", "unwritten pages"])
def test_strict_on_a_disk_that_refuses_writes(thin_disk: ThinDisk, mended: str, condition: str | None) -> None:
    """A sync fails and the kernel drops what it could not write: no coordinator after it may call that durable.

    fdatasync reports such a failure once. The pages stay in memory, readable and clean, so the next coordinator finds
    the commit in the log and syncs the file without an error, and yet it is not on the disk. If the disk has room again
    by then, ext4 even takes the pages when they are written once more, into an extent that stays marked as unwritten:
    they are zeros at the next mount.
    """
    path = thin_disk.mounted / "store"
    with mutated_coordinators(condition):
        told = _commit_until_refused(thin_disk, path, mended == "after the first")
    for pid in processes_of(path):
        kill(pid)
    wait_for(lambda: not processes_of(path), "coordinators to end")
    if mended == "in the end":
        thin_disk.mend()
    thin_disk.unmount()
    thin_disk.mount()
    there = _keys_left(path)
    wait_for(lambda: not processes_of(path), "the coordinator to end", pause_s=0.02)
    assert [key for key in told if key not in there] == []


def _commit_until_refused(disk: ThinDisk, path: Path, mend: bool) -> list[str]:
    """Commits to a store whose disk is refusing writes from some page of the log on; the keys acknowledged.

    With ``mend`` it refuses the first sync only: the next coordinator finds it mended.

    The last record on good pages ends where they do: a write that only begins on them is refused by the loop device
    in part, and reported as done.
    """
    log = path / "wal-000000000001.log"
    told: list[str] = []

    def end() -> int:
        return -(-len(log.read_bytes().rstrip(b"\0")) // 8) * 8

    with shoal.open(path, durability="strict", linger=0.0, timeout=30.0) as db:
        kv = shoal.KVStore(db)
        kv.put(RUN, "first", "v")
        before = end()
        kv.put(RUN, "key 0", b"v" * 1000)
        overhead = end() - before - 1000
        kv.put(RUN, "key 1", b"v" * (4 * PAGE_BYTES - end() - overhead))
        assert end() == 4 * PAGE_BYTES
        disk.take_room_from(log, 4)
        with _mended_when_it_ends(db.info().coordinator_pid, disk) if mend else contextlib.nullcontext():
            for name in ("key 2", "key 3"):
                with contextlib.suppress(shoal.ShoalError, OSError):
                    kv.put(RUN, name, b"v" * (2 * PAGE_BYTES - overhead))
                    told.append(name)
        disk.cut()
    assert not mend or told == ["key 2", "key 3"]
    return ["key 0", "key 1", *told]


@contextlib.contextmanager
def _mended_when_it_ends(coordinator_pid: int, disk: ThinDisk) -> Iterator[None]:
    """Give the disk room again as soon as a coordinator has ended."""
    pidfd = os.pidfd_open(coordinator_pid)

    def mend() -> None:
        select.select([pidfd], [], [], DEADLINE_S)
        disk.mend()

    thread = threading.Thread(target=mend)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        os.close(pidfd)


def _keys_left(path: Path) -> list[str]:
    with shoal.open(path, linger=0.0, timeout=DEADLINE_S) as db:
        assert db.check() == []
        return shoal.KVStore(db).list(RUN)


@pytest.mark.slow
def test_a_store_that_does_not_sync_is_noticed(disk: Disk, tmp_path: Path) -> None:
    """With a mutant (strict without syncing) a power cut loses what was acknowledged, and this says so."""
    with (
        mutated_coordinators("skip_sync_in_strict"),
        pytest.raises(AssertionError, match="were acknowledged and are lost"),
    ):
        _cut_often(disk, tmp_path, "strict", 10)

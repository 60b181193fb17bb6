"""A full disk: deletes always work and make room within seconds, whatever filled it. Most tests need root to mount."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import shoal
from tests.faults.disk.filling import MIB, RUN, delete_all, soon
from tests.mutants.conditions import SMALL_DISK
from tests.mutants.coordinator import mutated_coordinators
from tests.support.slow import slow
from tests.support.workers.crash_workers import kill, wait_for

pytestmark = pytest.mark.long

TIMEOUT_S = 30.0
MOST_PUTS = 400_000


@contextlib.contextmanager
def small_disk(path: Path, mib: int, inodes: int = 0) -> Iterator[Path]:
    """A memory disk of this size, mounted at ``path``; 0 inodes are any number."""
    path.mkdir()
    options = f"size={mib}m,nr_inodes={inodes}"
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o {options} shoal-test {path} 2>/dev/null") != 0:
        pytest.skip("needs root and mount(2) for a small tmpfs")
    try:
        yield path
    finally:
        assert os.system(f"umount -l {path}") == 0


def opened(disk: Path, durability: str = "buffered") -> shoal.Database:
    """The store on the disk."""
    return shoal.open(disk / "db", max_bytes=128 * MIB, durability=durability, timeout=TIMEOUT_S, linger=0.2)


def put_all(kv: shoal.KVStore, keys: list[str], size: int) -> None:
    """Put a value of this size for each key, in one commit."""
    with kv.transaction(RUN) as txn:
        for key in keys:
            txn.kv.put(key, os.urandom(size))


def fill(kv: shoal.KVStore, size: int, prefix: str = "k") -> list[str]:
    """Put values of this size until the store refuses one; the keys it has."""
    keys: list[str] = []
    batch = 1 if size > 1_000 else 20
    while len(keys) < MOST_PUTS:
        new = [f"{prefix}{len(keys) + i}" for i in range(batch)]
        try:
            put_all(kv, new, size)
        except shoal.StoreFullError:
            return keys
        keys += new
    raise AssertionError("the disk does not fill")


def take_all(ballast: Path) -> None:
    """Let this file grow until the disk has nothing left."""
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


def end(db: shoal.Database) -> None:
    """Close it and wait for its coordinator to end."""
    pid = db.info().coordinator_pid
    db.close()
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the coordinator to end", TIMEOUT_S)


SIZES = pytest.mark.parametrize("mib", [16, *slow(20, 64)])
VALUES = pytest.mark.parametrize("size", [20_000, *slow(100, 3_000, 1_000_000)])


@SIZES
@VALUES
@pytest.mark.parametrize("how", ["key by key", *slow("delete_run", "half")])
def test_deletes_make_room(tmp_path: Path, mib: int, size: int, how: str) -> None:
    """A store fills its disk. Every delete works; then puts work, as much fits as before, and it opens again.

    If half of it stays, 85 % fit: when the last checkpoint was written decides on how much of the rest does.
    """
    with small_disk(tmp_path / "disk", mib) as disk:
        db = opened(disk)
        kv = shoal.KVStore(db)
        keys = fill(kv, size)
        assert len(keys) * (size + 40) > mib * MIB / 5, "little of the disk can be used"
        kept = keys[::2] if how == "half" else []
        if how == "delete_run":
            shoal.RunIndex(db).delete_run(RUN)
        else:
            delete_all(kv, keys[1::2] if how == "half" else keys, 1_000)
        soon(lambda: kv.put(RUN, "small", 1))
        again = [f"again{i}" for i in range((len(keys) - len(kept)) * (7 if kept else 8) // 10)]
        for start in range(0, len(again), 20):
            soon(partial(put_all, kv, again[start : start + 20], size))
        assert kv.list(RUN) == sorted([*kept, *again, "small"])
        end(db)
        with opened(disk) as db:
            kv = shoal.KVStore(db)
            assert kv.list(RUN) == sorted([*kept, *again, "small"])
            soon(lambda: kv.put(RUN, "small", 2))
            assert db.check() == []
            end(db)


@SIZES
@pytest.mark.parametrize("durability", ["buffered", *slow("strict")])
def test_overwrites_go_on_for_ever(tmp_path: Path, mib: int, durability: str) -> None:
    """The log grows many times past the disk while the live data does not: no commit is refused."""
    with small_disk(tmp_path / "disk", mib) as disk:
        db = opened(disk, durability)
        kv = shoal.KVStore(db)
        for i in range(4 * mib * MIB // 100_000):
            kv.put(RUN, f"k{i % 20}", os.urandom(100_000))
            kv.increment(RUN, "n")
        assert len(kv.list(RUN)) == 21
        end(db)
        with opened(disk) as db:
            assert shoal.KVStore(db).get(RUN, "n") == 4 * mib * MIB // 100_000
            end(db)


@SIZES
@pytest.mark.parametrize("durability", ["buffered", *slow("strict")])
def test_a_kill_on_a_full_disk(tmp_path: Path, mib: int, durability: str) -> None:
    """The coordinator of a store that filled its disk is killed: it opens, nothing is lost, and deletes make room."""
    with small_disk(tmp_path / "disk", mib) as disk:
        db = opened(disk, durability)
        kv = shoal.KVStore(db)
        keys = fill(kv, 20_000)
        for _ in range(3):
            kill(db.info().coordinator_pid)
            with contextlib.suppress(shoal.StoreFullError):
                kv.put(RUN, keys[0], os.urandom(20_000))  # starts another coordinator
            assert kv.list(RUN) == sorted(keys)
            assert kv.delete(RUN, keys.pop())
        for key in keys:
            assert kv.delete(RUN, key)
        kill(db.info().coordinator_pid)
        soon(lambda: kv.put(RUN, "small", 1))
        assert kv.list(RUN) == ["small"]
        assert db.check() == []
        end(db)


@SIZES
@pytest.mark.parametrize("size", [20_000, *slow(100)])
def test_another_program_fills_the_disk(tmp_path: Path, mib: int, size: int) -> None:
    """Somebody else takes all that is left: every delete works and makes room; freed, everything goes on by itself."""
    with small_disk(tmp_path / "disk", mib) as disk:
        db = opened(disk)
        kv = shoal.KVStore(db)
        keys = [f"k{i}" for i in range(mib * MIB // 8 // (size + 100))]
        for key in keys:
            kv.put(RUN, key, os.urandom(size))
        ballast = disk / "ballast"
        take_all(ballast)
        keys += fill(kv, size, "more")
        take_all(ballast)
        delete_all(kv, keys[::2], 1_000)
        soon(lambda: kv.put(RUN, "small", 1))
        take_all(ballast)
        assert kv.list(RUN) == sorted([*keys[1::2], "small"])
        kill(db.info().coordinator_pid)
        delete_all(kv, keys[1::2], 1_000)
        ballast.unlink()
        soon(lambda: kv.put(RUN, "large", os.urandom(MIB // 2)))
        assert kv.list(RUN) == ["large", "small"]
        end(db)


@pytest.mark.parametrize("number", [errno.ENOSPC, *slow(errno.EDQUOT, errno.EFBIG)], ids=errno.errorcode.get)
@pytest.mark.parametrize("durability", ["buffered", *slow("strict")])
def test_deletes_make_room_whatever_limits_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, durability: str
) -> None:
    """The same on any machine, also where a quota is what is used up: the store is full, is emptied, and goes on."""
    monkeypatch.setenv(SMALL_DISK, f"{number} {12 * MIB}")
    with mutated_coordinators("small_disk"):
        db = opened(tmp_path, durability)
        kv = shoal.KVStore(db)
        keys = fill(kv, 50_000)
        assert len(keys) * 50_000 > 3 * MIB, "little of the disk can be used"
        for key in keys[::2]:
            assert kv.delete(RUN, key)
        for i in range(2 * len(keys)):  # far more than there is room for, of the same keys again and again
            soon(partial(kv.put, RUN, f"again{i % (len(keys) // 3)}", os.urandom(50_000)))
        kill(db.info().coordinator_pid)
        assert len(kv.list(RUN, "k")) == len(keys) // 2
        shoal.RunIndex(db).delete_run(RUN)
        soon(lambda: kv.put(RUN, "small", 1))
        assert kv.list(RUN) == ["small"]
        assert db.check() == []
        end(db)


def _purged(db: shoal.Database) -> Callable[[], object]:
    """Tasks fill the store; what removes them."""
    queue = shoal.TaskQueue(db)
    with contextlib.suppress(shoal.StoreFullError):
        while True:
            queue.put(RUN, "jobs", os.urandom(10_000))
    return lambda: queue.purge(RUN, "jobs", shoal.TaskStatus.Ready)


def _trimmed(db: shoal.Database) -> Callable[[], object]:
    """Events fill the store; what removes them."""
    log = shoal.EventLog(db)
    with contextlib.suppress(shoal.StoreFullError):
        while True:
            log.append(RUN, "step", os.urandom(10_000))
    return lambda: log.trim(RUN, log.len(RUN) - 1)


def _replaced(db: shoal.Database) -> Callable[[], object]:
    """Values fill the store; what deletes them, ten at a time, and counts them in the same commit."""
    kv = shoal.KVStore(db)
    keys = fill(kv, 10_000)

    def replace() -> None:
        while keys:
            with kv.transaction(RUN) as txn:
                for key in keys[:10]:
                    txn.kv.delete(key)
                txn.kv.put("left", len(keys))
            del keys[:10]

    return replace


def _cleared(db: shoal.Database) -> Callable[[], object]:
    """Values fill the store; what deletes all of them as a run, and notes that in the same commit."""
    fill(shoal.KVStore(db), 10_000)

    def clear() -> None:
        with db.transaction("notes") as txn:
            txn.runs.delete_run(RUN)
            txn.kv.put("gone", RUN)

    return clear


@pytest.mark.parametrize("others_take_all", [True, *slow(False)])
@pytest.mark.parametrize("filled", [_purged, *slow(_trimmed, _replaced, _cleared)])
def test_what_removes_more_than_it_writes_makes_room(
    tmp_path: Path, filled: Callable[[shoal.Database], Callable[[], object]], others_take_all: bool
) -> None:
    """Tasks, events or values fill the disk. Their removal also writes; it goes on as deletes do, then puts work."""
    with small_disk(tmp_path / "disk", 16) as disk:
        db = opened(disk)
        kv = shoal.KVStore(db)
        remove = filled(db)
        if others_take_all:
            take_all(disk / "ballast")
        remove()
        soon(lambda: kv.put("other", "large", os.urandom(MIB // 2)))
        kill(db.info().coordinator_pid)
        assert kv.list("other") == ["large"]
        assert db.check() == []
        end(db)


@pytest.mark.parametrize("others_take_all", [True, *slow(False)])
def test_what_does_not_grow_leaves_the_reserve(tmp_path: Path, others_take_all: bool) -> None:
    """On a full disk values are replaced again and again, where that works: a checkpoint has room, and deletes work."""
    with small_disk(tmp_path / "disk", 16) as disk:
        db = opened(disk)
        kv = shoal.KVStore(db)
        keys = fill(kv, 20_000)
        if others_take_all:
            take_all(disk / "ballast")
        size = 20_000
        for i in range(4 * len(keys)):
            at = i % len(keys)
            size -= 100 if at == 0 else 0
            new = f"r{i}"
            try:
                with kv.transaction(RUN) as txn:
                    txn.kv.delete(keys[at])
                    txn.kv.put(new, os.urandom(size))
            except shoal.StoreFullError:
                continue
            keys[at] = new
        assert kv.list(RUN) == sorted(keys)
        kill(db.info().coordinator_pid)
        delete_all(kv, keys, 1_000)
        soon(lambda: kv.put(RUN, "small", 1))
        assert kv.list(RUN) == ["small"]
        assert db.check() == []
        end(db)


@pytest.mark.parametrize(("size", "at_once"), [(8, 200), *slow((8, 1), (60, 1), (60, 200), (200, 1), (200, 200))])
def test_small_values_are_deleted_and_counted(tmp_path: Path, size: int, at_once: int) -> None:
    """Small values fill the disk. What deletes and counts them frees less than its record; it goes on all the same."""
    with small_disk(tmp_path / "disk", 16) as disk:
        db = opened(disk)
        kv = shoal.KVStore(db)
        keys = fill(kv, size)
        for _ in range(min(5_000, len(keys) // at_once)):
            with kv.transaction(RUN) as txn:
                for key in keys[-at_once:]:
                    txn.kv.delete(key)
                txn.kv.put("left", len(keys))
            del keys[-at_once:]
        assert kv.list(RUN) == sorted([*keys, "left"])
        kill(db.info().coordinator_pid)
        delete_all(kv, keys, 1_000)
        soon(lambda: kv.put("other", "large", os.urandom(MIB // 2)))
        assert kv.list(RUN) == ["left"]
        assert db.check() == []
        end(db)

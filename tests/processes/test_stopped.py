"""Processes that stop without dying (SIGSTOP, a debugger, a swapped-out machine) neither lose nor hold up others."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.primitives.facades.fleet.idempotency import results
from shoal.shm.wire import pipe_messages
from shoal.workers.shared_memory import channel
from tests.support.slow import slow
from tests.support.workers.crash_workers import DEADLINE_S, wait_for

RUN = "stopped"


def _wait_until_stopped(pid: int) -> None:
    def stopped() -> bool:
        threads = Path(f"/proc/{pid}/task").iterdir()
        return all((thread / "stat").read_text().rpartition(")")[2].split()[0] in "tT" for thread in threads)

    wait_for(stopped, f"process {pid} to stop")


class Stopped:
    """A process is stopped meanwhile."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def __enter__(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)
        _wait_until_stopped(self._pid)

    def __exit__(self, *_error: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGCONT)


class _Thread(threading.Thread):
    """Runs one call and keeps what came of it."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.result: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:
            self.result = error

    def ended(self) -> Any:
        self.join(DEADLINE_S)
        assert not self.is_alive()
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


SLOW = pytest.mark.slow


@pytest.mark.long
@pytest.mark.parametrize("durability", [pytest.param("buffered", marks=SLOW), "strict"])
def test_commits_wait_for_a_stopped_coordinator(store: Path, durability: str) -> None:
    """A commit sent to a stopped coordinator waits, and is done once when it goes on; reads need no coordinator.

    No second coordinator is started: whoever comes meanwhile is told in the end that there is none to be reached.
    """
    with shoal.open(store, durability=durability, linger=0.05) as db:
        kv = shoal.KVStore(db)
        kv.put(RUN, "key", "value")
        pid = db.info().coordinator_pid
        with Stopped(pid):
            waiting = [_Thread(lambda: kv.increment(RUN, "sum")) for _ in range(3)]
            with db.snapshot(RUN) as view:
                assert view.kv.get("key") == "value"
                assert kv.get(RUN, "key") == "value"
            with pytest.raises(shoal.CoordinatorLostError, match="see which process holds"):
                shoal.open(store, timeout=0.3)
            assert all(thread.is_alive() for thread in waiting)
        assert sorted(thread.ended() for thread in waiting) == [1, 2, 3]
        assert db.info().coordinator_pid == pid
        assert kv.get(RUN, "sum") == 3
        assert db.check() == []


def test_an_idempotency_ttl_counts_from_a_commit_that_waited(store: Path) -> None:
    """A stopped coordinator takes none of it away: the result is kept for all of it from when the commit is done."""
    with shoal.open(store, durability="buffered", linger=0.05) as db:
        with Stopped(db.info().coordinator_pid):
            waiting = _Thread(
                lambda: db.transact(RUN, lambda txn: txn.kv.increment("n"), idempotency_key="k", idempotency_ttl=60)
            )
            time.sleep(0.2)
            going_on_ms = time.time_ns() // 1_000_000
        assert waiting.ended() == 1
        with db.snapshot(RUN) as view:
            (result,) = results(view._begun(), shoal.Namespace(), RUN)
        assert (result.value, result.expires_ms >= going_on_ms + 60_000) == (1, True)


@pytest.mark.long
@pytest.mark.parametrize("large", [False, *slow(True)], ids=["small", "larger than the pipe"])
def test_commits_give_up_on_a_stopped_coordinator(store: Path, large: bool) -> None:
    """After ``timeout`` seconds commits of all threads are refused with the pid, and closing and opening do not hang.

    When the coordinator goes on, the database works again, and no late answer is taken for another commit's.
    """
    value = bytes(4 << 20) if large else b""
    with (
        shoal.open(store, linger=0.05) as another,
        shoal.open(store, timeout=1.5) as db,
    ):
        kv = shoal.KVStore(db)
        kv.put(RUN, "sum", 0)
        pid = db.info().coordinator_pid
        told: list[int] = []

        def commit() -> int:
            with db.transaction(RUN) as txn:
                txn.kv.put("large", value)
                return txn.kv.increment("sum")

        with Stopped(pid):
            begin_s = time.monotonic()
            waiting = [_Thread(lambda: kv.increment(RUN, "sum") if not large else commit()) for _ in range(6)]
            for thread in waiting:
                with pytest.raises(shoal.CoordinatorLostError, match=f"process {pid}, does not answer"):
                    thread.ended()
            with pytest.raises(shoal.CoordinatorLostError, match=f"process {pid}, does not answer"):
                kv.put(RUN, "key", 1)
            with pytest.raises(shoal.CoordinatorLostError, match=f"process {pid}, does not answer"):
                shoal.open(store, timeout=0.2)
            another.close()
            assert time.monotonic() - begin_s < 8  # 3.2 s, or more than 9 if they waited for each other
        for _ in range(50):
            told.append(kv.increment(RUN, "sum"))
        assert db.info().coordinator_pid == pid
        assert told == list(range(told[0], told[0] + 50))
        assert told[0] <= 7
        assert kv.get(RUN, "sum") == told[-1]
        assert db.check() == []
        wait_for(lambda: db.info().clients == 1, "the coordinator to forget what gave up", seconds=20)


@pytest.mark.long
def test_without_a_timeout_a_commit_waits(store: Path) -> None:
    """``timeout=inf``: it is done when the coordinator goes on."""
    with shoal.open(store, linger=0.05, timeout=math.inf) as db:
        kv = shoal.KVStore(db)
        with Stopped(db.info().coordinator_pid):
            thread = _Thread(lambda: kv.increment(RUN, "sum"))
            thread.join(0.3)
            assert thread.is_alive()
        assert thread.ended() == 1


def _client(store: Path, pipe: Connection, stop_in: str) -> None:
    with shoal.open(store, linger=0.05) as db:
        kv = shoal.KVStore(db)
        kv.put(RUN, "mine", 0)
        view = db.snapshot(RUN)
        assert view.kv.get("shared") == "old"

        def write_half(fd: int, data: bytes, _give_up_s: float) -> None:
            half = len(data) // 2
            pipe_messages.write_all(fd, data[:half])
            os.kill(os.getpid(), signal.SIGSTOP)
            pipe_messages.write_all(fd, data[half:])

        def write_and_stop(fd: int, data: bytes, _give_up_s: float) -> None:
            pipe_messages.write_all(fd, data)
            os.kill(os.getpid(), signal.SIGSTOP)

        writing = {"request": write_half, "answer": write_and_stop}.get(stop_in, pipe_messages.write_all)
        patched = pytest.MonkeyPatch()
        patched.setattr(channel, "write_all", writing)
        pipe.send(os.getpid())
        if stop_in == "snapshot":
            os.kill(os.getpid(), signal.SIGSTOP)
        told = kv.increment(RUN, "mine")
        patched.undo()
        try:
            seen = view.kv.get("shared")
        except shoal.SnapshotExpiredError:
            seen = "revoked"
        view.close()
        pipe.send((told, seen, kv.get(RUN, "shared")))


@pytest.fixture
def stopped_client(store: Path) -> Iterator[Callable[[str], tuple[int, Connection]]]:
    """Start a client that stops itself in the middle of something; its pid, and the pipe to hear from it."""
    fork = multiprocessing.get_context("fork")
    started = []

    def start(stop_in: str) -> tuple[int, Connection]:
        here, there = fork.Pipe()
        process = fork.Process(target=_client, args=(store, there, stop_in))
        process.start()
        started.append((process, here, there))
        assert here.poll(DEADLINE_S)
        pid = here.recv()
        _wait_until_stopped(pid)
        return pid, here

    yield start
    for process, here, there in started:
        process.kill()
        process.join()
        process.close()
        here.close()
        there.close()


@pytest.mark.parametrize(
    ("stop_in", "then"),
    [
        ("request", "goes on"),
        ("snapshot", "is killed"),
        pytest.param("answer", "goes on", marks=SLOW),
        pytest.param("snapshot", "goes on", marks=SLOW),
        pytest.param("request", "is killed", marks=SLOW),
        pytest.param("answer", "is killed", marks=SLOW),
    ],
)
def test_a_stopped_client_holds_nobody_up(
    store: Path, stopped_client: Callable[[str], tuple[int, Connection]], stop_in: str, then: str
) -> None:
    """A client stopped with half a request sent, or before it read the answer, or with a snapshot open: others go on.

    When it goes on, its commit is done once and its snapshot is as it was; when it is killed, nothing of it is left.
    """
    with shoal.open(store, linger=0.05) as db:
        kv = shoal.KVStore(db)
        kv.put(RUN, "shared", "old")
        pid, pipe = stopped_client(stop_in)
        for i in range(50):
            kv.put(RUN, "shared", f"new {i}")
        assert kv.increment(RUN, "sum", 50) == 50
        assert db.check() == []
        assert db.info().clients == 2
        if then == "goes on":
            os.kill(pid, signal.SIGCONT)
            assert pipe.poll(DEADLINE_S)
            assert pipe.recv() == (1, "old", "new 49")
        else:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: db.info().clients == 1, "the coordinator to notice that the client has gone")
        done = then == "goes on" or stop_in == "answer"  # killed before its request was whole, it did nothing
        assert kv.get(RUN, "mine") == (1 if done else 0)
        assert kv.get(RUN, "shared") == "new 49"
        assert db.check() == []


def _is_put(kv: shoal.KVStore, value: bytes) -> bool:
    try:
        kv.put(RUN, "large", value)
    except shoal.StoreFullError:
        return False
    return True


@SLOW
def test_a_stopped_client_does_not_keep_all_history(
    store: Path, stopped_client: Callable[[str], tuple[int, Connection]]
) -> None:
    """A client stopped with a snapshot open, in a store that is too small for all history: its snapshot is revoked.

    It is told so, and its commit is done. Others find the store full for seconds at most.
    """
    with shoal.open(store, max_bytes=8 << 20, linger=0.05) as db:
        kv = shoal.KVStore(db)
        kv.put(RUN, "shared", "old")
        pid, pipe = stopped_client("snapshot")
        for i in range(300):
            value = bytes([i & 255]) * 100_000
            wait_for(partial(_is_put, kv, value), "room for a value", pause_s=0.05)
        kv.put(RUN, "shared", "new")
        os.kill(pid, signal.SIGCONT)
        assert pipe.poll(DEADLINE_S)
        told, seen, now = pipe.recv()
        assert (told, seen, now) == (1, "revoked", "new")
        wait_for(lambda: db.info().clients == 1, "the client to end")
        assert kv.get(RUN, "shared") == "new"
        assert db.check() == []


@pytest.mark.long
def test_a_stopped_coordinator_that_is_killed_is_replaced(store: Path) -> None:
    """Killed while it is stopped with commits waiting: the next coordinator does them, each once."""
    with shoal.open(store, linger=0.05) as db:
        kv = shoal.KVStore(db)
        kv.put(RUN, "key", "value")
        pid = db.info().coordinator_pid
        with Stopped(pid):
            waiting = [_Thread(lambda: kv.increment(RUN, "sum")) for _ in range(3)]
            wait_for(lambda: all(thread.is_alive() for thread in waiting), "commits to wait")
            os.kill(pid, signal.SIGKILL)
            assert sorted(thread.ended() for thread in waiting) == [1, 2, 3]
        assert db.info().coordinator_pid != pid
        assert kv.get(RUN, "sum") == 3
        assert db.check() == []


@pytest.mark.long
def test_a_stopped_coordinator_ends_no_holder(store: Path) -> None:
    """A holder renews while the coordinator is stopped for longer than its ttl; once that goes on, it knows."""
    with shoal.open(store, linger=0.2) as db, db.lease(RUN, "a", ttl=0.5) as lease:
        pid = db.info().coordinator_pid
        for _ in range(3):
            time.sleep(0.3)
            with Stopped(pid):
                time.sleep(1.2)
            time.sleep(0.3)
            with db.transaction(RUN, fence=lease) as txn:
                txn.kv.put("k", 1)

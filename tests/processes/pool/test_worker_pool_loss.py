"""Workers that are lost, stopped, or cannot be started: only their own tasks feel it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import os
import resource
import signal
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.shm.host.shortage import SHORTAGES
from shoal.workers.pool import channel, supervisor, worker_process
from tests.processes.pool.pool_processes import is_running, wait_for
from tests.support.present import present
from tests.support.slow import slow
from tests.support.workers import pool_functions as functions

pytestmark = pytest.mark.uncompiled

METHODS = ["fork", *slow("spawn"), "forkserver"]
LARGE = b"x" * 3_000_000  # more than a socket takes


@pytest.mark.parametrize("method", METHODS)
def test_a_helper_of_a_dead_worker_hides_nothing(memory_db: shoal.Database, method: str) -> None:
    """A process that a task has forked holds copies of the worker's descriptors; the worker's death is seen at once."""
    with shoal.WorkerPool(memory_db.path, 1, mp_context=method) as pool:
        pool.submit(functions.pid).result(30)
        begin = time.monotonic()
        with pytest.raises(shoal.WorkerLostError, match="exit code -9"):
            pool.submit(functions.leave_helper_and_die, 15).result(30)
        assert pool.submit(functions.echo, 1).result(30) == 1
        assert time.monotonic() - begin < 12


@pytest.mark.parametrize("method", METHODS)
def test_workers_that_all_died_are_replaced(memory_db: shoal.Database, method: str) -> None:
    """Without anybody submitting, and while tasks wait."""
    with shoal.WorkerPool(memory_db.path, 2, mp_context=method) as pool:
        pool.submit(functions.pid).result(30)
        wait_for(lambda: len(pool.worker_pids) == 2)
        lost = [pool.submit(functions.die) for _ in range(4)]
        last = pool.submit(functions.echo, "last")
        for future in lost:
            assert isinstance(future.exception(30), shoal.WorkerLostError)
        assert last.result(30) == "last"
        wait_for(lambda: len(pool.worker_pids) == 2)


@pytest.mark.parametrize("method", METHODS)
def test_a_task_that_no_worker_has_read_is_not_lost(memory_db: shoal.Database, method: str) -> None:
    """A worker is killed while it has nothing to do; the task that is sent to it meanwhile goes to the next one."""
    with shoal.WorkerPool(memory_db.path, 1, mp_context=method) as pool:
        for i in range(5):
            os.kill(pool.submit(functions.pid).result(30), signal.SIGKILL)
            assert pool.submit(functions.echo, i).result(30) == i
        stopped = pool.submit(functions.pid).result(30)
        os.kill(stopped, signal.SIGSTOP)
        future = pool.submit(functions.echo, "unread")
        wait_for(future.running)
        os.kill(stopped, signal.SIGKILL)
        assert future.result(30) == "unread"


def test_a_large_task_that_was_not_read_uses_up_a_retry(memory_db: shoal.Database) -> None:
    """Reading it may be what ends its workers, so it does not go to one after the other for ever."""
    with shoal.WorkerPool(memory_db.path, 1, retries=1) as pool:
        stopped = pool.submit(functions.pid).result(30)
        os.kill(stopped, signal.SIGSTOP)
        future = pool.submit(functions.pid, LARGE)
        wait_for(future.running)
        task = future.task  # type: ignore[attr-defined]  # of a TaskFuture
        os.kill(stopped, signal.SIGKILL)
        assert future.result(30) != stopped
        assert task.retries == 0


@pytest.mark.parametrize("method", METHODS)
def test_max_tasks_per_child(memory_db: shoal.Database, method: str) -> None:
    """A worker is replaced after so many tasks, with any start method; threads of its tasks end before."""
    with shoal.WorkerPool(memory_db.path, 1, mp_context=method, max_tasks_per_child=2) as pool:
        pids = [pool.submit(functions.pid).result(30) for _ in range(6)]
    assert pids[0::2] == pids[1::2]
    assert len(set(pids)) == 3


@pytest.mark.long
def test_a_stopped_worker_delays_its_own_task_only(memory_db: shoal.Database) -> None:
    """SIGSTOP while the pool sends it large arguments: others go on; continued, it does its task. Then kill() works."""
    pool = shoal.WorkerPool(memory_db.path, 2)
    try:
        wait_for(lambda: len(set(pool.map(functions.slow_pid, range(4)))) == 2)
        victim = pool.worker_pids[0]
        os.kill(victim, signal.SIGSTOP)
        futures = [pool.submit(functions.pid, LARGE) for _ in range(6)]
        wait_for(lambda: sum(future.done() for future in futures) == 5)
        os.kill(victim, signal.SIGCONT)
        assert [future.result(30) for future in futures].count(victim) == 1
        os.kill(victim, signal.SIGSTOP)
        futures = [pool.submit(functions.pid, LARGE) for _ in range(3)]
        wait_for(lambda: sum(future.done() for future in futures) == 2)
    finally:
        begin = time.monotonic()
        pool.kill()
    assert time.monotonic() - begin < 5
    wait_for(lambda: not is_running(victim))
    assert [type(future.exception(0)) for future in futures].count(shoal.WorkerLostError) == 1


def _answers_with_both(pool: shoal.WorkerPool) -> bool:
    return len(set(pool.map(functions.slow_pid, range(4)))) == 2


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _have_done(futures: list[concurrent.futures.Future[int]], count: int) -> bool:
    return sum(future.done() for future in futures) == count


def _has_ended(pid: int) -> bool:
    return not is_running(pid)


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "busy"),
    [
        ("fork", False),
        ("forkserver", True),
        *slow(("fork", True), ("forkserver", False), ("spawn", False), ("spawn", True)),
    ],
)
def test_kill_does_not_wait_for_a_suspended_worker(memory_db: shoal.Database, method: str, busy: bool) -> None:
    """Its task is lost at once, a debugger can still let go of it, and it is dead soon, continued or not."""
    for is_continued in (True, False):
        pool = shoal.WorkerPool(memory_db.path, 2, mp_context=method)
        wait_for(partial(_answers_with_both, pool))
        victim, other = pool.worker_pids
        os.kill(victim, signal.SIGSTOP)
        wait_for(partial(_is_stopped, victim))
        futures = [pool.submit(functions.pid, LARGE) for _ in range(8 if busy else 0)]
        wait_for(partial(_have_done, futures, 7 if busy else 0))
        pool.kill()
        if is_continued:
            os.kill(victim, signal.SIGCONT)
        assert not is_running(other)
        lost = [type(future.exception(0)) for future in futures]
        assert lost.count(shoal.WorkerLostError) == (1 if busy else 0)
        wait_for(partial(_has_ended, victim))


def test_large_arguments_and_results(memory_db: shoal.Database) -> None:
    """They pass whole, both ways at once, through several workers."""
    values = [bytes([number]) * (2_000_000 + number) for number in range(8)]
    with shoal.WorkerPool(memory_db.path, 2) as pool:
        assert list(pool.map(functions.echo, values)) == values


@pytest.mark.long
def test_retries_only_after_a_lost_worker(memory_db: shoal.Database) -> None:
    """An exception is not retried; neither is a task that ran for too long."""
    with shoal.WorkerPool(memory_db.path, 1, retries=3, timeout=0.5) as pool:
        with pytest.raises(functions.FrozenError):
            pool.submit(functions.fail, "frozen").result(30)
        begin = time.monotonic()
        with pytest.raises(shoal.TaskTimeoutError):
            pool.submit(time.sleep, 20).result(30)
        assert time.monotonic() - begin < 10


@pytest.mark.parametrize("method", METHODS)
def test_an_initializer_runs_in_every_worker(memory_db: shoal.Database, tmp_path: Path, method: str) -> None:
    """Before its first task, with the store at hand; with fork it need not be picklable."""
    key = f"initialized-{method}"

    def local() -> None:
        shoal.KVStore(shoal.current_database()).increment("initializers", key)

    initializer, arguments = (local, ()) if method == "fork" else (functions.initialize, (key,))
    with shoal.WorkerPool(
        memory_db.path, max_workers=2, mp_context=method, initializer=initializer, initargs=arguments
    ) as pool:
        wait_for(lambda: len(set(pool.map(functions.slow_pid, range(4)))) == 2)
    assert shoal.KVStore(memory_db).get("initializers", key) == 2


def test_an_initializer_that_raises_breaks_the_pool(memory_db: shoal.Database) -> None:
    """As with ProcessPoolExecutor: all futures and submit raise BrokenProcessPool, which says why."""
    with shoal.WorkerPool(memory_db.path, 2, initializer=functions.fail_to_begin) as pool:
        futures = [pool.submit(functions.pid) for _ in range(5)]
        for future in futures:
            with pytest.raises(BrokenProcessPool, match="LookupError: no licence") as caught:
                future.result(30)
            assert "in fail_to_begin" in str(caught.value.__cause__)
            assert isinstance(caught.value, shoal.ShoalError)
        with pytest.raises(BrokenProcessPool, match="no licence"):
            pool.submit(functions.pid)
    assert pool.worker_pids == []


@pytest.mark.long
def test_workers_that_die_before_they_are_ready_break_the_pool(memory_db: shoal.Database) -> None:
    """It does not start them for ever; the error says how they died."""
    with shoal.WorkerPool(memory_db.path, 2, initializer=functions.die_at_once) as pool:
        error = pool.submit(functions.pid).exception(60)
    assert isinstance(error, BrokenProcessPool)
    assert "died before they were ready, the last with exit code 9" in str(error)


def test_a_worker_that_cannot_attach_says_why(tmp_path: Path) -> None:
    """The store's own error reaches the futures and submit."""
    with shoal.WorkerPool(tmp_path / "store", 1, durability="memory", linger=0.0) as pool:
        os.kill(pool.database.info().coordinator_pid, signal.SIGKILL)
        (tmp_path / "store" / "store.json").write_text("{")
        error = pool.submit(functions.pid).exception(60)
        assert isinstance(error, shoal.ShoalError)
        with pytest.raises(type(error)):
            pool.submit(functions.pid)


@contextlib.contextmanager
def no_descriptors_left() -> Iterator[None]:
    """No descriptor can be opened meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    hoard: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                hoard.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for descriptor in hoard:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.long
@pytest.mark.parametrize("method", ["forkserver", *slow("fork", "spawn")])
def test_without_descriptors_the_pool_waits(
    memory_db: shoal.Database, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A replacement that cannot be started is tried again; what runs keeps its result, what waits waits; said once."""
    with shoal.WorkerPool(memory_db.path, 2, mp_context=method) as pool, caplog.at_level(logging.WARNING, "shoal"):
        wait_for(lambda: len(set(pool.map(functions.slow_pid, range(4)))) == 2)
        running = pool.submit(functions.sleep_then, 1.5, "running")
        time.sleep(0.2)
        with no_descriptors_left():
            lost = pool.submit(functions.die)
            waiting = [pool.submit(functions.echo, number) for number in range(3)]
            assert isinstance(lost.exception(30), shoal.WorkerLostError)
            time.sleep(0.5)
        assert running.result(30) == "running"
        assert [future.result(30) for future in waiting] == [0, 1, 2]
        wait_for(lambda: len(pool.worker_pids) == 2)
        said = [record for record in caplog.records if "cannot be started now" in record.getMessage()]
        assert len(said) == 1


@pytest.mark.parametrize("number", sorted(SHORTAGES))
def test_each_shortage_is_waited_out(memory_db: shoal.Database, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Memory, processes and descriptors, of this process or the machine: the start is tried again."""
    start, failures = worker_process.start_worker, iter([number] * 3)

    def start_worker(*arguments: Any) -> Any:
        for failure in failures:
            raise OSError(failure, os.strerror(failure))
        return start(*arguments)

    monkeypatch.setattr(supervisor, "start_worker", start_worker)
    with shoal.WorkerPool(memory_db.path, 1) as pool:
        assert pool.submit(functions.echo, 1).result(30) == 1


def test_an_error_of_the_pool_itself_is_logged(
    memory_db: shoal.Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A task whose exchange fails here gets that error; the worker is replaced, the pool goes on."""
    receive = channel.Channel.receive
    failures: list[int] = []

    def broken(self: Any) -> Any:
        message = receive(self)
        if message is not None and message[0] == channel.RESULT and not failures:
            failures.append(1)
            raise MemoryError("no room for the result")
        return message

    monkeypatch.setattr(channel.Channel, "receive", broken)
    with shoal.WorkerPool(memory_db.path, 1) as pool:
        with pytest.raises(MemoryError):
            pool.submit(functions.pid).result(30)
        assert pool.submit(functions.echo, 2).result(30) == 2
    assert "a supervisor of the pool failed" in caplog.text


@pytest.mark.long
def test_the_process_that_forks_is_lost(memory_db: shoal.Database) -> None:
    """With fork no worker can be started any more: the pool says so and does not hang; what runs keeps its result."""
    with shoal.WorkerPool(memory_db.path, 2, mp_context="fork") as pool:
        wait_for(lambda: len(set(pool.map(functions.slow_pid, range(4)))) == 2)
        running = pool.submit(functions.sleep_then, 1.0, "running")
        time.sleep(0.2)
        os.kill(present(present(pool._state.template).pid), signal.SIGKILL)
        assert isinstance(pool.submit(functions.die).exception(30), shoal.WorkerLostError)
        with pytest.raises((BrokenProcessPool, shoal.WorkerLostError), match="forks"):
            concurrent.futures.wait([pool.submit(functions.pid)], 30).done.pop().result()
        assert running.result(30) == "running"


@pytest.mark.long
def test_the_fork_server_is_lost(memory_db: shoal.Database) -> None:
    """Killed, it is started anew; running tasks do not notice."""
    with shoal.WorkerPool(memory_db.path, 2) as pool:
        wait_for(lambda: len(set(pool.map(functions.slow_pid, range(4)))) == 2)
        running = pool.submit(functions.sleep_then, 1.0, "running")
        time.sleep(0.2)
        stat = Path(f"/proc/{pool.worker_pids[0]}/stat").read_text()
        os.kill(int(stat.rsplit(")", 1)[1].split()[1]), signal.SIGKILL)
        assert isinstance(pool.submit(functions.die).exception(30), shoal.WorkerLostError)
        assert pool.submit(functions.echo, 1).result(30) == 1
        assert running.result(30) == "running"

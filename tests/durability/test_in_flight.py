"""A commit under way when its coordinator dies, and a store that does not open again: what the caller is told."""

from __future__ import annotations

import _thread
import gc
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import shoal
from shoal.coordinator.server import process
from shoal.primitives.rules.registry import TABLE
from shoal.shm.errors import ConfigurationError, StoreFullError
from shoal.shm.limits import Limits
from shoal.workers.shared_memory import take_over
from tests.mutants.coordinator import mutated_coordinators
from tests.support.shared_memory import store_of
from tests.support.slow import slow

RUN = "run"


def _attach_fails(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def attach(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(take_over, "attach", attach)


def _die(db: shoal.Database, pid: int) -> None:
    """Kill the coordinator, and wait until nobody reads from its pipe: until then a request can still be sent."""
    poller = select.poll()
    poller.register(store_of(db).connection.attachment.request_fd, 0)
    os.kill(pid, signal.SIGKILL)
    assert poller.poll(10_000)  # or who waited for an answer has closed it


@pytest.mark.long
@pytest.mark.parametrize(
    "error", [StoreFullError("no room for the log"), OSError("no process"), ConfigurationError("no")]
)
def test_a_commit_that_was_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """It may be done: CoordinatorLostError with the cause, never the error that says that nothing was written."""
    told: list[BaseException] = []
    with shoal.open(tmp_path / "store", linger=0.1) as db:
        kv = shoal.KVStore(db)
        kv.put(RUN, "key", 1)
        pid = db.info().coordinator_pid
        os.kill(pid, signal.SIGSTOP)
        _attach_fails(monkeypatch, error)

        def put() -> None:
            try:
                kv.put(RUN, "key", 2)
            except Exception as raised:
                told.append(raised)

        thread = threading.Thread(target=put)
        thread.start()
        time.sleep(0.2)  # it is in the pipe
        _die(db, pid)
        thread.join()
        assert [type(each) for each in told] == [shoal.CoordinatorLostError]
        assert str(error) in str(told[0])
        assert "whether this commit is done" in str(told[0])
        assert told[0].__cause__ is error
        monkeypatch.undo()
        assert kv.get(RUN, "key") == 1  # here the coordinator had never looked
        kv.put(RUN, "key", 3)
        assert kv.get(RUN, "key") == 3


@pytest.mark.long
def test_a_commit_that_was_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator was gone before: the error is the one that keeps the store closed."""
    with shoal.open(tmp_path / "store", linger=0.1) as db:
        kv = shoal.KVStore(db)
        kv.put(RUN, "key", 1)
        _die(db, db.info().coordinator_pid)
        _attach_fails(monkeypatch, StoreFullError("no room for the log"))
        with pytest.raises(StoreFullError, match="no room for the log"):
            kv.put(RUN, "key", 2)
        monkeypatch.undo()
        kv.put(RUN, "key", 3)
        assert kv.get(RUN, "key") == 3


@pytest.mark.long
@pytest.mark.parametrize("kind", ["put", *slow("transaction", "increment"), "pipeline"])
def test_a_commit_that_ends_coordinators(tmp_path: Path, kind: str) -> None:
    """Two coordinators die of it, then it is refused; other commits, before and after it, are done by the next ones."""
    with mutated_coordinators("poisoned"), shoal.open(tmp_path / "store", linger=0.1) as db:
        kv = shoal.KVStore(db)
        kv.put(RUN, "key", 1)

        def send() -> None:
            with db.pipeline(RUN) as pipe:
                for _ in range(10):
                    pipe.kv.put("poison", 1)

        generation = store_of(db).connection.attachment.generation
        commits: dict[str, Callable[[], object]] = {
            "put": lambda: kv.put(RUN, "poison", 1),
            "increment": lambda: kv.increment(RUN, "poison"),
            "pipeline": send,
            "transaction": lambda: db.transact(RUN, lambda txn: txn.kv.put("poison", 1)),
        }
        with pytest.raises(shoal.CoordinatorLostError, match="2 coordinators died while they did this commit"):
            commits[kind]()
        kv.put(RUN, "key", 2)
        assert store_of(db).connection.attachment.generation == generation + 2
        assert kv.list_with_values(RUN) == [("key", 2)]


@pytest.mark.long
def test_deaths_of_other_reasons_do_not_add_up(tmp_path: Path) -> None:
    """Coordinators that die between commits, or before a commit is sent, refuse nobody."""
    with shoal.open(tmp_path / "store", linger=0.1) as db:
        kv = shoal.KVStore(db)
        for i in range(5):
            assert kv.increment(RUN, "sum") == i + 1
            _die(db, db.info().coordinator_pid)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # a process ends here, and its listener with it
@pytest.mark.parametrize("how", ["refused", "never begins"])
def test_no_thread_to_sync_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """A buffered coordinator that gets no thread ends with an error, in bounded time; it serves nobody, hangs never."""

    def start_new_thread(*_arguments: object) -> None:
        if how == "refused":
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", start_new_thread)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ready = threading.Event()
    try:
        with pytest.raises(OSError, match="sync"):
            process.serve(
                tmp_path / "store", "buffered", None, 0.1, ready.set, TABLE, limits=Limits(thread_start_s=0.1)
            )
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert not ready.is_set()
    monkeypatch.undo()
    gc.collect()
    with shoal.open(tmp_path / "store", linger=0.1) as db:  # and it left nothing locked
        shoal.KVStore(db).put(RUN, "key", 1)

"""Several processes and threads on one store: spawn, fork, forkserver, and processes that have nothing in common."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import KVStore
from shoal.shm import limits
from tests.support.present import present
from tests.support.workers.forked import run_in_child

METHODS = ["fork", "spawn", "forkserver"]
DEADLINE_S = 60


def start_all(context: Any, target: Any, arguments: Any) -> None:
    """Run ``target`` in one process for each tuple of ``arguments``; all must end well."""
    processes = [context.Process(target=target, args=args) for args in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(DEADLINE_S)
    codes = [process.exitcode for process in processes]
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()
    assert codes == [0] * len(processes)


def write_and_read(db: shoal.Database, name: str) -> None:
    kv = KVStore(db)
    assert kv.get("r", "from parent") == 1
    kv.put("r", name, os.getpid())
    with db.transaction("r") as txn:
        txn.kv.put(f"{name}/txn", txn.kv.get(name))
    assert kv.get("r", f"{name}/txn") == os.getpid()


def increment_many(db: shoal.Database, run: str, times: int) -> None:
    kv = KVStore(db)
    seen = [kv.increment(run, "n", 3) for _ in range(times)]
    assert seen == sorted(set(seen))


def transfer_many(db: shoal.Database, run: str, seed: int) -> None:
    for number in range(25):
        source, target = f"{(seed + number) % 5}", f"{(seed * 3 + number * 2 + 1) % 5}"
        if source != target:
            db.transact(run, partial(move, source=source, target=target), retries=10_000)


def move(txn: shoal.Transaction, source: str, target: str) -> None:
    assert sum(value for _, value in txn.kv.list_with_values()) == 500
    txn.kv.put(source, txn.kv.get(source) - 1)
    txn.kv.put(target, txn.kv.get(target) + 1)


class TestStartMethods:
    @pytest.mark.long
    @pytest.mark.parametrize("method", METHODS)
    def test_database_as_an_argument(self, memory_db: shoal.Database, kv: shoal.KVStore, method: Any) -> None:
        """A Database handed to a process attaches there by itself; what it writes is seen here."""
        kv.put("r", "from parent", 1)
        context = multiprocessing.get_context(method)
        start_all(context, write_and_read, [(memory_db, f"{method}/{number}") for number in range(2)])
        for number in range(2):
            written = kv.get("r", f"{method}/{number}")
            assert written == kv.get("r", f"{method}/{number}/txn")
            assert written != os.getpid()

    @pytest.mark.long
    def test_increments_of_four_processes(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """Increments never conflict: the sum is exact, and nobody is told the same number twice."""
        start_all(multiprocessing.get_context("fork"), increment_many, [(memory_db, run, 200)] * 4)
        assert kv.get(run, "n") == 4 * 200 * 3

    @pytest.mark.long
    def test_transactions_of_four_processes_keep_an_invariant(
        self, memory_db: shoal.Database, kv: shoal.KVStore, run: str
    ) -> None:
        """Transfers between accounts keep their sum in every snapshot and at the end."""
        for account in range(5):
            kv.put(run, str(account), 100)
        start_all(multiprocessing.get_context("fork"), transfer_many, [(memory_db, run, seed) for seed in range(4)])
        assert sum(value for _, value in kv.list_with_values(run)) == 500
        assert memory_db.check() == []


class TestPickling:
    def test_round_trip_is_an_attachment_of_its_own(self, store: Path) -> None:
        """A Database unpickled in the same process is another attachment to the same store; closing it leaves ours."""
        with shoal.open(store, durability="memory", linger=0.1) as db:
            with pickle.loads(pickle.dumps(db)) as copy:
                assert copy is not db
                KVStore(copy).put("r", "k", 1)
                assert KVStore(db).get("r", "k") == 1
                assert copy.info().path == db.info().path
                assert db.info().clients == 2
            KVStore(db).put("r", "k", 2)
            assert KVStore(db).get("r", "k") == 2

    def test_errors_and_namespaces(self) -> None:
        """Errors keep class, fields and message through pickle; a Namespace stays equal."""
        for error in (
            shoal.ConflictError("k", 1, 2),
            shoal.CASConflictError("k", 1, 2),
            shoal.SnapshotExpiredError(1, 2),
            shoal.LimitExceededError("size", 1, 2),
            shoal.CorruptionError("f", 1, "a", "b"),
            shoal.StoreFullError("full"),
        ):
            copy = pickle.loads(pickle.dumps(error))
            assert type(copy) is type(error)
            assert (str(copy), vars(copy)) == (str(error), vars(error))
        space = shoal.Namespace(tenant="acme")
        assert pickle.loads(pickle.dumps(space)) == space


class TestUnrelatedProcess:
    @pytest.mark.long
    def test_opens_the_same_path(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """A process started by itself that opens the path sees our data, and we see its."""
        code = (
            "import sys, shoal\n"
            "with shoal.open(sys.argv[1]) as db:\n"
            "    kv = shoal.KVStore(db)\n"
            "    kv.put(sys.argv[2], 'reply', [kv.get(sys.argv[2], 'k'), db.info().coordinator_pid])\n"
        )
        kv.put(run, "k", "question")
        command = [sys.executable, "-c", code, memory_db.path, run]
        result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert (result.returncode, result.stderr) == (0, "")
        assert kv.get(run, "reply") == ["question", memory_db.info().coordinator_pid]

    @pytest.mark.long
    def test_store_outlives_the_process_that_started_it(self, store: Path) -> None:
        """The coordinator is a process of its own: who opened first may end, with os._exit, and we go on."""
        code = "import sys, os, shoal\ndb = shoal.open(sys.argv[1])\nshoal.KVStore(db).put('r', 'k', 1)\nos._exit(0)\n"
        subprocess.run([sys.executable, "-c", code, store], timeout=DEADLINE_S, check=True)
        with shoal.open(store, linger=0.1) as db:
            assert KVStore(db).get("r", "k") == 1

    @pytest.mark.long
    def test_several_that_open_at_once_share_one_coordinator(self, store: Path) -> None:
        """Processes that open a new store at the same moment find one coordinator."""
        code = (
            "import sys, shoal\n"
            "with shoal.open(sys.argv[1], durability='memory', linger=2.0) as db:\n"
            "    shoal.KVStore(db).increment('r', 'n')\n"
            "    print(db.info().coordinator_pid)\n"
            "    sys.stdout.flush()\n"
            "    sys.stdin.read()\n"
        )
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        processes = [subprocess.Popen([sys.executable, "-c", code, store], **pipes) for _ in range(4)]
        try:
            pids = {present(process.stdout).readline() for process in processes}
            assert len(pids) == 1
            with shoal.open(store) as db:
                assert KVStore(db).get("r", "n") == 4
        finally:
            for process in processes:
                process.communicate(timeout=DEADLINE_S)
        assert [process.returncode for process in processes] == [0] * 4


class TestFork:
    def test_child_and_parent_both_go_on(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """After a fork with an open connection, child and parent read and commit, each for himself."""
        kv.put(run, "k", 1)

        def work() -> None:
            assert kv.get(run, "k") == 1
            for _ in range(50):
                kv.increment(run, "n")
            with memory_db.transaction(run) as txn:
                txn.kv.put("child", txn.kv.get("k"))

        assert run_in_child(work) == 0
        for _ in range(50):
            kv.increment(run, "n")
        assert kv.get(run, "n") == 100
        assert kv.get(run, "child") == 1

    def test_child_that_closes_leaves_the_parent_attached(
        self, memory_db: shoal.Database, kv: shoal.KVStore, run: str
    ) -> None:
        """close() in a forked child is the child's: the parent's database stays open."""
        assert run_in_child(memory_db.close) == 0
        kv.put(run, "k", 1)
        assert kv.get(run, "k") == 1

    @pytest.mark.long
    def test_child_of_a_busy_coordinator(self, store: Path) -> None:
        """A coordinator that answers late is not a dead one: a forked child of a memory store waits for it."""
        with shoal.open(store, durability="memory", linger=0.2) as db:
            kv = KVStore(db)
            kv.put("r", "k", 1)
            pid = db.info().coordinator_pid
            os.kill(pid, signal.SIGSTOP)
            waker = threading.Timer(0.3, os.kill, (pid, signal.SIGCONT))
            waker.start()
            try:
                assert run_in_child(lambda: kv.put("r", "child", kv.get("r", "k"))) == 0
            finally:
                waker.join()
            assert kv.get("r", "child") == 1

    @pytest.mark.long
    def test_fork_while_another_thread_commits(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """A fork in the middle of another thread's commits leaves no lock held in the child."""
        stop = threading.Event()

        def commit() -> None:
            while not stop.is_set():
                kv.increment(run, "n")

        thread = threading.Thread(target=commit)
        thread.start()
        try:
            codes = [run_in_child(lambda: kv.increment(run, "child")) for _ in range(10)]
        finally:
            stop.set()
            thread.join()
        assert codes == [0] * 10
        assert kv.get(run, "child") == 10

    def test_childs_end_of_a_snapshot_is_not_the_parents(
        self, memory_db: shoal.Database, kv: shoal.KVStore, run: str
    ) -> None:
        """A snapshot inherited by fork and closed in the child stays pinned in the parent."""
        kv.put(run, "k", "then")
        with memory_db.snapshot(run) as view:
            assert run_in_child(view.close) == 0
            for number in range(2 * limits.RECLAIM_EVERY):
                kv.put(run, "k", number)
            assert view.kv.get("k") == "then"

    def test_child_inside_a_transaction(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """A child forked inside a with block that is left by an exception there changes nothing of the parent's."""

        def work() -> None:
            with pytest.raises(RuntimeError), memory_db.transaction(run) as own:  # noqa: PT012
                own.kv.put("child", 1)
                raise RuntimeError

        with memory_db.transaction(run) as txn:
            txn.kv.put("k", 1)
            assert run_in_child(work) == 0
        assert kv.list(run) == ["k"]

    def test_a_child_does_not_commit_the_transaction_of_its_parent(self, memory_db: shoal.Database, run: str) -> None:
        """A child forked inside a with block is refused at its end, so what the parent commits is done once."""
        queue = shoal.TaskQueue(memory_db)
        txn = memory_db.transaction(run)

        def leave() -> None:
            with pytest.raises(shoal.InvalidOperationError, match="forked"):
                txn.__exit__(None, None, None)

        with txn:
            txn.queue.put("q", 1)
            assert run_in_child(leave) == 0
        assert queue.stats(run, "q").ready == 1


class TestThreads:
    def test_share_one_database(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """Threads of one process put, read, scan and increment through one Database, nothing lost or mixed up."""
        failures = []

        def work(number: Any) -> None:
            try:
                for i in range(60):
                    kv.put(run, f"{number}/{i:02}", [number, i])
                    assert kv.get(run, f"{number}/{i:02}") == [number, i]
                    kv.increment(run, "n")
                    with memory_db.snapshot(run) as view:
                        assert view.kv.list(f"{number}/") == [f"{number}/{j:02}" for j in range(i + 1)]
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert kv.get(run, "n") == 240
        assert len(kv.list(run)) == 241

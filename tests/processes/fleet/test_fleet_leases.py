"""Who works on an input of a fleet: workers that are killed or stopped, and coordinators that die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.fleet import Fleet
from shoal.fleet_input import DONE, InputOutcome, InputRun, fleet_run_id, input_run_id
from tests.support.stores.versions import versions_taken
from tests.support.workers.crash_workers import DEADLINE_S, kill, wait_for

pytestmark = pytest.mark.uncompiled

FUNCTION = "work:slow"
FLEET = fleet_run_id(FUNCTION)
RUN = input_run_id(FUNCTION, "a")
# Each attempt notes its process, and returns it once the file ``go`` is there.
MODULE = """
import os, time
from pathlib import Path

HERE = Path(__file__).parent

def slow(text):
    with open(HERE / "begun", "a") as out:
        out.write(f"{os.getpid()}\\n")
    while not (HERE / "go").exists():
        time.sleep(0.01)
    return os.getpid()
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with the module."""
    (tmp_path / "work.py").write_text(MODULE)
    return tmp_path


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """Starts ``shoal run`` with the input ``a`` and one worker, in a process group of its own."""
    started: list[subprocess.Popen[str]] = []

    def run(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "shoal", "run", FUNCTION, "a", "--store", str(home / "store")]
        command += ["--workers", "1", "--results", *options]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, cwd=home, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )
        started.append(process)
        return process

    yield run
    (home / "go").touch()
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def begun(home: Path) -> list[int]:
    """The processes that have begun the input, in order."""
    path = home / "begun"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def attempts(home: Path, count: int) -> list[int]:
    return list(wait_for(lambda: len(begun(home)) == count and begun(home), f"attempt {count}"))


def result(process: subprocess.Popen[str]) -> Any:
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    return json.loads(out)["result"]


def events(home: Path) -> list[tuple[str, int]]:
    """Type and attempt of the events of the input's run."""
    with shoal.open(home / "store") as db:
        assert db.leases(FLEET) == []
        found = shoal.EventLog(db).iter(RUN)
        return [(event.event_type, event.payload["attempt"]) for event in found]


def shown(home: Path) -> str:
    """The line of the input in ``shoal runs``."""
    command = [sys.executable, "-m", "shoal", "runs", str(home / "store")]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return next(line for line in out.splitlines() if line.startswith(RUN))


@pytest.mark.long
def test_a_stopped_workers_input_is_taken_over_and_its_late_commit_refused(home: Path, start: Start) -> None:
    """After the ttl another run begins it; what the stopped worker returns is not stored, and its run ends well."""
    options = ["--ttl", "1", "--retries", "0"]
    first = start(*options)
    (stopped,) = attempts(home, 1)
    os.kill(stopped, signal.SIGSTOP)
    second = start(*options)
    _, other = attempts(home, 2)
    (home / "go").touch()
    assert result(second) == other
    os.kill(stopped, signal.SIGCONT)
    assert result(first) == other
    assert events(home) == [("started", 1), ("started", 2), ("finished", 2)]


@pytest.mark.long
def test_a_run_takes_over_from_its_own_stopped_worker(home: Path, start: Start) -> None:
    """A run with one worker, alone: after the ttl the stopped worker is killed, and a new one does the input."""
    run = start("--ttl", "1", "--retries", "1")
    (stopped,) = attempts(home, 1)
    os.kill(stopped, signal.SIGSTOP)
    _, other = attempts(home, 2)
    with pytest.raises(ProcessLookupError):
        os.kill(stopped, 0)
    (home / "go").touch()
    assert result(run) == other
    assert events(home) == [("started", 1), ("started", 2), ("finished", 2)]


@pytest.mark.long
def test_an_outcome_that_comes_late_counts_if_nobody_has_begun_again(home: Path, start: Start) -> None:
    """A worker that was stopped for longer than its ttl stores its outcome under a new lease; nothing is done twice."""
    run = start("--ttl", "1", "--retries", "0")
    (stopped,) = attempts(home, 1)
    os.kill(stopped, signal.SIGSTOP)
    with shoal.open(home / "store") as db:
        wait_for(lambda: db.leases(FLEET) == [], "the end of the lease")
    assert "Active, its worker is gone" in shown(home)
    (home / "go").touch()
    os.kill(stopped, signal.SIGCONT)
    assert result(run) == stopped
    assert events(home) == [("started", 1), ("finished", 1)]


@pytest.mark.long
def test_a_coordinators_death_takes_no_input_from_its_worker(home: Path, start: Start) -> None:
    """Under the next coordinators another run still waits for the worker that is at it, for longer than the ttl."""
    first = start("--ttl", "1")
    (worker,) = attempts(home, 1)
    second = start("--ttl", "1")
    with shoal.open(home / "store") as db:
        for _ in range(3):
            kill(db.info().coordinator_pid)
            time.sleep(0.7)
            assert [lease.pid for lease in db.leases(FLEET)] == [worker]
    (home / "go").touch()
    assert (result(first), result(second)) == (worker, worker)
    assert begun(home) == [worker]
    assert events(home) == [("started", 1), ("finished", 1)]


@pytest.mark.long
def test_runs_shows_whose_worker_is_gone(home: Path, start: Start) -> None:
    """Active while a worker is at it; after kill -9 of all, with the coordinator or without, its worker is gone."""
    first = start()
    attempts(home, 1)
    assert "Active  " in shown(home)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    wait_for(lambda: "Active, its worker is gone" in shown(home), "the end of the lease")
    second = start("--ttl", "4")  # which the next one must wait for, as the coordinator dies first
    attempts(home, 2)
    assert "Active  " in shown(home)
    with shoal.open(home / "store", read_only=True) as db:
        kill(db.info().coordinator_pid)
    os.killpg(second.pid, signal.SIGKILL)
    second.communicate()
    assert "Active, its worker is gone" in shown(home)
    (home / "go").touch()
    assert result(start("--ttl", "1")) == begun(home)[-1]
    assert len(begun(home)) == 3
    assert "Completed" in shown(home)


@pytest.mark.long
def test_a_commit_without_the_lease_is_fenced(tmp_path: Path) -> None:
    """No step of an input is written under a lease that was released: neither begin, finish nor fail."""
    with shoal.open(tmp_path / "store", durability="memory") as db:
        shoal.RunIndex(db).create_run(run_id=FLEET)
        run = InputRun(FUNCTION, "a")
        lease = run.lease(db, 30.0, 0.0)
        assert run.begin(db, None, lease) is None
        lease.release()

        def late() -> None:
            with pytest.raises(shoal.FencedError):
                run.begin(db, 0, lease)
            with pytest.raises(shoal.FencedError):
                run.finish(db, 1, lease)
            with pytest.raises(shoal.FencedError):
                run.fail(db, "too late", lease)

        assert versions_taken(db, late) == 0
        assert Fleet(db, FUNCTION).outcome("a") is None
        with run.lease(db, 30.0, 0.0) as again:
            assert run.finish(db, 1, again) == InputOutcome("a", DONE, result=1)


def _note_and_wait(home: str) -> int:
    with open(Path(home) / "begun", "a") as out:
        out.write(f"{os.getpid()}\n")
    db = shoal.current_database()
    while not (Path(home) / "go").exists():
        time.sleep(0.01)
    shoal.KVStore(db).increment("pool", "commits")
    return os.getpid()


class TestPool:
    @pytest.mark.long
    def test_a_stopped_worker_with_retries_left(self, tmp_path: Path) -> None:
        """After the ttl its task runs again elsewhere; the stopped one is dead, so it commits nothing."""
        with shoal.WorkerPool(tmp_path / "store", 1, retries=1, ttl=0.6, durability="memory") as pool:
            future = pool.submit(_note_and_wait, str(tmp_path))
            (stopped,) = attempts(tmp_path, 1)
            os.kill(stopped, signal.SIGSTOP)
            _, other = attempts(tmp_path, 2)
            (tmp_path / "go").touch()
            assert future.result(DEADLINE_S) == other
            assert pool.worker_pids == [other]
            assert shoal.KVStore(pool.database).get("pool", "commits") == 1

    @pytest.mark.long
    def test_a_stopped_worker_without_retries(self, tmp_path: Path) -> None:
        """Its task may not run again, so it is waited for as long as it takes."""
        with shoal.WorkerPool(tmp_path / "store", 1, ttl=0.1, durability="memory") as pool:
            future = pool.submit(_note_and_wait, str(tmp_path))
            (stopped,) = attempts(tmp_path, 1)
            os.kill(stopped, signal.SIGSTOP)
            time.sleep(1.0)
            os.kill(stopped, signal.SIGCONT)
            (tmp_path / "go").touch()
            assert future.result(DEADLINE_S) == stopped

    @pytest.mark.parametrize("ttl", [0, -1, float("nan")])
    def test_a_bad_ttl(self, tmp_path: Path, ttl: float) -> None:
        """It is refused before anything is made."""
        with pytest.raises(ValueError, match="ttl"):
            shoal.WorkerPool(tmp_path / "store", ttl=ttl)
        assert not (tmp_path / "store").exists()

"""Effects that take place once: processes killed at each step, stopped, and coordinators killed at each step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import shoal
from shoal.cli.main import main
from shoal.primitives.facades import leases
from shoal.primitives.facades.fleet import idempotency
from tests.support.slow import slow
from tests.support.stores.versions import versions_taken
from tests.support.workers.crash_workers import DEADLINE_S, kill, wait_for
from tests.support.workers.forked import run_in_child

pytestmark = pytest.mark.long

RUN = "run"
_STEPS_IN = {idempotency.__file__, leases.__file__}
_MOST_STEPS = 500

_EFFECT = """
import sys, shoal
db = shoal.open(sys.argv[1])
def effect():
    print("begun", flush=True)
    sys.stdin.readline()
    return "first"
try:
    print(db.once("run", "a", effect))
except shoal.FencedError:
    print("fenced")
"""


def at_step(number: int, act: Callable[[], None]) -> Callable[[FrameType, str, Any], Any]:
    """A trace function that calls ``act`` before the line of that number in the files of ``once``, from 0."""
    left = number

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in _STEPS_IN:
            return None
        if event == "line":
            left -= 1
            if left == -1:
                act()
        return trace

    return trace


@pytest.mark.parametrize("every", [4, *slow(1)])
def test_killed_at_each_step(db: shoal.Database, tmp_path: Path, every: int) -> None:
    """What ``once`` says then is true: done, in doubt, or never begun. No effect takes place twice.

    Before its intent the next call runs the function. Between intent and result it is in doubt, whether or not the
    effect took place. After its result the next call returns that. These follow each other in the order of the steps.
    """
    seen = []
    for step in range(0, _MOST_STEPS, every):
        effects = tmp_path / f"effects-{step}"

        def effect(effects: Path = effects) -> str:
            with effects.open("a") as file:
                file.write("done\n")
            return effects.read_text()

        def killed(effects: Path = effects, step: int = step) -> None:
            sys.settrace(at_step(step, lambda: os.kill(os.getpid(), signal.SIGKILL)))
            db.once(RUN, str(effects), lambda: effect(effects))

        status = run_in_child(killed)
        took_place = effects.exists()
        try:
            assert db.once(RUN, str(effects), effect) == "done\n"
            seen.append("done" if took_place else "new")
        except shoal.InDoubtError:
            seen.append("doubt, done" if took_place else "doubt, not done")
            with pytest.raises(shoal.InDoubtError):
                db.once(RUN, str(effects), effect)
            found = db.once(RUN, str(effects), effect, on_doubt=lambda path: "found" if Path(path).exists() else "none")
            assert found == db.once(RUN, str(effects), effect) == ("found" if took_place else "none")
        assert not effects.exists() or effects.read_text() == "done\n"
        if status == 0:
            break
        assert status == -signal.SIGKILL
    order = ["new", "doubt, not done", "doubt, done", "done"]
    assert seen == sorted(seen, key=order.index)
    assert set(seen) == set(order), seen
    assert db.leases(RUN) == []
    assert db.check() == []


@pytest.mark.parametrize("every", [29, *slow(11)])
def test_the_coordinator_is_killed_at_each_step(db: shoal.Database, every: int) -> None:
    """Nobody notices: the effect takes place once and is recorded."""
    count = 0

    def effect() -> int:
        nonlocal count
        count += 1
        return count

    for step in range(0, _MOST_STEPS, every):
        acted = False

        def act() -> None:
            nonlocal acted
            sys.settrace(None)
            acted = True
            kill(db.info().coordinator_pid)

        before = count
        sys.settrace(at_step(step, act))
        try:
            assert db.once(RUN, f"effect {step}", effect) == before + 1
        finally:
            sys.settrace(None)
        assert db.once(RUN, f"effect {step}", effect) == count == before + 1
        if not acted:
            break
    assert step > 50
    assert db.check() == []


@pytest.fixture
def at_it(db: shoal.Database) -> Any:
    """A process that is at an effect, and ends it when it is told so."""
    command = [sys.executable, "-c", _EFFECT, db.path]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    yield process
    process.kill()
    process.communicate()


def not_run() -> Any:
    raise AssertionError("it was called")


def test_it_waits_and_is_woken(db: shoal.Database, at_it: subprocess.Popen[str]) -> None:
    """By the commit of the result, also if the coordinator dies meanwhile."""
    told: list[str] = []
    threads = [threading.Thread(target=lambda: told.append(db.once(RUN, "a", not_run))) for _ in range(5)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    kill(db.info().coordinator_pid)
    time.sleep(0.1)
    assert told == []
    assert at_it.communicate("\n", timeout=DEADLINE_S)[0] == "first\n"
    for thread in threads:
        thread.join()
    assert told == ["first"] * 5


def test_it_waits_and_is_told_of_a_death(db: shoal.Database, at_it: subprocess.Popen[str]) -> None:
    """At once, long before the end of what the process held."""
    told: list[type[Exception]] = []

    def call() -> None:
        try:
            db.once(RUN, "a", not_run)
        except shoal.InDoubtError as error:
            told.append(type(error))

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.1)
    begin_s = time.monotonic()
    at_it.kill()
    thread.join(DEADLINE_S)
    assert told == [shoal.InDoubtError]
    assert time.monotonic() - begin_s < idempotency.LEASE_TTL_S / 2


def test_the_doubt_outlives_coordinators_and_clients(store: Path) -> None:
    """It is in the store, until it is resolved."""
    with shoal.open(store, linger=0.2) as db:
        with pytest.raises(KeyboardInterrupt):
            db.once(RUN, "a", _interrupted)
        kill(db.info().coordinator_pid)
        with pytest.raises(shoal.InDoubtError):
            db.once(RUN, "a", not_run)
    with shoal.open(store, linger=0.2) as db:
        with pytest.raises(shoal.InDoubtError):
            db.once(RUN, "a", not_run)
        assert db.once(RUN, "a", lambda: 5, on_doubt="retry") == 5
    with shoal.open(store, read_only=True) as reader:
        assert reader.once(RUN, "a", not_run) == 5
        with pytest.raises(shoal.InvalidOperationError):
            reader.once(RUN, "b", not_run)


def _interrupted() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("meanwhile", ["nothing", "resolved", "under way"])
def test_a_stopped_process_that_comes_back(
    db: shoal.Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, meanwhile: str
) -> None:
    """Its effect is in doubt meanwhile. It records its result if nobody else is, or was, at it; else it is fenced."""
    told = tmp_path / "told"
    monkeypatch.setattr(idempotency, "LEASE_TTL_S", 0.3)

    def stopped() -> str:
        os.kill(os.getpid(), signal.SIGSTOP)
        return "late"

    def go_on() -> str:
        os.kill(pid, signal.SIGCONT)
        os.waitpid(pid, 0)
        return told.read_text()

    pid = os.fork()
    if pid == 0:
        try:
            told.write_text(db.once(RUN, "a", stopped))
        except shoal.FencedError:
            told.write_text("fenced")
        finally:
            os._exit(0)
    os.waitpid(pid, os.WUNTRACED)
    with pytest.raises(shoal.InDoubtError):
        db.once(RUN, "a", not_run)
    if meanwhile == "nothing":
        assert go_on() == "late"
    elif meanwhile == "resolved":
        assert db.once(RUN, "a", lambda: "again", on_doubt="retry") == "again"
        assert go_on() == "fenced"
    else:
        assert db.once(RUN, "a", lambda: f"again, {go_on()}", on_doubt="retry") == "again, fenced"
    expected = {"nothing": "late", "resolved": "again", "under way": "again, fenced"}
    assert db.once(RUN, "a", not_run) == expected[meanwhile]


def test_transactions_with_a_key_survive_the_coordinator(db: shoal.Database) -> None:
    """Killed at any moment of a call: it took effect once, and its result is known."""
    for number in range(5):
        timer = threading.Timer(0.002 * number, kill, (db.info().coordinator_pid,))
        timer.start()
        for _ in range(20):
            db.transact(RUN, lambda txn: txn.kv.increment("sum"), idempotency_key=f"a{number}")
        timer.join()
    assert shoal.KVStore(db).get(RUN, "sum") == 5
    kill(db.info().coordinator_pid)
    assert db.transact(RUN, lambda txn: txn.kv.increment("sum"), idempotency_key="a3") == 4


def test_a_backup_and_an_export_have_all_of_it(db: shoal.Database, tmp_path: Path) -> None:
    """Results are replayed in the copy, and what was in doubt or under way is in doubt there."""
    db.transact(RUN, lambda txn: txn.kv.increment("sum"), idempotency_key="for a day")
    db.transact(RUN, lambda txn: txn.kv.increment("sum"), idempotency_key="for good", idempotency_ttl=float("inf"))
    db.once(RUN, "done", lambda: {"id": (1, None)})
    with pytest.raises(KeyboardInterrupt):
        db.once(RUN, "doubt", _interrupted)

    def under_way() -> str:
        db.backup(tmp_path / "backup")
        assert main(["export", db.path, str(tmp_path / "export")]) == 0
        return "first"

    db.once(RUN, "under way", under_way)
    assert main(["import", str(tmp_path / "imported"), str(tmp_path / "export")]) == 0
    assert main(["export", str(tmp_path / "imported"), str(tmp_path / "again")]) == 0
    assert (tmp_path / "again").read_text() == (tmp_path / "export").read_text()
    with shoal.open(tmp_path / "imported", linger=0.2) as copy:
        assert copy.once(RUN, "done", not_run) == {"id": [1, None]}
        for key, result in (("for a day", 1), ("for good", 2)):
            assert copy.transact(RUN, lambda txn: 9, idempotency_key=key) == result
        for key in ("doubt", "under way"):
            with pytest.raises(shoal.InDoubtError):
                copy.once(RUN, key, not_run)
    with shoal.open(tmp_path / "backup", linger=0.2) as copy:
        assert copy.once(RUN, "done", not_run) == {"id": [1, None]}
        with pytest.raises(shoal.InDoubtError):
            copy.once(RUN, "doubt", not_run)


def test_the_wait_costs_nothing(db: shoal.Database, at_it: subprocess.Popen[str]) -> None:
    """20 threads that wait commit nothing."""
    threads = [threading.Thread(target=db.once, args=(RUN, "a", not_run)) for _ in range(20)]
    for thread in threads:
        thread.start()
    assert versions_taken(db, lambda: time.sleep(0.2)) == 0
    at_it.communicate("\n", timeout=DEADLINE_S)
    for thread in threads:
        thread.join()
    wait_for(lambda: db.info().clients, "an answer")

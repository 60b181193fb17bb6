"""Several ``shoal run`` at once call the function once for each input, whoever is killed; stdout holds results only."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.fleet_input import fleet_run_id, input_run_id

pytestmark = [pytest.mark.long, pytest.mark.uncompiled]

MODULE = '''
import logging, os, subprocess, sys, time
from pathlib import Path

HERE = Path(__file__).parent
print("printed while it is imported")


def _note(name, text):
    with open(HERE / name, "a") as out:
        out.write(text + "\\n")


def step(text):
    _note("begun", text)
    time.sleep(2 if text.startswith("bad") else 0.1)
    if text.startswith("bad"):
        raise ValueError("cannot do " + text)
    _note("ended", text)
    return text.upper()


def step_leaving_a_program(text):
    """Leaves a program and a forked process behind, which outlive the worker."""
    _note("begun", text)
    program = subprocess.Popen(["sleep", "40"], start_new_session=True)
    _note("left", str(program.pid))
    forked = os.fork()
    if forked == 0:
        os.setsid()
        _note("left", str(os.getpid()))  # here: before setsid, the end of its group would kill it
        os.closerange(0, 256)
        time.sleep(40)
        os._exit(0)
    time.sleep(1)
    return text


def loud(text):
    print("printed by", text)
    sys.stdout.flush()
    os.write(1, b"written to descriptor 1\\n")
    subprocess.run(["echo", "echoed for", text], check=True)
    logging.getLogger().addHandler(logging.StreamHandler(sys.stdout))
    logging.getLogger().warning("logged by %s", text)
    print("printed to stderr by", text, file=sys.stderr)
    return {"text": text}


async def asynchronous(text):
    return text


def generating(text):
    yield text


def returns_a_coroutine(text):
    return asynchronous(text)
'''


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A directory with the module, and no process in it afterwards."""
    (tmp_path / "side.py").write_text(MODULE)
    yield tmp_path
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s and (tmp_path / "store" / "control.sock").exists():
        time.sleep(0.1)


def command(
    home: Path, *inputs: str, function: str = "step", workers: int = 1, options: Sequence[str] = ()
) -> list[str]:
    run = ["run", f"side:{function}", *inputs, "--store", str(home / "store"), "--workers", str(workers), *options]
    return [sys.executable, "-m", "shoal", *run]


def start(home: Path, *inputs: str, **options: Any) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command(home, *inputs, **options), cwd=home, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


def finish(run: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = run.communicate(timeout=60)
    return run.returncode, out, err


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def wait_for(condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.02)


def names(numbers: Iterable[int]) -> list[str]:
    return [f"input{number}" for number in numbers]


def worker_at(home: Path, text: str) -> int:
    """The process that works on an input."""
    with shoal.open(home / "store", read_only=True) as db:
        leases = {lease.name: lease.pid for lease in db.leases(fleet_run_id("side:step"))}
    return leases[input_run_id("side:step", text)]


def test_the_same_inputs_in_three_runs(home: Path) -> None:
    """However many workers each has, every input is begun once, and every run says that all are done."""
    inputs = names(range(12))
    runs = [start(home, *inputs, workers=workers) for workers in (1, 2, 1)]
    for status, out, err in map(finish, runs):
        assert status == 0, err
        assert out.startswith("12 inputs: ")
        assert out.endswith("0 failed\n")
    assert Counter(lines(home / "begun")) == Counter(inputs)


def test_a_run_says_whom_it_waits_for(home: Path) -> None:
    """Beside a run whose worker is stopped it does not stand still without a word: it names the process, once."""
    first = start(home, "bad")
    wait_for(lambda: lines(home / "begun"))
    worker = worker_at(home, "bad")
    os.kill(worker, signal.SIGSTOP)
    second = start(home, "bad", "input0")
    assert second.stderr is not None
    told = ""
    while "waiting for" not in told:
        told = second.stderr.readline()
        assert told, "it ended and said nothing"
    assert told.strip() == (
        f"shoal: waiting for inputs that another shoal run works on, 1 in all, in process {worker}; end it if it hangs"
    )
    os.kill(worker, signal.SIGCONT)
    for run in first, second:
        status, _, err = finish(run)
        assert status == 1
        assert "waiting for" not in err
        assert "ValueError: cannot do bad" in err
    assert Counter(lines(home / "begun")) == Counter(["bad", "input0"])


@pytest.mark.slow
def test_overlapping_inputs_and_stored_outcomes(home: Path) -> None:
    """Of inputs another run works on, a run gives what that one stored: results, and errors without a second try."""
    first = start(home, "bad1", *names(range(5)), "bad2", options=["--results"])
    wait_for(lambda: lines(home / "begun"))
    second = start(home, "bad2", "bad1", *names(range(3, 9)), options=["--results"])
    outcomes: dict[str, Any] = {}
    for status, out, err in map(finish, (first, second)):
        assert status == 1, err
        for line in out.splitlines():
            outcome = json.loads(line)
            assert outcomes.setdefault(outcome["input"], outcome) == outcome
    assert Counter(lines(home / "begun")) == Counter([*names(range(9)), "bad1", "bad2"])
    assert {text: outcome["status"] for text, outcome in outcomes.items()} == {
        **dict.fromkeys(["bad1", "bad2"], "failed"),
        **dict.fromkeys(names(range(9)), "done"),
    }
    assert finish(start(home, "bad1"))[0] == 1  # and a run that comes later does try what has failed
    assert lines(home / "begun").count("bad1") == 2


def test_what_a_killed_run_had_claimed_is_taken_over(home: Path) -> None:
    """kill -9 of a run and all its workers: the other finishes everything; only what the kill cut is begun twice."""
    inputs = names(range(10))
    first = start(home, *inputs, workers=2)
    wait_for(lambda: len(lines(home / "begun")) >= 3)
    second = start(home, *inputs, workers=1)
    time.sleep(0.3)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate(timeout=30)
    status, _out, err = finish(second)
    assert status == 0, err
    begun = Counter(lines(home / "begun"))
    assert set(begun) == set(inputs)
    assert set(lines(home / "ended")) == set(inputs)
    assert sum(begun.values()) <= len(inputs) + 2  # one for each worker killed
    with shoal.open(home / "store") as db:
        assert all(
            run.status is shoal.RunStatus.Completed for run in shoal.RunIndex(db).get_child_runs("fleet:side:step")
        )


def test_a_killed_run_lets_go_though_its_children_live(home: Path) -> None:
    """A claim is not inherited: programs and forked processes a task left behind keep no other run waiting."""
    inputs = {"function": "step_leaving_a_program", "options": ["--retries", "0"]}
    first = start(home, "a", **inputs)
    try:
        wait_for(lambda: len(lines(home / "left")) == 2)
        os.killpg(first.pid, signal.SIGKILL)
        second = start(home, "a", **inputs)
        wait_for(lambda: lines(home / "begun") == ["a", "a"])
        wait_for(lambda: len(lines(home / "left")) == 4)
        assert second.wait(20) == 0
    finally:
        for pid in map(int, lines(home / "left")):
            os.kill(pid, signal.SIGKILL)
    for run in (first, second):
        run.communicate(timeout=30)


class TestOutput:
    def test_stdout_holds_results_only(self, home: Path) -> None:
        """What a task prints, logs, writes to descriptor 1, or has a program print goes to stderr."""
        for workers in (1, 2):
            texts = [f"{workers}{name}" for name in "abc"]
            run = start(home, *texts, function="loud", workers=workers, options=["--results"])
            status, out, err = finish(run)
            assert status == 0, err
            assert [json.loads(line)["result"] for line in out.splitlines()] == [{"text": text} for text in texts]
            for said in ("printed by", "written to descriptor 1", "echoed for", "logged by", "while it is imported"):
                assert said in err
        status, out, _err = finish(start(home, "more", function="loud"))
        assert (status, out) == (0, "1 inputs: 0 done before, 1 done now, 0 failed\n")

    @pytest.mark.parametrize(
        ("function", "status"), [("asynchronous", 2), ("generating", 2), ("returns_a_coroutine", 1)]
    )
    def test_a_function_that_would_not_run(self, home: Path, function: str, status: int) -> None:
        """An async or generator function is bad usage; one that returns a coroutine has failed, not done its inputs."""
        ended, out, err = finish(start(home, "a", function=function))
        assert ended == status
        assert function in err
        assert "never awaited" not in err
        assert out == ("" if status == 2 else "1 inputs: 0 done before, 0 done now, 1 failed\n")

    def test_results_into_a_closed_pipe(self, home: Path) -> None:
        """As ``shoal run --results | head`` leaves it: the inputs are done, and no word of the pipe is said."""
        reader, writer = os.pipe()
        os.close(reader)
        line = command(home, *names(range(20)), function="loud", options=["--results"])
        ended = subprocess.run(
            line, cwd=home, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
        os.close(writer)
        assert ended.returncode == 1
        for word in ("Traceback", "BrokenPipe", "Broken pipe"):
            assert word not in ended.stderr
        status, out, _err = finish(start(home, *names(range(20)), function="loud"))
        assert (status, out) == (0, "20 inputs: 20 done before, 0 done now, 0 failed\n")

"""``shoal run``, ``serve``, ``info``, ``check`` and ``backup`` as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import shoal
from tests.support.at_rest import ended
from tests.support.repository import ROOT
from tests.support.slow import slow

AGENT = "tests.support.workers.fleet_functions:agent"


def run_shoal(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shoal", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.long
def test_run_does_each_input_once_and_again_only_what_is_not_done(tmp_path: Path) -> None:
    """A second run skips what is done, runs again what failed, and runs what is new; exit 1 while any input fails."""
    store = tmp_path / "store"
    first = run_shoal("run", AGENT, "a", "bb", "bad", "a", "--store", store, "--workers", 2)
    assert first.returncode == 1
    assert first.stdout == "3 inputs: 0 done before, 2 done now, 1 failed\n"
    assert "shoal: bad: ValueError: cannot do bad" in first.stderr
    second = run_shoal("run", AGENT, "a", "bb", "bad", "ccc", "--store", store, "--workers", 2, "--results")
    assert second.returncode == 1
    outcomes = {outcome["input"]: outcome for outcome in map(json.loads, second.stdout.splitlines())}
    assert outcomes["ccc"] == {"input": "ccc", "status": "done", "result": {"length": 3}, "error": None}
    assert outcomes["bad"]["error"] == "ValueError: cannot do bad"
    third = run_shoal("run", AGENT, "a", "bb", "ccc", "--store", store)
    assert third.returncode == 0
    assert third.stdout == "3 inputs: 3 done before, 0 done now, 0 failed\n"
    with shoal.open(store, linger=0.2) as db:
        assert shoal.KVStore(db).list_with_values("ran") == [("a", 1), ("bad", 2), ("bb", 1), ("ccc", 1)]


@pytest.mark.long
def test_run_survives_an_input_that_kills_and_one_that_cannot_be_stored(tmp_path: Path) -> None:
    """An input that kills its worker is retried, then failed; a result that is no value fails; the others are done."""
    run = run_shoal("run", AGENT, "deadly", "odd", "a", "bad\nnews", "--store", tmp_path / "store", "--workers", 2)
    assert run.returncode == 1
    assert run.stdout == "4 inputs: 0 done before, 1 done now, 3 failed\n"
    assert all(line.startswith("shoal: ") for line in run.stderr.splitlines())
    (lost,) = [line for line in run.stderr.splitlines() if line.startswith("shoal: deadly: ")]
    assert f"WorkerLostError: the worker running {AGENT} died with exit code -9 (SIGKILL) on attempt 2; " in lost
    assert "pool" not in lost  # a user of the command has none
    assert "shoal: odd: TypeError: value at $.result has type object" in run.stderr
    with shoal.open(tmp_path / "store", linger=0.2) as db:
        assert shoal.KVStore(db).get("ran", "deadly") == 2


@pytest.mark.long
def test_ctrl_c_leaves_nothing_and_the_next_run_goes_on(tmp_path: Path) -> None:
    """Ctrl-C ends a run with no process left; what was done stays done."""
    store, inputs = tmp_path / "store", [str(i) for i in range(16)]
    command = [
        "run",
        "tests.support.workers.fleet_functions:slow_agent",
        *inputs,
        "--store",
        str(store),
        "--workers",
        "2",
    ]
    run = subprocess.Popen(
        [sys.executable, "-m", "shoal", *command],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with shoal.open(store, linger=0.2) as db:
        until = time.monotonic() + 30
        while shoal.KVStore(db).get("started", "n", 0) < 5:
            assert time.monotonic() < until
            time.sleep(0.02)
        os.killpg(run.pid, signal.SIGINT)
        _, stderr = run.communicate(timeout=30)
        assert run.returncode == 130
        assert b"Traceback" not in stderr
        with pytest.raises(ProcessLookupError):
            os.killpg(run.pid, 0)
    again = run_shoal(*command)
    assert again.returncode == 0
    done_before = int(again.stdout.split()[2])
    assert done_before >= 3
    assert again.stdout == f"16 inputs: {done_before} done before, {16 - done_before} done now, 0 failed\n"


@pytest.mark.plain
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *slow((["run", "nocolon", "a", "--store", "s"], "'nocolon' is not MODULE:FUNCTION")),
        (["run", "tests.support.workers.fleet_functions:nope", "a", "--store", "s"], "cannot be loaded"),
        (["serve", "s", "--max-bytes", "1000"], "max_bytes is 1,000"),
        *slow(
            (["run", "no.such.module:f", "a", "--store", "s"], "cannot be loaded"),
            (["run", "this.bad\udcff:f", "a", "--store", "s"], "cannot be loaded"),
            (["run", AGENT, "a", "--store", "s", "--workers", "0"], "not 1 or more"),
            (["run", AGENT, "--store", "s"], "required: INPUT"),
            (["serve", "s", "--durability", "eventual"], "invalid choice"),
            (["nonsense"], "invalid choice"),
            ([], "required"),
        ),
    ],
)
def test_bad_usage_is_exit_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    """Bad usage is exit 2 and says what is wrong on standard error, without a traceback, and makes no store."""
    arguments = [str(tmp_path / "s") if argument == "s" else argument for argument in arguments]
    run = run_shoal(*arguments)
    assert run.returncode == 2
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "s" / "store.json").exists()


@pytest.mark.long
def test_a_module_that_raises_what_is_no_exception(tmp_path: Path) -> None:
    """Whatever its import raises, the module cannot be loaded, and one line says why."""
    (tmp_path / "skipped.py").write_text('class Skipped(BaseException): pass\nraise Skipped("not\\nhere")\n')
    run = run_shoal("run", "skipped:work", "a", "--store", tmp_path / "s", cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr.startswith("shoal: 'skipped:work' cannot be loaded: Skipped: not here; ")
    assert run.stderr.count("\n") == 1


@pytest.mark.long
def test_a_module_that_changes_the_directory(tmp_path: Path) -> None:
    """The store is where the command was given, also if the module goes elsewhere while it is imported."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "moving.py").write_text('import os\nos.chdir("elsewhere")\ndef work(text): return os.getcwd()\n')
    run = run_shoal("run", "moving:work", "a", "--store", "store", "--workers", 1, "--results", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["result"] == str(tmp_path / "elsewhere")
    assert (tmp_path / "store" / "store.json").exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("command", ["info", *slow("check", "backup")])
def test_reading_commands_create_nothing(tmp_path: Path, command: str) -> None:
    """info, check and backup of a path without a store are exit 1, one line on stderr, and leave no directory."""
    extra = [tmp_path / "dest"] if command == "backup" else []
    run = run_shoal(command, tmp_path / "none", *extra)
    assert run.returncode == 1
    assert run.stderr == f"shoal: there is no store at {tmp_path / 'none'}; shoal.open or shoal run makes one\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_a_store_whose_store_json_was_removed_is_read(tmp_path: Path) -> None:
    """The commands that read find it by its other files, at rest and while it is served, and do not deny it."""
    store = tmp_path / "store"
    with shoal.open(store, linger=0) as db:
        shoal.KVStore(db).put("run", "key", 1)
        pid = db.info().coordinator_pid
        (store / "store.json").unlink()
        served = run_shoal("info", store)
        assert (served.returncode, served.stderr) == (0, "")
        assert "no store at" not in run_shoal("check", store).stderr
    ended(pid)
    (store / "store.json").unlink(missing_ok=True)
    info = run_shoal("info", store)
    assert (info.returncode, info.stderr) == (0, "")
    assert dict(line.split(maxsplit=1) for line in info.stdout.splitlines())["keys"] == "1"
    assert run_shoal("check", store).stdout.startswith("store.json at byte 0: ")


@pytest.mark.long
def test_results_are_strict_json(tmp_path: Path) -> None:
    """Values that JSON does not have are written as in an export: NaN, bytes, large integers."""
    (tmp_path / "odd.py").write_text("def f(text): return [float(text), text.encode(), 2**63]")
    run = run_shoal("run", "odd:f", "nan", "inf", "--store", "s", "--workers", 1, "--results", cwd=tmp_path)
    assert run.returncode == 0

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    first, second = (json.loads(line, parse_constant=refuse)["result"] for line in run.stdout.splitlines())
    assert first == [{"$float": "nan"}, {"$bytes": "bmFu"}, {"$int": str(2**63)}]
    assert second[0] == {"$float": "inf"}


def test_control_characters_of_errors_are_escaped(tmp_path: Path) -> None:
    """They would act on the terminal: those of an exception, of an input, of a path and of an unknown option."""
    (tmp_path / "red.py").write_text("def f(text): raise ValueError('\\033[31m\\a é')")
    run = run_shoal("run", "red:f", "a\033b", "--store", "s", "--workers", 1, cwd=tmp_path)
    assert run.stderr == "shoal: a\\x1bb: ValueError: \\x1b[31m\\x07 é\n"
    assert "at \\x1bnone; " in run_shoal("info", "\033none", cwd=tmp_path).stderr
    assert "arguments: --\\x1b; " in run_shoal("info", "s", "--\033", cwd=tmp_path).stderr


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (["export", "s", "/proc/b"], "/proc/b"),
        *slow((["import", "s", "none.jsonl"], "none.jsonl"), (["import", "s", "."], ".")),
    ],
)
def test_errors_of_the_system_name_path_reason_and_remedy(tmp_path: Path, arguments: list[str], path: str) -> None:
    """Exit 1 and one line that a person can act on, not the number of an error."""
    with shoal.open(tmp_path / "s", linger=0.2):
        run = run_shoal(*arguments, cwd=tmp_path)
    assert run.returncode == 1
    assert run.stderr.startswith("shoal: ")
    assert run.stderr.count("\n") == 1
    assert path in run.stderr
    assert "[Errno" not in run.stderr
    assert "give another path" in run.stderr


@pytest.mark.long
def test_info_check_and_backup(tmp_path: Path) -> None:
    """info prints the fields of StoreInfo, check says sound, and a backup holds the same keys."""
    with shoal.open(tmp_path / "store", linger=0.2) as db:
        shoal.KVStore(db).put("run", "key", [1, 2, 3])
        info = run_shoal("info", tmp_path / "store")
        assert info.returncode == 0
        fields = dict(line.split(maxsplit=1) for line in info.stdout.splitlines())
        assert fields["keys"] == "1"
        assert fields["durability"] == "buffered"
        assert fields["coordinator_pid"] == str(db.info().coordinator_pid)
        check = run_shoal("check", tmp_path / "store")
        assert (check.returncode, check.stdout) == (0, "sound\n")
        backup = run_shoal("backup", tmp_path / "store", tmp_path / "copy")
        assert (backup.returncode, backup.stdout) == (0, f"1 keys written to {tmp_path / 'copy'}\n")
        refused = run_shoal("backup", tmp_path / "store", tmp_path / "copy")
        assert refused.returncode == 1
        assert "is not empty" in refused.stderr
    with shoal.open(tmp_path / "copy", linger=0.2) as copy:
        assert shoal.KVStore(copy).get("run", "key") == [1, 2, 3]


@pytest.mark.long
def test_serve_until_a_signal(tmp_path: Path) -> None:
    """shoal serve is the coordinator, with its own pid, until SIGINT or SIGTERM, and then exits 0 leaving no socket."""
    for number in (signal.SIGINT, signal.SIGTERM):
        command = [sys.executable, "-m", "shoal", "serve", str(tmp_path / "store"), "--durability", "strict"]
        serve = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert serve.stdout is not None
        assert f"as process {serve.pid}" in serve.stdout.readline()
        with shoal.open(tmp_path / "store") as db:
            assert db.info().coordinator_pid == serve.pid
            assert db.info().durability == "strict"
            second = run_shoal("serve", tmp_path / "store")
            assert second.returncode == 1
            assert "served by another coordinator; shoal info shows its process" in second.stderr
        serve.send_signal(number)
        assert serve.wait(timeout=20) == 0
        serve.stdout.close()
        assert not (tmp_path / "store" / "control.sock").exists()


@pytest.mark.parametrize("source", ["1 / 0", *slow("import sys; sys.exit(0)", "def f(:", "f = 3")])
def test_a_module_that_cannot_be_used_is_bad_usage(tmp_path: Path, source: str) -> None:
    """Whatever a module does when it is imported: exit 2 and one line on standard error, and no store."""
    (tmp_path / "broken.py").write_text(source)
    run = run_shoal("run", "broken:f", "a", "--store", "s", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("shoal: 'broken:f' ")
    assert run.stderr.count("\n") == 1
    assert not (tmp_path / "s").exists()

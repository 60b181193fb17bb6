"""Commands whose stderr is closed or cannot be written, as under some daemons and schedulers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import shoal
from tests.support.repository import ROOT


def _shoal(redirection: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", f'"$@" {redirection}', "bash", sys.executable, "-m", "shoal.cli", *map(str, arguments)]
    # Buffered, as users have it: what cannot be written is still there when the interpreter ends.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment, timeout=60, check=False
    )


@pytest.mark.long
def test_commands_work_with_stderr_closed(tmp_path: Path) -> None:
    """They do what they do otherwise, with the same output on stdout and the same exit status."""
    store = tmp_path / "store"
    with shoal.open(store, linger=0.1) as db:
        shoal.KVStore(db).put("run", "key", 1)
    ran = _shoal("2>&-", "run", "os.path:basename", "a/b", "--store", tmp_path / "other", "--workers", 1)
    assert (ran.returncode, ran.stdout) == (0, "1 inputs: 0 done before, 1 done now, 0 failed\n")
    checked = _shoal("2>&-", "check", store)
    assert (checked.returncode, checked.stdout) == (0, "sound\n")
    repaired = _shoal("2>&-", "repair", store, tmp_path / "new")
    assert repaired.returncode == 0
    assert "nothing to repair" in repaired.stdout


def test_an_error_is_not_written_to_stdout(tmp_path: Path) -> None:
    """With stderr closed the exit status alone tells of an error: what reads stdout takes that for the output."""
    failed = _shoal("2>&-", "export", tmp_path / "nothing")
    assert (failed.returncode, failed.stdout) == (1, "")


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="there is no /dev/full")
def test_an_error_that_cannot_be_written(tmp_path: Path) -> None:
    """It raises no second error in place of the exit status."""
    (tmp_path / "file").touch()
    assert _shoal("2>/dev/full", "serve", tmp_path / "file").returncode == 2
    assert _shoal("2>/dev/full", "no-command").returncode == 2
    assert _shoal("2>/dev/full", "info", tmp_path / "nothing").returncode == 1


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="there is no /dev/full")
@pytest.mark.parametrize("redirection", ["2>/dev/full", "2> >(:)"])
def test_a_run_goes_on_when_what_it_tells_cannot_be_written(tmp_path: Path, redirection: str) -> None:
    """An input that fails ends nothing but itself; the exit status is that of the inputs."""
    arguments = ["--store", tmp_path / "store", "--workers", 1, "--results"]
    failed = _shoal(redirection, "run", "tests.support.workers.fleet_functions:agent", "bad", "a", "b", *arguments)
    assert failed.returncode == 1
    assert [json.loads(line)["status"] for line in failed.stdout.splitlines()] == ["failed", "done", "done"]
    done = _shoal(redirection, "run", "tests.support.workers.fleet_functions:agent", "a", "b", "c", *arguments)
    assert done.returncode == 0
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["done"] * 3

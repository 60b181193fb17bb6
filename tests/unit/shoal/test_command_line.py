"""The ways to call the command, and bad usage of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from shoal.command_line import BAD_USAGE, OneLineParser


def test_it_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Program, problem and where help is, in one line on stderr; status 2."""
    parser = OneLineParser(prog="shoal test")
    parser.add_argument("--count", type=int)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--count", "no\nnumber"])
    assert ended.value.code == BAD_USAGE
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("shoal test: error: argument --count: invalid int value")
    assert error.endswith("; see shoal test --help\n")
    assert error.count("\n") == 1


@pytest.mark.long
@pytest.mark.parametrize("module", ["shoal", "shoal.cli", "shoal.cli.main"])
def test_it_runs_as_a_module(module: str) -> None:
    """``python -m`` with the package, or with that of the commands, is the ``shoal`` command."""
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: shoal ")

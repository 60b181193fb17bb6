"""Help of every command, with and without the extra that ``shoal bench`` needs; bad usage in one line; closed pipes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import shoal
from tests.support.repository import ROOT
from tests.support.slow import slow

pytestmark = pytest.mark.plain

COMMANDS = ["run", "serve", "info", "check", "backup", "repair", "runs", "events", "trace", "export", "import", "bench"]
WITHOUT_EXTRA = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("lmdb", "redis", "hiredis", "tabulate"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from shoal.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


# The same for many commands in one process: what each would end with, print and say, as a line of JSON.
ONE_AFTER_THE_OTHER = (
    WITHOUT_EXTRA.rpartition("sys.exit")[0]
    + """
import contextlib, io, json
for arguments in json.loads(sys.argv[1]):
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, out.getvalue(), errors.getvalue()]))
"""
)


def one_after_the_other(commands: list[list[str]]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each command, without the extra."""
    command = [sys.executable, "-c", ONE_AFTER_THE_OTHER, json.dumps(commands)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return [tuple(json.loads(line)) for line in ended.stdout.splitlines()]


def shoal_command(*arguments: str, without_extra: bool = False) -> subprocess.CompletedProcess[str]:
    how = ["-c", WITHOUT_EXTRA] if without_extra else ["-m", "shoal"]
    command = [sys.executable, *how, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("command", "without_extra"),
    [
        *((None, True), ("bench", True), (None, False)),
        *slow(
            *(
                (command, without)
                for command in COMMANDS
                for without in (True, False)
                if (command, without) != ("bench", True)
            )
        ),
    ],
)
def test_help(command: Any, without_extra: Any) -> None:
    """``--help`` of shoal and of every command needs no extra: exit 0, the text on stdout, nothing on stderr."""
    ended = shoal_command(*([command] if command else []), "--help", without_extra=without_extra)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"usage: shoal{f' {command}' if command else ''} ")


@pytest.mark.long
def test_help_of_every_command() -> None:
    """The same, in one process for all of them."""
    for command, (code, out, errors) in zip(
        COMMANDS, one_after_the_other([[c, "--help"] for c in COMMANDS]), strict=True
    ):
        assert (code, errors) == (0, ""), command
        assert out.startswith(f"usage: shoal {command} ")


@pytest.mark.long
def test_version() -> None:
    """``shoal --version`` prints it."""
    ended = shoal_command("--version")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"shoal {shoal.__version__}\n", "")


@pytest.mark.long
def test_help_says_what_each_argument_of_run_is() -> None:
    """No argument of the command that most begin with stands there by its name alone."""
    text = " ".join(shoal_command("run", "--help").stdout.split())
    for said in (
        "MODULE:FUNCTION it is called with each input",
        "INPUT any text",
        "--store PATH directory of the store",
        "--workers N worker processes (default: ",
        "--retries N how often an input is run again",
        "--results print the outcome",
    ):
        assert said in text


@pytest.mark.long
def test_bench_without_its_extra() -> None:
    """It names what is missing and how to install it: exit 2, one line."""
    ended = shoal_command("bench", "--quick", without_extra=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "shoal bench: needs lmdb and redis and tabulate; pip install '.[bench]' in a clone\n"


BAD_USAGE = [
    [],
    ["nothing"],
    ["--bogus"],
    *([command, "--bogus"] for command in COMMANDS),
    ["run", "m:f", "a", "--store", "s", "--workers", "0"],
    ["run", "m:f", "a", "--store", "s", "--workers", "many"],
    ["run", "m:f", "a", "--store", "s", "--retries", "1.5"],
    ["run", "m:f", "a", "--store", "s", "--ttl", "x"],
    ["retention", "s", "--events", "x"],
    ["retention", "s", "--event-age", "x"],
    ["serve", "s", "--durability", "no\nsuch"],
    ["bench", "--only", "nothing"],
]


def is_one_line_of_bad_usage(code: int, out: str, errors: str) -> bool:
    is_line = errors.startswith("shoal") and errors.endswith("--help\n") and errors.count("\n") == 1
    assert " value: " not in errors, "argparse names the function that reads the argument, and no remedy"
    return (code, out, is_line) == (2, "", True)


@pytest.mark.long
def test_bad_usage_is_one_line() -> None:
    """Exit 2, nothing on stdout, and one line that says where help is."""
    for arguments, ended in zip(BAD_USAGE, one_after_the_other(BAD_USAGE), strict=True):
        assert is_one_line_of_bad_usage(*ended), (arguments, ended)


@pytest.mark.parametrize("arguments", [["run", "--bogus"], *slow(*BAD_USAGE)], ids=" ".join)
def test_bad_usage_is_one_line_and_an_exit(arguments: Any) -> None:
    """The same of a process of its own."""
    ended = shoal_command(*arguments, without_extra=True)
    assert is_one_line_of_bad_usage(ended.returncode, ended.stdout, ended.stderr), ended


@pytest.mark.long
def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    """``shoal events ... | head`` and its kin end quietly."""
    with shoal.open(tmp_path / "store") as db:
        log = shoal.EventLog(db)
        log.append_many("r", [("event", "x" * 200) for _ in range(2000)])
        for command, code in (("events", 0), ("export", 1)):  # an export that is not whole has failed
            run = f"{sys.executable} -m shoal {command} {tmp_path / 'store'} {'r' if command == 'events' else ''}"
            ended = subprocess.run(
                ["bash", "-c", f"{run} | head -1; exit ${{PIPESTATUS[0]}}"],
                cwd=ROOT,
                env=os.environ,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert ended.returncode == code
            assert ended.stdout.count("\n") == 1
            assert ended.stderr == ""

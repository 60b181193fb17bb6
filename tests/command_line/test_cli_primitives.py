"""``shoal runs``, ``events`` and ``trace``: section 8 of the contract. What they print, and what they never do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import TraceType
from shoal.cli.main import main
from tests.support.present import present
from tests.support.stores.full_store import fill
from tests.support.stores.versions import versions_taken

SPACE = shoal.Namespace("acme", "web", "scout")
SHOAL = [sys.executable, "-m", "shoal"]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[shoal.Database]:
    """A store with something of everything, and one run in another namespace; nobody changes it."""
    with shoal.open(tmp_path_factory.mktemp("full") / "store", durability="memory", linger=0.2) as db:
        fill(db)
        shoal.RunIndex(db, namespace=SPACE).create_run(run_id="elsewhere")
        shoal.EventLog(db, namespace=SPACE).append("elsewhere", "seen", {"é": 1})
        yield db


@pytest.fixture(scope="module")
def cleared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[shoal.Database]:
    """A store for ``small``."""
    with shoal.open(tmp_path_factory.mktemp("small") / "store", durability="memory", linger=0.2) as db:
        yield db


@pytest.fixture
def small(cleared: shoal.Database) -> shoal.Database:
    """An empty store."""
    cleared._store.auto_commit.clear(b"\0", b"\xff")
    return cleared


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The lines a command prints that succeeds."""
    assert main(list(arguments)) == 0
    out, error = capsys.readouterr()
    assert error == ""
    return out.splitlines()


class TestRuns:
    def test_a_row_for_each_run(self, small: shoal.Database, capsys: pytest.CaptureFixture[str]) -> None:
        """Id, parent, status, times and tags, by the time they were made; then what was never registered."""
        runs = shoal.RunIndex(small)
        runs.create_run(run_id="z", tags=["nightly", "a b"])
        time.sleep(0.002)  # made in the same millisecond, they would be ordered by id
        runs.create_run(run_id="a", parent_run="z")
        runs.fail_run("a", "no")
        shoal.KVStore(small).put("loose", "k", 1)
        head, *rows = [line.split() for line in printed(capsys, "runs", small.path)]
        assert head == ["RUN", "PARENT", "STATUS", "CREATED", "UPDATED", "TAGS"]
        assert [rows[0][:2], rows[0][4:]] == [["z", "Active"], ["nightly,", "a", "b"]]
        assert rows[1][:3] == ["a", "z", "Failed"]
        assert rows[2] == ["loose", "-"]
        assert all(row[-1].endswith("Z") for row in rows[1:2])

    def test_archived_runs_too(self, full: shoal.Database, capsys: pytest.CaptureFixture[str]) -> None:
        """Every run there is."""
        assert any(line.startswith("lost") and "Archived" in line for line in printed(capsys, "runs", full.path))

    def test_all_namespaces_unless_one_is_named(self, full: shoal.Database, capsys: pytest.CaptureFixture[str]) -> None:
        """Each under its name."""
        lines = printed(capsys, "runs", full.path)
        assert [line for line in lines if line.startswith("namespace ")] == [
            "namespace acme/web/scout",
            "namespace default/default/default",
        ]
        only = printed(capsys, "runs", full.path, "--namespace", "acme/web/scout")
        assert [line.split()[0] for line in only] == ["namespace", "RUN", "elsewhere"]

    def test_an_empty_store_and_an_empty_namespace(
        self, small: shoal.Database, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """No runs, and no error."""
        assert printed(capsys, "runs", small.path) == []
        assert len(printed(capsys, "runs", small.path, "--namespace", "a/b/c")) == 2

    def test_as_json(self, full: shoal.Database, capsys: pytest.CaptureFixture[str]) -> None:
        """The lines of an export."""
        found = [json.loads(line) for line in printed(capsys, "runs", full.path, "--json")]
        assert {"parent", "lost", "elsewhere"} <= {fields["run_id"] for fields in found}
        assert {fields["kind"] for fields in found} == {"run"}


class TestEvents:
    def test_a_line_for_each_event(self, full: shoal.Database, capsys: pytest.CaptureFixture[str]) -> None:
        """Sequence, time, type and payload; whatever is in them, one line each."""
        lines = printed(capsys, "events", full.path, "🦀 never registered")
        assert [line.split()[0] for line in lines] == ["0", "1", "2", "3", "4"]
        assert lines[1].endswith('Z  e  {"a":[1],"z":1}')
        assert len(printed(capsys, "events", full.path, "parent")) == shoal.EventLog(full).len("parent")

    def test_another_namespace(self, full: shoal.Database, capsys: pytest.CaptureFixture[str]) -> None:
        """Named by its three parts."""
        assert printed(capsys, "events", full.path, "elsewhere", "--namespace", "acme/web/scout")[0].endswith('{"é":1}')

    def test_nothing_moves_the_cursor(self, full: shoal.Database, capsys: pytest.CaptureFixture[str]) -> None:
        """Types and payloads of any text; tables and trees likewise."""
        for command in (["events", full.path, "parent"], ["trace", full.path, "parent"], ["runs", full.path]):
            assert main(command) == 0
            assert all(line.isprintable() for line in capsys.readouterr().out.split("\n"))

    def test_a_long_payload_is_shortened_except_in_json(
        self, small: shoal.Database, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """People see its beginning, programs all of it."""
        shoal.EventLog(small).append("r", "e", "x" * 10_000)
        assert len(printed(capsys, "events", small.path, "r")[0]) < 400
        fields = json.loads(printed(capsys, "events", small.path, "r", "--json")[0])
        assert fields["payload"] == "x" * 10_000
        assert len(fields["hash"]) == 64

    def test_a_run_without_events(self, full: shoal.Database, capsys: pytest.CaptureFixture[str]) -> None:
        """Nothing to print; a run nobody knows is an error."""
        assert printed(capsys, "events", full.path, "paused") == []
        for command in ("events", "trace"):
            assert main([command, full.path, "nobody"]) == 1
            assert capsys.readouterr().err == "shoal: there is no run 'nobody' here; shoal runs lists those there are\n"


class TestTrace:
    def test_all_trees_or_one(self, small: shoal.Database, capsys: pytest.CaptureFixture[str]) -> None:
        """Children below their parents, in order of time."""
        traces = shoal.TraceStore(small)
        root = traces.record("r", TraceType.Thought("why"), id="root", tags=["t", "u"])
        call = traces.record_child("r", root, TraceType.ToolCall("read", {"path": "x"}, None, 3), id="call")
        traces.record_child("r", call, TraceType.Error("E", "no such file", True), id="error")
        traces.record("r", TraceType.Custom("other", 1), id="second")
        lines = [
            (len(line) - len(line.lstrip()), line.split(maxsplit=1)[1])
            for line in printed(capsys, "trace", small.path, "r")
        ]
        assert lines == [
            (0, 'Thought content="why"  [t, u]  root'),
            (2, 'ToolCall tool_name="read" arguments={"path":"x"} duration_ms=3  call'),
            (4, 'Error error_type="E" message="no such file" recoverable=true  error'),
            (0, 'other trace_type="other" data=1  second'),
        ]
        assert [line.split()[-1] for line in printed(capsys, "trace", small.path, "r", "call")] == ["call", "error"]

    def test_an_unknown_root(self, full: shoal.Database, capsys: pytest.CaptureFixture[str]) -> None:
        """One line, exit 1; what it advises is a command, and that shows every trace."""
        assert main(["trace", full.path, "parent", "nobody"]) == 1
        told = "shoal: there is no trace 'nobody' in run 'parent'; without ROOT shoal trace shows all, with their ids\n"
        assert capsys.readouterr().err == told
        assert len(printed(capsys, "trace", full.path, "parent")) == shoal.TraceStore(full).count("parent")

    def test_any_depth(self, small: shoal.Database, capsys: pytest.CaptureFixture[str]) -> None:
        """A chain of a thousand: the lines do not grow with it."""
        with small.transaction("r") as txn:
            parent = None
            for i in range(1000):
                parent = txn.traces.record(TraceType.Thought("x"), id=str(i), parent_id=parent)
        lines = printed(capsys, "trace", small.path, "r")
        assert len(lines) == 1000
        assert max(map(len, lines)) < 200
        assert "(999) " in lines[-1]

    def test_as_json(self, full: shoal.Database, capsys: pytest.CaptureFixture[str]) -> None:
        """The lines of an export, a parent before its children."""
        found = [json.loads(line) for line in printed(capsys, "trace", full.path, "parent", "--json")]
        assert len(found) == shoal.TraceStore(full).count("parent")


class TestManners:
    @pytest.mark.parametrize("command", [["runs"], ["events", "r"], ["trace", "r"], ["export"]], ids=lambda c: c[0])
    def test_nothing_is_made_where_there_is_no_store(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: Any
    ) -> None:
        """Exit 1, one line, no directory, no files."""
        for path in (tmp_path / "none", tmp_path):
            assert main([command[0], str(path), *command[1:]]) == 1
            out, error = capsys.readouterr()
            assert out == ""
            assert error.startswith("shoal: there is no store")
            assert error.count("\n") == 1
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "arguments",
        [
            ["runs"], ["events", "s"], ["trace", "s"], ["export"], ["import"], ["runs", "s", "more"],
            ["events", "s", ""], ["events", "s", "x" * 129], ["events", "s", "\ud800"], ["trace", "s", "r", ""],
            ["trace", "s", "r", "\udcff"], ["runs", "s", "--namespace", "a/b"], ["runs", "s", "--namespace", "a//b"],
            ["runs", "s", "--namespace", ""],
        ],
        ids=repr,
    )  # fmt: skip
    def test_bad_usage(
        self, arguments: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Exit 2, nothing on stdout, nothing made."""
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert capsys.readouterr().out == ""
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.long
    def test_a_reader_that_leaves(self, full: shoal.Database) -> None:
        """``| head``: quiet, whatever had been printed."""
        for command in (["events", full.path, "parent", "--json"], ["export", full.path], ["runs", full.path]):
            with subprocess.Popen([*SHOAL, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                present(process.stdout).close()
                assert present(process.stderr).read() == b""
                assert process.wait() == (1 if command[0] == "export" else 0)

    @pytest.mark.long
    def test_a_full_disk_and_a_terminal_without_letters(self, full: shoal.Database) -> None:
        """One line on stderr, with a remedy, and exit 1; and letters the terminal has not are escaped."""
        buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        with Path("/dev/full").open("wb") as out:
            for command in (["runs", full.path], ["export", full.path], ["--help"], ["run", "--help"], ["--version"]):
                done = subprocess.run([*SHOAL, *command], stdout=out, stderr=subprocess.PIPE, env=buffered)
                assert done.returncode == 1
                assert re.fullmatch(rb"shoal: No space left on device; free space on [^\n]*\n", done.stderr)
        done = subprocess.run([*SHOAL, "runs", full.path], capture_output=True, env={"PYTHONIOENCODING": "ascii"})
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"\\U0001f980" in done.stdout

    @pytest.mark.long
    def test_streams_that_are_closed(self, full: shoal.Database, tmp_path: Path) -> None:
        """One line, no traceback."""
        for command, mode in ((["export", full.path], ">&-"), (["import", str(tmp_path / "none")], "<&-")):
            line = f'"$@" {mode}'
            done = subprocess.run(["sh", "-c", line, "sh", *SHOAL, *command], capture_output=True, text=True)
            assert (done.returncode, done.stderr.count("\n")) == (1, 1)
            assert "is closed; give a FILE" in done.stderr
        for command in (["runs", full.path], ["events", full.path, "parent"], ["info", full.path]):
            done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *SHOAL, *command], stderr=subprocess.PIPE, text=True)
            assert (done.returncode, done.stderr) == (0, "")

    def test_reading_changes_nothing(self, full: shoal.Database, capsys: pytest.CaptureFixture[str]) -> None:
        """The version stays what it was."""
        for command in (["runs", full.path], ["events", full.path, "parent"], ["trace", full.path, "parent"]):
            assert versions_taken(full, partial(main, command)) == 0

"""The example fleet: what it shares, once however often a file is reviewed, and the same report after any kills."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.fleet import Fleet
from shoal.fleet_input import InputRun, input_run_id
from tests.support.present import present
from tests.support.repository import ROOT

pytestmark = pytest.mark.long

EXAMPLES = ROOT / "examples"
SOURCE = '''"""A module."""
import os
import {other}
def shared(items=[]):
    {other}.helper{number}()
    try:
        return items
    except:
        pass
def helper{number}():
    """Help."""
'''


def write_files(directory: Path, count: int) -> Path:
    directory.mkdir()
    for i in range(count):
        source = SOURCE.format(number=i, other=f"module{(i + 1) % count}")
        (directory / f"module{i}.py").write_text(source if i % 5 else source + "def broken(:\n")
    return directory


def run_review(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / "code_review.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def code_review(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example as a module; workers find it by the same path."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return __import__("code_review")


def test_a_review_is_shared_once_however_often_a_file_is_reviewed(tmp_path: Path, code_review: Any) -> None:
    """A worker lost after sharing, or a second run, adds nothing: same report as when each file was reviewed once."""
    files = [str(path) for path in code_review.python_files(write_files(tmp_path / "code", 6))]
    reports = []
    for name in ("undisturbed", "disturbed"):
        with shoal.WorkerPool(tmp_path / name, workers=2, durability="memory", linger=0.2) as pool:
            db, fleet = pool.database, Fleet(pool.database, code_review.FLEET)
            if name == "disturbed":
                assert list(fleet.run(pool, [])) == []
                for path in files[:3]:  # shared, and the worker dies before it can say so
                    InputRun(code_review.FLEET, path).begin(db)
                    reviewed = code_review.check_file(Path(path))
                    with db.transaction(code_review.RUN_ID) as txn:
                        code_review.share(txn, path, reviewed)
            assert all(outcome.status == "done" for outcome in fleet.run(pool, fleet.to_do(files)))
            reports.append(code_review.report(db))
            traces, events = shoal.TraceStore(db), shoal.EventLog(db)
            tree = traces.get_tree(code_review.RUN_ID, files[1])
            kinds = [child.root.tags for child in tree.children]
            assert kinds == [["unused import"], ["missing docstring"], ["mutable default"], ["bare except"]]
            assert len(traces.query_by_tag(code_review.RUN_ID, "unparsable file")) == 2
            types = [event.event_type for event in events.iter(input_run_id(code_review.FLEET, files[1]))]
            assert types == (["started", "shared", "started", "finished"] if name == "disturbed" else
                             ["started", "shared", "finished"])  # fmt: skip
            assert present(shoal.StateCell(db).read(code_review.RUN_ID, "total/files")).value == 6
    assert reports[0] == reports[1]
    assert "Index and totals agree with the files' findings: yes" in reports[0]
    assert "       2  unparsable file" in reports[0]
    assert "       4  shared" in reports[0]


def test_the_command_reviews_and_reports_and_does_no_file_twice(tmp_path: Path) -> None:
    """Exit 0 and the report; run again, no file is reviewed and the report is the same."""
    code = write_files(tmp_path / "code", 6)
    options = ["--store", tmp_path / "store", "--root", code, "--workers", 2, "--report"]
    first = run_review(*options, tmp_path / "1.txt")
    assert first.returncode == 0
    assert "6 inputs: 0 done before, 6 done now, 0 failed" in first.stdout
    second = run_review(*options, tmp_path / "2.txt")
    assert "6 inputs: 6 done before, 0 done now, 0 failed" in second.stdout
    assert (tmp_path / "1.txt").read_bytes() == (tmp_path / "2.txt").read_bytes()


@pytest.mark.slow
def test_the_report_is_the_same_whatever_is_killed(tmp_path: Path) -> None:
    """The standard library reviewed while workers and coordinators are killed: the same report, to the byte."""
    for name, extra in (("quiet", []), ("chaos", ["--chaos", "--seed", 1])):
        run = run_review("--store", tmp_path / name, "--workers", 4, "--report", tmp_path / f"{name}.txt", *extra)
        assert run.returncode == 0, run.stderr
    assert (tmp_path / "quiet.txt").read_bytes() == (tmp_path / "chaos.txt").read_bytes()

"""The example of agents that research: what it finds, once and for all, whatever is run again or killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import shoal
from tests.support.repository import ROOT


def run_research(store: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        str(ROOT / "examples" / "research_fleet.py"),
        "--store",
        store,
        "--workers",
        2,
        *arguments,
    ]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.long
def test_it_goes_on_where_it_was_when_it_gets_more_tokens(tmp_path: Path) -> None:
    """The budget ends it early; run again it goes on; a third run finds all done, and reports the same bytes."""
    store, fast = tmp_path / "store", ["--think", 0, "--rate", 10_000_000]
    short = run_research(store, *fast, "--tokens", 2_000)
    assert short.returncode == 1
    assert short.stderr == "research_fleet: the budget of 2,000 tokens is used up; run again with more --tokens\n"
    with shoal.open(store) as db:
        found = len(shoal.KVStore(db).list("research", "finding/"))
        assert found > 1
        assert shoal.Budget(db).read("fleet", "tokens").used <= 2_000
    second = run_research(store, *fast, "--report", tmp_path / "2.txt")
    assert second.returncode == 0, second.stderr
    assert f"research: the survey, begun before, {found} findings so far" in second.stdout
    third = run_research(store, *fast, "--report", tmp_path / "3.txt")
    assert "research: the survey, begun before, 37 findings so far" in third.stdout
    report = (tmp_path / "2.txt").read_text()
    assert report == (tmp_path / "3.txt").read_text()
    assert report.count("   yes  ") == 5
    assert "    NO  " not in report
    with shoal.open(store) as db:
        assert shoal.RunIndex(db).fork_run("research/second").parent_run == "research/second"
        assert shoal.TaskQueue(db).stats("fleet", "questions") == shoal.QueueStats(0, 0, 0, 53, 0)
        assert db.check() == []


@pytest.mark.slow
def test_the_report_is_the_same_whatever_is_killed(tmp_path: Path) -> None:
    """Workers, reporters, coordinators and the lead are killed: the same report, to the byte."""
    for name, extra in (("quiet", ["--think", 0]), ("chaos", ["--chaos", "--seed", 1])):
        run = run_research(tmp_path / name, "--report", tmp_path / f"{name}.txt", *extra)
        assert run.returncode == 0, run.stderr
    assert (tmp_path / "quiet.txt").read_bytes() == (tmp_path / "chaos.txt").read_bytes()

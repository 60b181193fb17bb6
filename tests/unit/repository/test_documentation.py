"""The documentation is true: its examples run, and files, links, modules and make targets that it names are there."""

from __future__ import annotations

import contextlib
import doctest
import importlib.util
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

import shoal
from tests.support.present import present
from tests.support.repository import ROOT

pytestmark = pytest.mark.plain

PAGES = sorted(
    page for pattern in ("*.md", "docs/**/*.md", ".github/**/*.md") for page in ROOT.glob(pattern) if page.is_file()
)
EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
NAMED = re.compile(
    r"\b((?:shm|coordinator|workers|primitives|shoal|tests|bench|examples|docs|\.ci)/[\w./-]*\.(?:py|md|svg))\b"
)
NAMED_TEST = re.compile(r"`(test_\w+\.py)`")
MODULE = re.compile(r"python -m ((?:tests|bench)[\w.]*)")
# In a sentence within backquotes, or in a block of commands with a comment behind it.
TARGET = re.compile(r"(?:`make |^make (?=[a-z-]+ (?:[A-Z]+=\S+ )* *#))([a-z][a-z-]*)", re.MULTILINE)


def _ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _named(page: Path, pattern: re.Pattern[str]) -> set[str]:
    return set(pattern.findall(page.read_text(encoding="utf-8")))


def _examples(page: str) -> list[str]:
    return EXAMPLE.findall((ROOT / page).read_text(encoding="utf-8"))


def test_there_are_pages() -> None:
    """The tests below look at every page."""
    assert {"README.md", "CONTRIBUTING.md", "docs/design.md", "docs/decisions/index.md"} <= {_ids(p) for p in PAGES}


@pytest.mark.long
def test_the_program_of_the_readme_runs(tmp_path: Path) -> None:
    """The first example is a whole program: it runs as it stands, and prints what each line is for."""
    (tmp_path / "example.py").write_text(_examples("README.md")[0], encoding="utf-8")
    command = [sys.executable, "example.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    order, results, runs = done.stdout.splitlines()
    assert sorted(map(int, order.strip("[]").split(", "))) == list(range(1, 9))
    assert results == str([(f"result/{n}", n * n) for n in range(8)])
    assert runs == "1"


@pytest.mark.long
def test_the_transaction_of_the_readme_runs(db: shoal.Database) -> None:
    """The second example commits all of what it shows at once."""
    exec(_examples("README.md")[1], {"db": db, "shoal": shoal})
    assert shoal.KVStore(db).get("run-1", "task/status") == "running"
    assert shoal.EventLog(db).len("run-1") == 1
    assert present(shoal.StateCell(db).read("run-1", "workflow")).value == "step1"
    assert shoal.TraceStore(db).count("run-1") == 1
    assert present(shoal.RunIndex(db).get_run("run-1")).tags == ["nightly"]


@pytest.mark.long
def test_the_example_of_the_start_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves what it says in the store."""
    monkeypatch.chdir(tmp_path)
    exec(_examples("docs/index.md")[0], {})
    with shoal.open("fleet.db", linger=0.05) as db:
        assert shoal.KVStore(db).list_with_values("run-1") == [("attempts", 1), ("status", "running")]


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_links_lead_to_files(page: Path) -> None:
    """Every relative link."""
    assert [link for link in _named(page, LINK) if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_files_that_are_named_are_there(page: Path) -> None:
    """Every path of a file in the repository; of tests that are named alone, the file anywhere among the tests."""
    gone = {name for name in _named(page, NAMED) if not (ROOT / name).exists() and not (page.parent / name).exists()}
    found = {test.name for test in (ROOT / "tests").rglob("test_*.py")}
    assert gone | (_named(page, NAMED_TEST) - found) == set()


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_commands_that_are_named_are_there(page: Path) -> None:
    """Every module that is run with ``python -m``, and every target of make."""
    modules = {name for name in _named(page, MODULE) if importlib.util.find_spec(name) is None}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert modules | (_named(page, TARGET) - targets) == set()


def test_help_lists_every_target() -> None:
    """``make help`` says of every target what it does."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {name for line in re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE) for name in line.split()}
    assert set(re.findall(r"^## make ([a-z-]+) ", makefile, re.MULTILINE)) == targets - {"help"}


def test_the_site_has_every_page() -> None:
    """Every page under docs/ is in the navigation, and every page of the navigation is there."""
    listed = set(re.findall(r"^ +- ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == {str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/**/*.md")}


@pytest.mark.parametrize("name", shoal.__all__)
def test_the_reference_has_every_public_name(name: str) -> None:
    """Every class, function and constant of ``shoal`` by its name, every error with the module that defines it."""
    told = {line for page in ROOT.glob("docs/reference/*.md") for line in page.read_text(encoding="utf-8").split("\n")}
    public = getattr(shoal, name)
    if isinstance(public, type) and issubclass(public, shoal.ShoalError):
        homes = (sys.modules[home] for home in ("shoal.shm.errors", "shoal.shm.fleet_errors") if f"::: {home}" in told)
        assert public in [vars(home).get(name) for home in homes]
    else:
        assert f"::: shoal.{name}" in told


def test_how_pages_are_made_ready_for_the_site() -> None:
    """Examples become code blocks, and links out of docs/ plain text. It needs what the site needs."""
    pytest.importorskip("griffe")
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs" / "site_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with contextlib.redirect_stdout(io.StringIO()) as told:
        result = doctest.testmod(module)
    assert result.attempted == 2, told.getvalue()
    assert result.failed == 0, told.getvalue()

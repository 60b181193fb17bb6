"""The acceptance list and the tests of this folder say the same, line for line."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.repository import ROOT

pytestmark = pytest.mark.plain

LIST = ROOT / "docs" / "acceptance.md"
SECTION = re.compile(r"^## (\d+)\. .*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| (.+) \| `(test_\w+)` \|$", re.MULTILINE)
FILE = re.compile(r"`(tests/plan/\w+\.py)`")
BENCH = re.compile(r"^\| .+ \| `python -m bench --only (\w+)` \|$", re.MULTILINE)
LINES = 164  # how many lines have a test


def _sections() -> dict[int, str]:
    return {int(match[1]): match[0] for match in SECTION.finditer(LIST.read_text())}


def _listed() -> list[tuple[str, str, str]]:
    """File, test and promise of every line that is shown by a test."""
    found = []
    for text in _sections().values():
        for promise, test in ROW.findall(text):
            file = FILE.search(text)
            assert file is not None
            found.append((file[1], test, promise))
    return found


def _defined() -> list[tuple[str, str, str]]:
    """The same of every test of this folder, from its docstring."""
    found = []
    for path in sorted((ROOT / "tests" / "plan").glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and re.match(r"test_\d\d_", node.name):
                text = " ".join((ast.get_docstring(node) or "").split()).replace("``", "`")
                found.append((str(path.relative_to(ROOT)), node.name, text))
    return found


def test_every_line_has_a_test_that_promises_the_same() -> None:
    """Every line of the list is the docstring of its test, every test has its line, and no line has dropped out."""
    assert sorted(_listed()) == sorted(_defined())
    assert len(_listed()) == LINES


def test_every_test_carries_the_number_of_its_section() -> None:
    """A test's number is that of the section its line stands in, and no section has dropped out."""
    sections = _sections()
    assert sorted(sections) == list(range(1, 36))
    for number, text in sections.items():
        assert {int(test[5:7]) for _, test in ROW.findall(text)} <= {number}


def test_every_measurement_is_one_of_the_bench() -> None:
    """What must be fast is measured by an operation of the bench."""
    sources = "\n".join(path.read_text() for path in (ROOT / "bench").rglob("*.py"))
    measured = re.findall(r'^    name = "(\w+)"$', sources, re.MULTILINE)
    names = BENCH.findall(_sections()[35])
    assert len(names) == 6
    assert set(names) <= set(measured)

"""How large a file, a function and a folder may be: in the product, the tests, the benchmarks and the examples."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests.support.repository import FLOORS, ROOT

pytestmark = pytest.mark.plain

MOST_LINES = 350  # of a file
MOST_FUNCTION_LINES = 50  # signature and docstring included
MOST_FILES = 12  # of a folder, with its __init__.py

LINKS = {ROOT / "shoal" / floor for floor in (*FLOORS, "bench")}
FOLDERS = [ROOT / name for name in (*FLOORS, "shoal", "bench", "tests", "examples", "docs")]
FILES = sorted(path for folder in FOLDERS for path in folder.rglob("*.py") if LINKS.isdisjoint(path.parents))
FILES += sorted(ROOT.glob("*.py"))


def _long_functions(source: str) -> list[str]:
    return [
        f"{node.name} has {lines} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (lines := (node.end_lineno or 0) - node.lineno + 1) > MOST_FUNCTION_LINES
    ]


def _source(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_files() -> None:
    """No file is longer than it may be."""
    assert len(FILES) > 600
    lines = {str(path.relative_to(ROOT)): _source(path).count("\n") for path in FILES}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


@pytest.mark.long
def test_functions() -> None:
    """No function is longer than it may be."""
    long = {str(path.relative_to(ROOT)): found for path in FILES if (found := _long_functions(_source(path)))}
    assert long == {}


def test_folders() -> None:
    """No folder has more files than it may have."""
    counts = Counter(path.parent for path in FILES if path.parent != ROOT)
    assert {str(folder.relative_to(ROOT)): count for folder, count in counts.items() if count > MOST_FILES} == {}


def test_a_long_function_is_found() -> None:
    """Also a method, and by one line."""
    method = "class Long:\n    def method(self):\n" + "        pass\n"
    assert _long_functions(method + "        pass\n" * (MOST_FUNCTION_LINES - 2)) == []
    assert _long_functions(method + "        pass\n" * (MOST_FUNCTION_LINES - 1)) == ["method has 51 lines"]

"""Every test says in its docstring what is guaranteed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.repository import ROOT

pytestmark = pytest.mark.plain

FILES = sorted((ROOT / "tests").rglob("test_*.py"))


def _silent(path: Path, source: str) -> list[str]:
    """The tests of a module that have no docstring."""
    return [
        f"{path.name}: {node.name}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not ast.get_docstring(node)
    ]


@pytest.mark.long
def test_every_test_has_one() -> None:
    """So a reader knows what a failing test stands for, and whether the test shows it."""
    assert len(FILES) > 200
    assert [name for path in FILES for name in _silent(path, path.read_text(encoding="utf-8"))] == []


def test_one_without_is_found() -> None:
    """Also a method."""
    told = 'def test_a() -> None:\n    """It is so."""\n'
    method = "class TestAll:\n    def test_b(self) -> None:\n        assert True\n"
    assert _silent(Path("t.py"), told + method) == ["t.py: test_b"]

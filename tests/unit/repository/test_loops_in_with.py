"""What a signal handler raises between two bytecodes must end what a ``with`` block or a ``try`` block has begun."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

from tests.support.repository import ROOT

Loop = ast.While | ast.For | ast.ListComp
FLOORS = ("shm", "coordinator", "workers", "primitives", "shoal")


def _own(block: ast.AST) -> Iterator[ast.AST]:
    """The nodes within ``block`` that are no part of another function."""
    for node in ast.iter_child_nodes(block):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from _own(node)


def _jumps_back_on_a_condition(node: ast.AST) -> TypeGuard[Loop]:
    if isinstance(node, ast.For):
        return isinstance(node.body[-1], ast.If)
    return isinstance(node, ast.While) or (isinstance(node, ast.ListComp) and any(each.ifs for each in node.generators))


def _loops_under_locks(path: Path) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for block in ast.walk(ast.parse(path.read_text()))
        if isinstance(block, ast.With) and any("_lock" in ast.unparse(each.context_expr) for each in block.items)
        for node in _own(block)
        if _jumps_back_on_a_condition(node)
    ]


@pytest.mark.long
def test_no_loop_jumps_back_under_a_lock() -> None:
    """A block that holds a lock has no ``while`` and no loop that ends with an ``if``: a method of its own has it.

    CPython 3.12 and 3.13 leave a jump back that depends on a condition out of the blocks around it. What a handler
    raises at that jump would leave the lock held.
    """
    files = {path.resolve() for floor in FLOORS for path in (ROOT / floor).rglob("*.py")}
    assert len(files) > 100
    assert [found for path in sorted(files) for found in _loops_under_locks(path)] == []


def test_loops_under_locks_are_found() -> None:
    """The search finds each form of such a loop, and no other."""
    code = """
def held(self):
    with self._lock:
        while self.more():
            self.take()
        for each in self.all:
            if each:
                self.take()
        for each in self.all:
            self.take()
        return [each for each in self.all if each], [each for each in self.all]
"""
    blocks = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.With)]
    found = [node for block in blocks for node in _own(block) if _jumps_back_on_a_condition(node)]
    assert [type(node) for node in found] == [ast.While, ast.For, ast.ListComp]

"""The simulation runs the product through its ports: it reads and replaces no private name of it.

Mutants and failpoints are another matter: each is about one place in the implementation, and names it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support.repository import ROOT

pytestmark = pytest.mark.plain

FILES = sorted((ROOT / "tests" / "simulation").rglob("*.py"))
# What the simulation has of the other tests, but for the mutants.
FILES += [ROOT / "tests" / "mutants" / "registry.py"]
FILES += [
    ROOT / "tests" / "support" / "histories" / name for name in ("acknowledged.py", "history.py", "list_append.py")
]
# Methods of named tuples, which begin with an underscore so that no field has their name.
NAMED_TUPLES = {"_replace", "_asdict", "_fields", "_make"}
PRIVATE = re.compile(r"_(?!_)\w+")


def _is_private(name: str) -> bool:
    return PRIVATE.fullmatch(name) is not None and name not in NAMED_TUPLES


def _private_names(source: str) -> list[str]:
    """The private names of others that a file uses: as attributes, in imports, and as strings that name an attribute.

    Those of its own are what its classes and functions define or store on ``self``.
    """
    tree = ast.parse(source)
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            own |= {node.attr} if isinstance(node.ctx, ast.Store) else set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            is_self = isinstance(node.value, ast.Name) and node.value.id == "self"
            found += [] if is_self and node.attr in own else [f"{node.lineno}: .{node.attr}"]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.lineno}: import {alias.name}" for alias in node.names if _is_private(alias.name)]
        elif isinstance(node, ast.Call):
            texts = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            found += [f"{node.lineno}: {text!r}" for text in texts if _is_private(text)]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_simulation_uses_no_private_name(path: Path) -> None:
    """No attribute, no import and no replaced name with an underscore, but for those that the file itself defines."""
    assert _private_names(path.read_text(encoding="utf-8")) == []


def test_private_names_are_found() -> None:
    """However they are used; what a class stores on itself, and a method of named tuples, is none."""
    source = """
from module import _hidden
class Own(Base):
    def __init__(self):
        self._mine = self._inherited
        self._mine._replace(n=1)
        other._secret = 1
        patch.set(module, "_replaced", None)
"""
    found = {text.split(": ")[1] for text in _private_names(source)}
    assert found == {"import _hidden", "._inherited", "._secret", "'_replaced'"}

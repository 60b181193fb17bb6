"""Every attribute of a compiled class is declared in the ``.pxd`` file beside its Python file.

An extension type has no other attributes: an undeclared one shows only when a compiled process stores it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from shoal.shm.compilation import HOT_MODULES
from tests.support.repository import ROOT


def _stored(kind: ast.ClassDef) -> set[str]:
    """The attributes that methods of a class store on ``self``."""
    found = set()
    for node in ast.walk(kind):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            target = node.value
            if isinstance(target, ast.Name) and target.id == "self":
                found.add(node.attr)
    return found


def _undeclared(python: str, declarations: str) -> set[str]:
    missing = set()
    for kind in ast.walk(ast.parse(python)):
        if isinstance(kind, ast.ClassDef):
            block = re.search(rf"^cdef class {kind.name}\b.*?(?=^\S|\Z)", declarations, re.DOTALL | re.MULTILINE)
            if block is not None:
                missing |= {f"{kind.name}.{name}" for name in _stored(kind) if not re.search(rf"\b{name}\b", block[0])}
    return missing


@pytest.mark.parametrize("module", HOT_MODULES)
def test_each_attribute_is_declared(module: str) -> None:
    """What a compiled class stores on itself stands in its declaration."""
    source = Path(ROOT, *module.split(".")[1:]).with_suffix(".py")
    declarations = source.with_suffix(".pxd")
    text = declarations.read_text(encoding="utf-8") if declarations.exists() else ""
    assert _undeclared(source.read_text(encoding="utf-8"), text) == set()


def test_a_missing_one_is_found() -> None:
    """The search finds an attribute that is not declared."""
    python = "class Thing:\n    def __init__(self):\n        self.known = self.unknown = 1\n"
    assert _undeclared(python, "cdef class Thing:\n    cdef public int known\n") == {"Thing.unknown"}

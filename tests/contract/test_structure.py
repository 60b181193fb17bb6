"""How the product's files may know each other: no circle, and no operation named but where operations live."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

from shoal.primitives.rules import registry

pytestmark = pytest.mark.plain

ROOT = Path(__file__).resolve().parent.parent.parent
FLOORS = ("shm", "coordinator", "workers", "primitives", "bench")
# An operation is decided in one of these modules, and asked for in another.
RULES = "shoal.primitives.rules."


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Every module of the product by its name, parsed."""
    found = {}
    for floor in (*FLOORS, "shoal"):
        for path in sorted((ROOT / floor).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if floor == "shoal" and parts[1] in FLOORS:  # a link to a floor
                continue
            name = ".".join(parts if floor == "shoal" else ("shoal", *parts)).removesuffix(".__init__")
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports_of(name: str) -> set[str]:
    """The modules of the product that one imports: anywhere in it, also where only a type checker looks."""
    found = set()
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {module if module in modules() else node.module for module in whole}
    return (found & modules().keys()) - {name}


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """What is left when everything that leads nowhere, or comes from nowhere, is taken away: circles, and between."""
    left = dict(edges)
    while True:
        targets = set().union(*left.values()) if left else set()
        on_the_way = {
            name: found & left.keys() for name, found in left.items() if found & left.keys() and name in targets
        }
        if on_the_way == left:
            return [sorted(left)] if left else []
        left = on_the_way


@pytest.mark.long
def test_no_circle_of_imports() -> None:
    """Not in all of the product, imports inside functions and for type checkers counted."""
    assert {"shoal", "shoal.database", "shoal.shm.limits", "shoal.primitives.transaction"} <= modules().keys()
    edges = {name: imports_of(name) for name in modules()}
    assert circles(edges) == []


def test_a_circle_would_be_found() -> None:
    """Also a long one, and not what only leads to it or comes from it."""
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "into": {"a"}, "end": set()}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.long
def test_only_rules_name_operations() -> None:
    """Elsewhere no file takes a name from the registry, writes one out, or performs one: it passes the table on."""
    names = set(registry.OPERATIONS)
    constants = {name for name, value in vars(registry).items() if isinstance(value, str) and value in names}
    assert len(constants) == len(names)
    wrong = []
    for module, tree in modules().items():
        if module.startswith(RULES):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and node.value in names:
                wrong.append(f"{module}:{node.lineno} writes {node.value!r}")
            elif isinstance(node, ast.ImportFrom) and node.module == registry.__name__:
                taken = {alias.name for alias in node.names} - {"TABLE"}
                wrong += [f"{module}:{node.lineno} imports {name}" for name in taken]
            elif isinstance(node, ast.Attribute) and node.attr in constants | {"perform"}:
                wrong.append(f"{module}:{node.lineno} uses {node.attr}")
    assert wrong == []


@pytest.mark.long
def test_primitives_know_no_engine() -> None:
    """They stand on the port and on shm alone."""
    for module in modules():
        if module.startswith("shoal.primitives"):
            below = [name for name in imports_of(module) if not name.startswith(("shoal.primitives", "shoal.shm"))]
            assert below == [], module


def test_what_is_above_the_engine_reads_no_memory() -> None:
    """Neither the database nor a primitive looks into a segment."""
    for module in modules():
        if module.startswith("shoal.primitives") or module == "shoal.database":
            assert not {name for name in imports_of(module) if name.startswith("shoal.shm.memory")}, module

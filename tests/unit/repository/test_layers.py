"""The floors of the repository: who may be imported by what name."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from pathlib import Path

import pytest

from tests.support.repository import ROOT

pytestmark = pytest.mark.plain

FLOORS = ("shm", "coordinator", "workers", "primitives")
FOLDERS = (*FLOORS, "shoal", "bench", "examples", "tests")
INSTALLED = (*FLOORS, "bench", "shoal")
LOWER = {
    "shm": {"shm"},
    "coordinator": {"shm", "coordinator"},
    "workers": {"shm", "workers"},
    "primitives": {"shm", "primitives"},
}
FILES = sorted(
    {
        path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if "shoal/" + folder not in str(path.relative_to(ROOT))
    }
    | set((ROOT / "shoal").glob("*.py"))
)


@functools.cache
def imports(path: Path) -> list[tuple[str, int]]:
    """Every module a file imports, wherever in it, and the level of relative imports."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node.level))
            if node.module == "shoal":
                found += [(f"shoal.{alias.name}", 0) for alias in node.names]
    return found


def test_there_is_code() -> None:
    """The tests below look at every floor."""
    assert {path.relative_to(ROOT).parts[0] for path in FILES} >= {*FLOORS, "shoal", "tests"}


@pytest.mark.parametrize("floor", FLOORS)
def test_links_exist(floor: str) -> None:
    """shoal/<floor> is a link to ../<floor>, so that type checkers and editors see the tree that is installed."""
    link = ROOT / "shoal" / floor
    assert link.is_symlink()
    assert link.readlink() == Path("..") / floor
    assert (link / "__init__.py").is_file()


def test_nothing_imports_a_floor_by_its_bare_name() -> None:
    """Code says shoal.shm, never shm: a user's own package of that name would be in the way."""
    # To read a file takes less than to parse it.
    may_be = re.compile(rf"(?<![.\w])(?:{'|'.join((*FLOORS, 'bench'))})\b")
    wrong = [
        f"{path.relative_to(ROOT)}: {module}"
        for path in FILES
        if any("import" in line and may_be.search(line) for line in path.read_text(encoding="utf-8").splitlines())
        for module, level in imports(path)
        if level == 0 and module.split(".")[0] in (*FLOORS, "bench")
    ]
    assert wrong == []


@pytest.mark.long
def test_nothing_imports_relatively() -> None:
    """What is installed says shoal.shm and so on, in full."""
    code = [path for path in FILES if path.relative_to(ROOT).parts[0] in (*FLOORS, "shoal")]
    assert [str(path.relative_to(ROOT)) for path in code for _, level in imports(path) if level] == []


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_point_downward(floor: str) -> None:
    """A floor imports itself and what is below; coordinator and workers never each other."""
    wrong = []
    for path in (ROOT / floor).rglob("*.py"):
        for module, _ in imports(path):
            parts = module.split(".")
            if parts[0] == "shoal" and parts[1:] and parts[1] not in LOWER[floor]:
                wrong.append(f"{path.relative_to(ROOT)}: {module}")
    assert wrong == []


def test_every_package_is_installed() -> None:
    """``pyproject.toml`` lists each folder with code, and no other: one that is forgotten is in no wheel."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    parts = {path.relative_to(ROOT).parts[:-1] for path in FILES}
    code = {".".join(each if each[0] == "shoal" else ("shoal", *each)) for each in parts if each[0] in INSTALLED}
    assert code == set(listed)
    assert len(listed) == len(code)


def test_no_pickle() -> None:
    """Nothing below the public face reads pickles: a value is never code."""
    wrong = [
        str(path.relative_to(ROOT))
        for path in FILES
        if path.relative_to(ROOT).parts[0] in ("shm", "coordinator", "primitives")
        for module, _ in imports(path)
        if module.split(".")[0] in ("pickle", "marshal", "shelve")
    ]
    assert wrong == []

"""Which form of the hot modules a process runs: what is compiled, and what the environment asks for."""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import shoal
from shoal.shm.compilation import HOT_MODULES, is_compiled
from tests.support.repository import ROOT, extensions, python_file

SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A package ``shoal`` with the floor ``shm`` alone, of which nothing is compiled; where it lies."""
    (tmp_path / "shoal").mkdir()
    (tmp_path / "shoal" / "__init__.py").touch()
    shutil.copytree(ROOT / "shm", tmp_path / "shoal" / "shm", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return tmp_path


def _run(program: str, where: Path = ROOT, **variables: str) -> tuple[int, str]:
    """The exit status of a Python program, and the last line that it printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}
    environment = {**kept, **variables, "PYTHONPATH": str(where)}
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=where, env=environment, capture_output=True, text=True, check=False
    )
    return ended.returncode, (ended.stdout + ended.stderr).strip().rpartition("\n")[2]


SHOW = """
from shoal.shm.compilation import is_compiled
from shoal.shm.memory import record
print(is_compiled(), record.__file__)
"""


def test_every_hot_module_runs_in_the_form_that_is_told(memory_db: shoal.Database) -> None:
    """``info().compiled`` is true if all hot modules of this process are extension modules, and false if none is."""
    compiled = {str(importlib.import_module(name).__file__).endswith(SUFFIX) for name in HOT_MODULES}
    assert compiled == {is_compiled()} == {memory_db.info().compiled}


def test_exactly_the_hot_modules_are_compiled() -> None:
    """In the repository nothing else is compiled: Python would still import what was compiled once."""
    assert all(python_file(name).exists() for name in HOT_MODULES)
    found = extensions()
    if not found:
        pytest.skip("nothing is compiled here; run make compile")
    assert sorted(found) == sorted(HOT_MODULES)


def test_each_hot_module_is_named_once_in_order() -> None:
    """The list is sorted, so that two changes of it meet in one place."""
    assert list(HOT_MODULES) == sorted(set(HOT_MODULES))


@pytest.mark.long
def test_disabled_runs_the_python_files() -> None:
    """SHOAL_DISABLE_EXTENSION=1 imports the Python files, compiled or not; 0 and the empty text mean nothing."""
    status, line = _run(SHOW, SHOAL_DISABLE_EXTENSION="1")
    assert (status, line.split()[0]) == (0, "False")
    assert line.endswith("record.py")
    assert _run(SHOW, SHOAL_DISABLE_EXTENSION="0") == _run(SHOW, SHOAL_DISABLE_EXTENSION="") == _run(SHOW)


def test_required_is_an_error_where_nothing_is_compiled(copy: Path) -> None:
    """SHOAL_REQUIRE_EXTENSION=1 names a module that is not compiled, and says what to do."""
    status, line = _run(SHOW, copy, SHOAL_REQUIRE_EXTENSION="1")
    assert status == 1
    assert line.startswith(f"ImportError: SHOAL_REQUIRE_EXTENSION is set and {HOT_MODULES[0]} is not compiled; install")


def test_required_and_disabled_is_an_error() -> None:
    """Both variables at once cannot be obeyed, compiled or not."""
    status, line = _run("import shoal", SHOAL_REQUIRE_EXTENSION="1", SHOAL_DISABLE_EXTENSION="1")
    assert status == 1
    assert line == (
        "ImportError: SHOAL_DISABLE_EXTENSION and SHOAL_REQUIRE_EXTENSION are both set; set one of them, or none"
    )


SUBINTERPRETER = """
import sys, tempfile
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
BEFORE
run = getattr(interpreters, "exec", None) or interpreters.run_string
# One that shares the lock of the main interpreter: without it Python 3.12 loads no ``ctypes`` there.
other = interpreters.create("legacy") if hasattr(interpreters, "exec") else interpreters.create(isolated=False)
failure = run(other, f"import sys; sys.path[:0] = {sys.path}\\n" + '''
import shoal, tempfile
from shoal.shm.compilation import is_compiled
with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory", linger=0.0) as db:
    kv = shoal.KVStore(db)
    kv.put("run", "key", 1)
    print(kv.get("run", "key"), is_compiled(), flush=True)
''')
print(failure, file=sys.stderr) if failure else None
"""


@pytest.mark.parametrize("before", ["", "import shoal"], ids=["alone", "imported here, too"])
def test_plain_in_a_subinterpreter(before: str) -> None:
    """A store works there, as plain Python; also where the main interpreter runs compiled modules."""
    assert _run(SUBINTERPRETER.replace("BEFORE", before)) == (0, "1 False")


def test_required_is_an_error_in_a_subinterpreter() -> None:
    """SHOAL_REQUIRE_EXTENSION=1 cannot be obeyed there."""
    if not is_compiled():
        pytest.skip("nothing is compiled here")
    _, line = _run(SUBINTERPRETER.replace("BEFORE", ""), SHOAL_REQUIRE_EXTENSION="1")
    assert "SHOAL_REQUIRE_EXTENSION is set and this is a subinterpreter" in line


def test_plain_without_any_extension(copy: Path) -> None:
    """Without a single extension module everything works as plain Python."""
    assert _run(SHOW, copy) == (0, f"False {copy}/shoal/shm/memory/record.py")


def test_all_or_none(copy: Path) -> None:
    """If one extension module is missing, the others are not used: compiled modules call each other in C."""
    shm = copy / "shoal" / "shm"
    (shm / f"clock{SUFFIX}").touch()  # empty: an error if it is imported
    path = shm / "compilation.py"
    text = path.read_text(encoding="utf-8")
    before, _, after = text.partition("HOT_MODULES = (")
    path.write_text(f"{before}HOT_MODULES = ('shoal.shm.clock', {after}", encoding="utf-8")
    assert _run(SHOW, copy) == (0, f"False {shm}/memory/record.py")
    assert _run("from shoal.shm import clock; print(clock.__file__)", copy) == (0, f"{shm}/clock.py")

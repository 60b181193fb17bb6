"""What is built of the repository works where it is installed: compiled, without a compiler, and in place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from shoal.shm.compilation import HOT_MODULES
from tests.support.repository import FLOORS, ROOT

pytestmark = [pytest.mark.plain, pytest.mark.slow]

NO_COMPILER = {"CC": "/bin/false"}
USE = """
import tempfile, shoal
with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory", linger=0.1) as db:
    kv = shoal.KVStore(db)
    kv.put("run", "a", [1])
    print(kv.get("run", "a"), db.info().compiled)
"""


def _call(command: list[str], cwd: Path, **variables: str) -> str:
    """What a command prints. It sees none of this process's variables for shoal, and no path of the repository."""
    hidden = ("SHOAL_", "PYTHONPATH", "CC")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    ended = subprocess.run(command, cwd=cwd, env={**kept, **variables}, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def _tree(folder: Path) -> Path:
    """A copy of what is in git of the product, with its links, and with nothing that was built."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    for name in (*FLOORS, "bench", "shoal"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sdist of the product, made by setuptools as any builder has it do."""
    tree, made = _tree(tmp_path_factory.mktemp("tree")), tmp_path_factory.mktemp("sdist")
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(made)!r})"
    _call([sys.executable, "-c", build], tree)
    (path,) = made.glob("*.tar.gz")
    return path


def _wheel_of(sdist: Path, folder: Path, **variables: str) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    _call([*command, "--wheel-dir", str(folder / "wheel"), str(sdist)], folder, **variables)
    (wheel,) = (folder / "wheel").glob("*.whl")
    return wheel


def _used(path: Path, folder: Path, **variables: str) -> str:
    """What the program above prints with the package at ``path``."""
    return _call([sys.executable, "-c", USE], folder, PYTHONPATH=str(path), **variables)


def _unpacked(wheel: Path, folder: Path) -> tuple[Path, set[str]]:
    """Where a wheel is unpacked, and the modules that are compiled in it."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
        names = archive.namelist()
    return folder / "site", {name.partition(".")[0].replace("/", ".") for name in names if name.endswith(".so")}


def test_an_sdist_has_what_compiling_needs(sdist: Path) -> None:
    """Python files, C types and headers; nothing that was translated or compiled."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    built = {
        str(path.relative_to(ROOT))
        for floor in FLOORS
        for end in ("*.pxd", "*.h")
        for path in (ROOT / floor).rglob(end)
    }
    assert built | {"setup.py", "shm/native/LICENSE.xxhash"} <= names
    assert not [name for name in names if name.endswith((".c", ".so")) or name.startswith("build")]


def test_a_wheel_from_the_sdist_is_compiled(sdist: Path, tmp_path: Path) -> None:
    """The links shoal/shm -> ../shm are not in an sdist; its wheel has every extension module all the same."""
    wheel = _wheel_of(sdist, tmp_path, SHOAL_REQUIRE_EXTENSION="1")
    assert "none-any" not in wheel.name
    site, compiled = _unpacked(wheel, tmp_path)
    assert compiled == set(HOT_MODULES)
    assert _used(site, tmp_path, SHOAL_REQUIRE_EXTENSION="1") == "[1] True\n"
    assert _used(site, tmp_path, SHOAL_DISABLE_EXTENSION="1") == "[1] False\n"


def test_a_wheel_without_a_compiler_is_plain(sdist: Path, tmp_path: Path) -> None:
    """Where nothing can be compiled, shoal is installed all the same, as plain Python."""
    site, compiled = _unpacked(_wheel_of(sdist, tmp_path, **NO_COMPILER), tmp_path)
    assert not compiled
    assert _used(site, tmp_path) == "[1] False\n"


def test_a_disabled_build_is_for_every_machine(sdist: Path, tmp_path: Path) -> None:
    """SHOAL_DISABLE_EXTENSION=1 makes the wheel that any Python on any machine installs."""
    wheel = _wheel_of(sdist, tmp_path, SHOAL_DISABLE_EXTENSION="1")
    assert wheel.name.endswith("-py3-none-any.whl")
    site, compiled = _unpacked(wheel, tmp_path)
    assert not compiled
    assert _used(site, tmp_path) == "[1] False\n"


def test_a_required_build_fails_without_a_compiler(sdist: Path, tmp_path: Path) -> None:
    """SHOAL_REQUIRE_EXTENSION=1 never makes a plain wheel."""
    with pytest.raises(AssertionError, match="/bin/false"):
        _wheel_of(sdist, tmp_path, SHOAL_REQUIRE_EXTENSION="1", **NO_COMPILER)


def test_an_editable_install_is_compiled_in_place(tmp_path: Path) -> None:
    """``pip install --editable`` compiles beside the Python files; without a compiler it leaves none of them there."""
    tree = _tree(tmp_path / "tree")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    install += ["--target", str(tmp_path / "site"), "--upgrade", "--editable", str(tree)]
    _call(install, tmp_path)
    assert len(list(tree.rglob("*.so"))) == len(HOT_MODULES)
    assert _used(tree, tmp_path, SHOAL_REQUIRE_EXTENSION="1") == "[1] True\n"
    (tree / "shm" / "memory" / "record.py").touch()
    _call(install, tmp_path, **NO_COMPILER)
    assert not list(tree.rglob("*.so"))
    assert _used(tree, tmp_path) == "[1] False\n"

"""Compiles the hot modules (``shm/compilation.py``) where a C compiler is at hand; all else is in pyproject.toml.

Each extension is optional: if it cannot be compiled, the Python file beside it is used. With SHOAL_DISABLE_EXTENSION=1
none is built, as for a wheel that runs everywhere; with SHOAL_REQUIRE_EXTENSION=1 a failure ends the build.
"""

from __future__ import annotations

import os
import runpy
from pathlib import Path

from setuptools import Extension, setup

HERE = Path(__file__).resolve().parent
FLOORS = ("shm", "coordinator", "workers", "primitives")  # beside shoal/; an sdist loses the links to them in it
NATIVE = "shm/native"
INCLUDE = HERE / "build" / "include"


def _is_set(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


def _package_tree() -> str:
    """A directory in which Cython finds ``shoal.shm`` and the others as packages, for types that modules share."""
    package = INCLUDE / "shoal"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    for floor in FLOORS:
        link = package / floor
        if not link.is_symlink():
            link.symlink_to(HERE / floor)
    return str(INCLUDE)


def _extensions() -> list[Extension]:
    if _is_set("SHOAL_DISABLE_EXTENSION"):
        return []
    from Cython.Build import cythonize

    names = runpy.run_path(str(HERE / "shm" / "compilation.py"))["HOT_MODULES"]
    extensions = [
        Extension(
            name,
            ["/".join(name.split(".")[1:]) + ".py"],
            include_dirs=[NATIVE],
            depends=[f"{NATIVE}/xxhash.h", f"{NATIVE}/order.h"],
            extra_compile_args=["-O2", "-g0", "-Wno-unused-function"],
            optional=not _is_set("SHOAL_REQUIRE_EXTENSION"),
        )
        for name in names
    ]
    built: list[Extension] = cythonize(
        extensions,
        build_dir="build/cython",
        include_path=[_package_tree(), NATIVE],
        compiler_directives={"language_level": 3, "annotation_typing": False, "embedsignature": False},
        nthreads=os.cpu_count() or 1,
        quiet=True,
    )
    return built


if __name__ == "__main__":
    os.chdir(HERE)
    setup(ext_modules=_extensions())

"""Compiles the hot modules (``shm/compilation.py``) where a C compiler is at hand; all else is in pyproject.toml.

Either all of them are compiled, or none: they call each other in C. Without a C compiler, or without the headers of
Python, the Python files alone are installed. Two environment variables change that:

- ``SHOAL_DISABLE_EXTENSION=1``: compile nothing, as for a wheel that runs everywhere.
- ``SHOAL_REQUIRE_EXTENSION=1``: end with an error if the modules cannot be compiled.
"""

from __future__ import annotations

import os
import runpy
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, CompileError, ExecError, LinkError, PlatformError

HERE = Path(__file__).resolve().parent
FLOORS = ("shm", "coordinator", "workers", "primitives")  # beside shoal/; an sdist loses the links to them in it
NATIVE = "shm/native"
INCLUDE = HERE / "build" / "include"
# What is compiled is ordinary Python as well, with branches for the plain form: nobody who compiles can act on hints.
NO_HINTS = {"warn.unreachable": False, "show_performance_hints": False}
NO_COMPILER = (CCompilerError, CompileError, ExecError, LinkError, PlatformError)


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
    names = runpy.run_path(str(HERE / "shm" / "compilation.py"))["HOT_MODULES"]
    return [
        Extension(
            name,
            ["/".join(name.split(".")[1:]) + ".py"],
            include_dirs=[NATIVE],
            depends=sorted(str(path) for path in Path(NATIVE).glob("*.h")),
            extra_compile_args=["-O2", "-g0", "-Wno-unused-function", "-Wno-sign-compare"],
        )
        for name in names
    ]


class BuildExtensions(build_ext):
    """Translates the hot modules to C when they are built, and not for an sdist, which has their Python files."""

    def finalize_options(self) -> None:
        """Compile several modules at once."""
        super().finalize_options()
        self.parallel = self.parallel or True

    def run(self) -> None:
        """Compile all modules; if one cannot be compiled and none is required, keep none.

        An error of Cython, which no machine's compiler causes, always ends the build.
        """
        self._translate()
        in_place = self.inplace
        try:
            super().run()
        except NO_COMPILER as error:
            if _is_set("SHOAL_REQUIRE_EXTENSION"):
                raise
            self.warn(f"the hot modules are not compiled, and run as plain Python: {error}")
            for self.inplace in {0, in_place}:  # in the folder for building, and in the tree
                for extension in self.extensions:
                    Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
            self.extensions = []

    def _translate(self) -> None:
        from Cython.Build import cythonize

        translated = cythonize(
            [Extension(extension.name, extension.sources) for extension in self.extensions],
            build_dir="build/cython",
            include_path=[_package_tree(), NATIVE],
            compiler_directives={"language_level": 3, "annotation_typing": False, "embedsignature": False, **NO_HINTS},
            nthreads=os.cpu_count() or 1,
            quiet=True,
        )
        sources = {extension.name: extension.sources for extension in translated}
        for extension in self.extensions:
            extension.sources = sources[extension.name]


if __name__ == "__main__":
    os.chdir(HERE)
    setup(
        ext_modules=[] if _is_set("SHOAL_DISABLE_EXTENSION") else _extensions(),
        cmdclass={"build_ext": BuildExtensions},
    )

"""Which modules run compiled, and which way this process runs them.

The hot modules are ordinary Python files. Beside each lies a ``.pxd`` file with C types for Cython. Where a C compiler
is at hand, installing shoal compiles them (``setup.py``), and Python imports an extension module in place of the file
beside it. Without one, the same files run as plain Python. Both do the same; compiled is faster.

Two environment variables, read when shoal is imported:

- ``SHOAL_DISABLE_EXTENSION=1``: import the Python files, whether or not they are compiled.
- ``SHOAL_REQUIRE_EXTENSION=1``: ``ImportError`` if a hot module is not compiled.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType

# Read by setup.py, which imports nothing of shoal.
HOT_MODULES = (
    "shoal.coordinator.memory.hash_index",
    "shoal.coordinator.memory.heap",
    "shoal.coordinator.memory.ordered_index",
    "shoal.coordinator.memory.writer",
    "shoal.shm.memory.reader",
    "shoal.shm.memory.record",
    "shoal.shm.memory.snapshots",
)

_DISABLED = os.environ.get("SHOAL_DISABLE_EXTENSION", "") not in ("", "0")
_REQUIRED = os.environ.get("SHOAL_REQUIRE_EXTENSION", "") not in ("", "0")


class _Sources:
    """Finds the Python file of a hot module, and nothing else."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a hot module's Python file; None for any other module."""
        if name not in HOT_MODULES or path is None:
            return None
        for folder in path:
            source = os.path.join(folder, name.rpartition(".")[2] + ".py")
            if os.path.exists(source):
                return importlib.util.spec_from_file_location(name, source)
        return None


def is_compiled() -> bool:
    """Whether the hot modules of this process run compiled: all of them do, or none."""
    return not _missing()


def prepare() -> None:
    """Called before any hot module is imported: do what the environment asks for.

    Raises ``ImportError`` if the extension is required and is not there, or is disabled at the same time.
    """
    if _DISABLED:
        sys.meta_path.insert(0, _Sources)
    if _REQUIRED and (missing := _missing()):
        raise ImportError(
            f"SHOAL_REQUIRE_EXTENSION is set and {missing[0]} is not compiled; install shoal where a C compiler is, "
            "or run without SHOAL_REQUIRE_EXTENSION"
        )


def _missing() -> list[str]:
    """The hot modules that this process does not run compiled."""
    return [name for name in HOT_MODULES if not _runs_compiled(name)]


def _runs_compiled(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and isinstance(spec.loader, importlib.machinery.ExtensionFileLoader)

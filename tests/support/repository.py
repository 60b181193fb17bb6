"""Where tests start ``python -m shoal`` and read files that are not installed, and what is compiled in place."""

from __future__ import annotations

import importlib.machinery
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("shm", "coordinator", "workers", "primitives")


def _module(path: Path) -> str:
    return ".".join(("shoal", *path.relative_to(ROOT).parts))


def python_file(module: str) -> Path:
    """The file of a module below a floor."""
    return ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")


def extensions() -> dict[str, Path]:
    """What is compiled in place for this Python: the extension module of each module."""
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    found = [path for floor in FLOORS for path in (ROOT / floor).rglob(f"*{suffix}")]
    return {_module(path.with_name(path.name.removesuffix(suffix))): path for path in found}


def stale_extensions() -> list[str]:
    """Compiled modules that are older than their Python file or their C types."""
    stale = []
    for name, extension in extensions().items():
        sources = [path for path in (python_file(name), python_file(name).with_suffix(".pxd")) if path.exists()]
        if any(source.stat().st_mtime > extension.stat().st_mtime for source in sources):
            stale.append(name)
    return stale

"""How shoal starts processes of its own: this interpreter, this shoal, nothing from the current directory."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def python_command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of shoal."""
    return [sys.executable, "-P", "-m", module, *arguments]


def python_environment() -> dict[str, str]:
    """This process's environment, with the place shoal was imported from on the path."""
    home = str(Path(sys.modules["shoal"].__path__[0]).resolve().parent)
    inherited = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": home if not inherited else f"{home}{os.pathsep}{inherited}"}

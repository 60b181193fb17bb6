"""How shoal starts processes of its own: this interpreter, this shoal, nothing from the current directory.

Run as a script, ``child_python.py MODULE ARGUMENT...``, this file is what they start with: as ``python -m MODULE``, but
the package's public face is left out, which they do not use and which was 45 ms of a coordinator's 190 ms to start.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
from pathlib import Path


def python_command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of shoal."""
    return [sys.executable, "-P", str(Path(__file__).resolve()), module, *arguments]


def python_environment() -> dict[str, str]:
    """This process's environment, with the place shoal was imported from on the path, and no relative path on it."""
    home = str(Path(sys.modules["shoal"].__path__[0]).resolve().parent)
    inherited = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([home, *inherited])}


def _run() -> None:
    face = importlib.util.find_spec("shoal")
    if face is None:
        raise ModuleNotFoundError("shoal is not on PYTHONPATH, where the process that starts this one has put it")
    sys.modules["shoal"] = importlib.util.module_from_spec(face)  # its place is known, nothing of it is run
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _run()

"""Starts Python processes of shoal: with this interpreter, this shoal, and nothing from the current directory.

Such a process runs this file as a script: ``child_python.py PLACES MODULE ARGUMENT...``. That is ``python -m MODULE``
without running ``shoal/__init__.py``: the process does not use the public face, whose imports took 45 ms of the 190 ms
that a coordinator took to start. What is not found otherwise is looked for in ``PLACES``.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.shm.errors import ConfigurationError

# Exit status of a process that was to start a coordinator and has done so. Another program does not end with it.
LAUNCHED = 83
_REPORT_BYTES = 4000  # of text: a pipe takes so much in one piece

# The directory that shoal is in. It is found now, because ``sys.modules`` is empty at the very end of the interpreter,
# where a finaliser may open a store. As a script this file starts no process.
_HOME = "" if __name__ == "__main__" else str(Path(sys.modules["shoal"].__path__[0]).resolve().parent)


def _places(*names: str) -> str:
    """The directories of these packages, as in PYTHONPATH. A program may have them on its own ``sys.path`` only."""
    found = []
    for name in names:
        with contextlib.suppress(ValueError):  # a program has put something else in its place
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.origin:
                found.append(str(Path(spec.origin).absolute().parent.parent))
    return os.pathsep.join(dict.fromkeys(found))


_PLACES = "" if __name__ == "__main__" else _places("msgpack", "sortedcontainers", "xxhash")

# The module that a coordinator's process runs. It imports every floor, so this floor knows only its name.
COORDINATOR = "shoal.coordinator_main"


def python_command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of shoal; ``ConfigurationError`` if there is no Python to run it with."""
    return [_interpreter(), "-P", str(Path(__file__).resolve()), _PLACES, module, *arguments]


def python_environment() -> dict[str, str]:
    """This process's environment, with shoal's own directory on PYTHONPATH and without relative paths there."""
    inherited = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([_HOME, *inherited])}


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Raise ``ConfigurationError`` if the system refuses to execute the interpreter."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOEXEC, errno.EACCES, errno.ENOENT, errno.ENOTDIR, errno.EPERM, errno.EINVAL):
            raise
        raise _unusable(f"cannot be run ({error.strerror})") from error


def check_launched(status: int) -> None:
    """``ConfigurationError`` if ``status`` is another than ``LAUNCHED``. Death by a signal (below 0) is let pass."""
    if status >= 0 and status != LAUNCHED:
        raise _unusable(f"ended with status {status} when it was to start a coordinator")


def _interpreter() -> str:
    """The path of a Python interpreter.

    In a program that embeds or freezes Python, ``sys.executable`` may be that program, which would be run again.
    """
    executable = sys.executable
    if not isinstance(executable, str) or not executable:
        raise _unusable("names no program")
    if getattr(sys, "frozen", False):
        raise _unusable("is a frozen program and no Python")
    if not os.path.isfile(executable):
        raise _unusable("is no file")
    if not os.access(executable, os.X_OK):
        raise _unusable("may not be executed")
    return executable


def _unusable(why: str) -> ConfigurationError:
    from shoal.shm.errors import (
        ConfigurationError,  # here, because where this file is a script shoal is not on the path
    )

    return ConfigurationError(
        f"sys.executable {sys.executable!r} {why}, so no coordinator can be started with it; before the store is "
        f"opened, set sys.executable to a Python {sys.version_info[0]}.{sys.version_info[1]} that can import shoal, or "
        "have shoal serve run for the store"
    )


def _report_failure(error: BaseException) -> None:
    """Write an error to the report pipe, if the arguments name one, in the form of ``coordinator.server.process``.

    That module may not be importable here, nor may msgpack: so the two texts of the report are encoded by hand.
    """
    if "--report-fd" in sys.argv:
        fd = int(sys.argv[sys.argv.index("--report-fd") + 1])
        text = (
            f"a coordinator cannot start: {type(error).__name__}: {error}; see that {sys.executable} can import shoal "
            f"and what it needs, with PYTHONPATH {os.environ.get('PYTHONPATH')!r}"
        )
        cut = text.encode(errors="backslashreplace")[:_REPORT_BYTES]
        name, raw = b"ConfigurationError", cut.decode(errors="ignore").encode()  # without half a character at the end
        with contextlib.suppress(OSError):  # the process that started this one has ended
            os.write(fd, bytes((0x92, 0xA0 + len(name))) + name + b"\x91\xda" + len(raw).to_bytes(2, "big") + raw)


def _run() -> None:
    face = importlib.util.find_spec("shoal")
    if face is None:
        raise ModuleNotFoundError("shoal is not on PYTHONPATH, where the process that starts this one has put it")
    sys.modules["shoal"] = importlib.util.module_from_spec(face)  # submodules are found, __init__.py is not run
    # Last: an installation that has these packages itself goes first, and the standard library does in any case.
    sys.path += filter(None, sys.argv[1].split(os.pathsep))
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    launcher = os.getpid()
    try:
        _run()
    except Exception as failure:
        if os.getpid() == launcher:  # else it is the coordinator, which reports itself and may have closed the pipe
            _report_failure(failure)
        raise

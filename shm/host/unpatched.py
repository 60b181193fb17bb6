"""Modules of the standard library as Python has them, even in a program that has patched them.

``gevent.monkey.patch_all`` and ``eventlet.monkey_patch`` replace or remove functions of ``select``, ``time``,
``_thread`` and others, for the whole process. Shoal waits for its own pipes for microseconds and needs the kernel's
functions. So it loads these modules again: the same code in other module objects, which no program patches.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Any


def _copy(name: str) -> Any:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


os: Any = importlib.import_module("posix")  # ``os`` takes its functions from here, and programs patch ``os``
select: Any = _copy("select")
thread: Any = _copy("_thread")
time: Any = _copy("time")

"""Parts of the standard library as Python has them, whatever a program has put in their place.

``gevent.monkey.patch_all`` and ``eventlet.monkey_patch`` replace or remove functions of ``select``, ``time``,
``_thread`` and others, for the whole process. Shoal waits for a pipe of its own for some microseconds and needs the
functions of the kernel. So it has copies of these modules: same code, other module objects, which nobody patches.
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


os: Any = importlib.import_module("posix")  # of which ``os`` takes its functions, to be patched there
select: Any = _copy("select")
thread: Any = _copy("_thread")
time: Any = _copy("time")

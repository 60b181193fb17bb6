"""Modules of the standard library as Python has them, even in a program that has patched them; and a lock of threads.

``gevent.monkey.patch_all`` and ``eventlet.monkey_patch`` replace or remove functions of ``select``, ``time``,
``_thread`` and others, for the whole process. Shoal waits for its own pipes for microseconds and needs the kernel's
functions. So it loads these modules again: the same code in other module objects, which no program patches.

The lock is for threads that signal handlers may interrupt, and whose handlers may raise. ``with lock:`` is safe where
nothing runs between the call that takes the lock and the block. CPython 3.14 runs signal handlers there: of 20,000
exceptions that a timer's handler raised in a loop of such blocks, 11,000 left the lock held; none did with this one.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any


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

if TYPE_CHECKING or sys.version_info < (3, 14):
    ReentrantLock: Any = thread.RLock
else:

    class ReentrantLock(thread.RLock):
        """``RLock``, whose ``with`` block has begun when the lock is held."""

        __slots__ = ()

        def __enter__(self) -> None:
            # The loop's step takes the lock. No handler runs after it, nor after the return from a Python function.
            for _ in iter(self.acquire, None):
                return


def threads_are_patched() -> bool:
    """Whether the program has patched ``threading``: its threads are tasks of the thread that starts them then."""
    import threading  # not at once: of all who import this, only a pool needs it

    return type(threading.RLock()).__module__ != "_thread"


def threads_lock() -> Any:
    """A reentrant lock for threads of ``threading``: in a program that has patched that module, a lock of the patch."""
    import threading

    return threading.RLock() if threads_are_patched() else ReentrantLock()

"""The two processes that ``multiprocessing`` starts of its own accord: the fork server and the resource tracker.

Both live until all copies of a pipe are closed, which is some time after the process that started them has ended. A
program that has a pool ends them itself, at the very end, so that it leaves no process behind.
"""

from __future__ import annotations

import contextlib
import os
import time
from multiprocessing import forkserver, resource_tracker, util
from typing import Any

# Other processes of the program may hold the pipes, and then need the two: they are not waited for longer than this.
_ENDING_S = 0.5
_LAST = -1000  # multiprocessing runs what is registered for its end by priority, its own at 0 and above

_registered_in = 0


def preload() -> None:
    """Have the fork server import shoal once, beside what the user has it import; no effect once it runs."""
    server = _fork_server()
    names = list(getattr(server, "_preload_modules", None) or ["__main__"])
    if "shoal" not in names:
        forkserver.set_forkserver_preload([*names, "shoal"])


def let_go_of_fork_server() -> None:
    """In a worker: what a task forks and leaves behind shall not keep the fork server alive.

    A task that uses ``multiprocessing`` with a fork server starts one of its own, with or without this.
    """
    server = _fork_server()
    alive = getattr(server, "_forkserver_alive_fd", None)
    if alive is not None:
        server._forkserver_alive_fd = server._forkserver_pid = server._forkserver_address = None
        os.close(alive)


def end_them_at_exit() -> None:
    """Have both ended when this process ends, after all else that ``multiprocessing`` has to do then."""
    global _registered_in
    if _registered_in != os.getpid():  # a forked child starts without
        _registered_in = os.getpid()
        util.Finalize(None, _end_both, exitpriority=_LAST)


def _end_both() -> None:
    server = _fork_server()
    pid, alive = getattr(server, "_forkserver_pid", None), getattr(server, "_forkserver_alive_fd", None)
    if pid is not None and alive is not None:
        server._forkserver_alive_fd = server._forkserver_pid = server._forkserver_address = None
        _end(pid, alive)
    tracker: Any = getattr(resource_tracker, "_resource_tracker", None)
    pid, alive = getattr(tracker, "_pid", None), getattr(tracker, "_fd", None)
    if pid is not None and alive is not None:
        tracker._fd = tracker._pid = None
        _end(pid, alive)


def _end(pid: int, alive: int) -> None:
    os.close(alive)
    until = time.monotonic() + _ENDING_S
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG)[0] == 0 and time.monotonic() < until:
            time.sleep(0.005)


def _fork_server() -> Any:
    return getattr(forkserver, "_forkserver", None)

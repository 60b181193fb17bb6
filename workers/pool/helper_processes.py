"""The two processes that ``multiprocessing`` starts of its own accord: the fork server and the resource tracker.

Each lives until all copies of a pipe are closed, which is some time after the end of the process that started it. A
program that has a pool ends both at its very end, so that it leaves no process behind.

The fork server dies when it cannot fork: no process, descriptor or memory is left. It also dies when it cannot import
the main module. ``how_fork_server_ended`` tells a start that fails what has happened to it.
"""

from __future__ import annotations

import contextlib
import enum
import os
import time
from multiprocessing import forkserver, resource_tracker, util
from typing import Any

# Other processes of the program may hold the pipes and need the two helpers: this is the longest wait for their end.
_ENDING_S = 0.5
_DYING_S = 0.1  # a process that dies closes its pipes a moment before its parent can see the death
_LAST = -1000  # at its end multiprocessing calls registered functions by priority; its own have 0 and above

_registered_in = 0


def preload() -> None:
    """Have the fork server import shoal once, beside the user's preloaded modules; no effect once it runs."""
    server = _fork_server()
    names = list(getattr(server, "_preload_modules", None) or ["__main__"])
    if "shoal" not in names:
        forkserver.set_forkserver_preload([*names, "shoal"])


def forget_lost_fork_server() -> None:
    """Forget a fork server that is no child of this process, so that ``multiprocessing`` starts another one.

    A forked child has the number of its parent's server, and the program itself may have reaped one that has died.
    ``multiprocessing`` waits for that number, and fails each time.
    """
    server = _fork_server()
    with server._lock:
        pid, alive = server._forkserver_pid, server._forkserver_alive_fd
        if pid is None:
            return
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            server._forkserver_alive_fd = server._forkserver_pid = server._forkserver_address = None
            os.close(alive)


def let_go_of_fork_server() -> None:
    """In a worker: a process that a task forks and leaves behind must not keep the fork server alive.

    A task that uses ``multiprocessing`` with a fork server starts its own, with or without this.
    """
    server = _fork_server()
    alive = getattr(server, "_forkserver_alive_fd", None)
    if alive is not None:
        server._forkserver_alive_fd = server._forkserver_pid = server._forkserver_address = None
        os.close(alive)


def end_them_at_exit() -> None:
    """Have both ended when this process ends, after all other things that ``multiprocessing`` does then."""
    global _registered_in
    if _registered_in != os.getpid():  # a forked child has nothing registered
        _registered_in = os.getpid()
        util.Finalize(None, _end_both, exitpriority=_LAST)


class ServerEnd(enum.Enum):
    """What has happened to the fork server."""

    RUNS = "it runs"
    FAILED = "it has ended with an error of its own"
    LOST = "a signal has killed it, or another thread has reaped it"


def fork_server_pid() -> int | None:
    """Process id of the fork server that this process has started last."""
    pid: int | None = getattr(_fork_server(), "_forkserver_pid", None)
    return pid


def how_fork_server_ended(pid: int | None) -> ServerEnd:
    """What has happened to the fork server that had this process id before a start failed. Does not reap it."""
    now = fork_server_pid()
    until = time.monotonic() + _DYING_S
    while now is not None:
        try:
            end = os.waitid(os.P_PID, now, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            break
        if end is not None:
            return ServerEnd.FAILED if end.si_code == os.CLD_EXITED and end.si_status else ServerEnd.LOST
        if time.monotonic() > until:
            return ServerEnd.RUNS if now == pid else ServerEnd.LOST
        time.sleep(0.005)
    return ServerEnd.LOST


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
    # Whoever presses Ctrl-C again waits for neither, and is not shown where in its end the program was.
    with contextlib.suppress(ChildProcessError, KeyboardInterrupt):
        while os.waitpid(pid, os.WNOHANG)[0] == 0 and time.monotonic() < until:
            time.sleep(0.005)


def _fork_server() -> Any:
    return getattr(forkserver, "_forkserver", None)


def _free_locks() -> None:
    """In a forked child: another thread of its parent may have held them, and is not there to release them."""
    for helper in (_fork_server(), getattr(resource_tracker, "_resource_tracker", None)):
        lock = getattr(helper, "_lock", None)
        if lock is not None:
            lock._at_fork_reinit()


os.register_at_fork(after_in_child=_free_locks)

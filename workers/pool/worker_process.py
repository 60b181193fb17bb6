"""A worker process as its supervisor sees it: started in one of three ways, watched, killed, buried.

- A death is learned from a pidfd of the process itself: the end of a pipe tells nothing while a process that a task has
  forked holds a copy. Where there are no pidfds, it is learned from the pipe of ``multiprocessing``.
- Signals go through the pidfd: a number that the kernel has given to another process is not hit.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from shoal.workers.pool import helper_processes, worker
from shoal.workers.pool.channel import Channel
from shoal.workers.pool.fork_template import ForkTemplate

_EXIT_CODE_S = 1.0  # a dead worker's exit code may come from the process that forked it: so long is waited for it
# So many descriptors must be free for a start: multiprocessing does not close its own if they run out half-way.
_DESCRIPTORS_OF_A_START = 16

# Python's name for the file of a program that it reads from standard input. No other process can import it; with None
# in its place a worker starts without the main module, as in a program given with -c.
_STANDARD_INPUT = "<stdin>"

_vanished = 0  # how often the main module had lost its __file__


@dataclass(frozen=True)
class Recipe:
    """How the workers of a pool are made."""

    context: Any
    database: bytes
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    main_file: str | None = field(default_factory=lambda: getattr(sys.modules["__main__"], "__file__", None))

    @property
    def forks(self) -> bool:
        """Whether the workers are copies of this process."""
        return bool(self.context.get_start_method() == "fork")


class WorkerProcess:
    """One worker process, its channel and its death."""

    def __init__(self, process: Any, channel: Channel) -> None:
        self.pid: int = process.pid
        self.channel = channel
        self._process = process
        self._lock = threading.RLock()  # guards the pidfd against being closed while it is used
        self._pidfd = _open_pidfd(self.pid)
        self.tasks_done = 0

    @property
    def death(self) -> int:
        """A descriptor that is readable once the process is dead."""
        return self._pidfd if self._pidfd is not None else int(self._process.sentinel)

    def is_dead(self) -> bool:
        """Whether the process has ended."""
        poller = select.poll()
        poller.register(self.death, select.POLLIN)
        return bool(poller.poll(0))

    def kill(self) -> None:
        """Send SIGKILL, from any thread; nothing happens if the process is dead."""
        with self._lock:
            try:
                if self._process is None:
                    return
                if self._pidfd is not None:
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                else:
                    os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                return

    def exit_code(self) -> int | None:
        """Exit code of the dead process, a signal's number negative; None if nobody can tell it."""
        self._process.join(_EXIT_CODE_S)
        code: int | None = self._process.exitcode
        return code

    def close(self) -> None:
        """Forget the dead process."""
        self.channel.close()
        with self._lock:
            process, self._process = self._process, None
            if self._pidfd is not None:
                os.close(self._pidfd)
            process.join(_EXIT_CODE_S)
            with contextlib.suppress(ValueError):  # nobody tells its exit code
                process.close()


def start_worker(recipe: Recipe, life: Connection, template: ForkTemplate | None) -> WorkerProcess:
    """Start a worker. ``OSError`` if the machine lacks what it takes."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            if template is not None:
                process: Any = template.start_worker(theirs)
            else:
                _check_free_descriptors()
                process = _start_process(recipe, theirs, life)
        return WorkerProcess(process, Channel(ours))
    except BaseException:
        ours.close()
        raise


def start_template(recipe: Recipe, life: Connection) -> ForkTemplate:
    """Fork the process that forks the workers; in the thread that submits, whose moment the user has chosen."""
    return ForkTemplate(
        lambda tasks: worker.work(tasks, life, recipe.database, recipe.initializer, recipe.initargs),
        life,
        worker.forget_signals,
    )


def open_life() -> tuple[Connection, Connection | None]:
    """What a worker watches to learn that this process is gone, and what must stay open here meanwhile."""
    pidfd = _open_pidfd(os.getpid())
    if pidfd is not None:
        return Connection(pidfd, writable=False), None  # a wrapper that travels to a process started afresh
    return multiprocessing.Pipe(duplex=False)


def _start_process(recipe: Recipe, tasks: socket.socket, life: Connection) -> Any:
    """``Process.start`` without its entry in the list of children.

    Any thread that looks at that list asks each process for its exit code, which only one can get; a process that ends
    waits for all in it before the pool's queue is done; and daemonic processes may have no children at all, because
    they would outlive them, which a worker does not.
    """
    process = recipe.context.Process(
        target=worker.work,
        args=(tasks, life, recipe.database, recipe.initializer, recipe.initargs),
        name="shoal-worker",
        daemon=False,
    )
    helper_processes.end_them_at_exit()
    resource_tracker.ensure_running()  # it unblocks SIGINT when it starts
    # A process started afresh has SIGINT blocked until it is ready for it: Ctrl-C is the pool's business.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, () if _is_forkserver(recipe) else (signal.SIGINT,))
    try:
        vanished = _restore_main_file(recipe)
        process._popen = process._Popen(process)
        if _restore_main_file(recipe) != vanished:
            process._popen.kill()
            raise ConnectionError("the main module has ended while a worker was started")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    process._sentinel = process._popen.sentinel
    del process._target, process._args, process._kwargs  # they may refer to this process by a long way round
    return process


def _restore_main_file(recipe: Recipe) -> int:
    """Give the main module its ``__file__`` back if it has vanished; how often it has.

    Python takes it away when the module has run. What was submitted is still to be done then, and a process started
    without it would not know where the main module is.
    """
    global _vanished
    main = sys.modules["__main__"]
    if getattr(main, "__file__", None) == _STANDARD_INPUT:
        main.__file__ = None
    if recipe.main_file not in (None, _STANDARD_INPUT) and getattr(main, "__file__", None) is None:
        _vanished += 1  # first: another thread that sees the file shall see this, too
        main.__file__ = recipe.main_file
    return _vanished


def _is_forkserver(recipe: Recipe) -> bool:
    """The fork server serves others, too, who would have SIGINT blocked for good."""
    return bool(recipe.context.get_start_method() == "forkserver")


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except AttributeError:  # not Linux
        return None


def _check_free_descriptors() -> None:
    opened: list[int] = []
    try:
        while len(opened) < _DESCRIPTORS_OF_A_START:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for descriptor in opened:
            os.close(descriptor)

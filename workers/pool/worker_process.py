"""A worker process as its supervisor sees it: started in one of three ways, watched, killed, reaped.

- A pidfd of the process reports its death. The end of a pipe does not: a process forked by a task may hold a copy.
  On systems without pidfds, the pipe of ``multiprocessing`` is used.
- Signals go through the pidfd: they never reach another process that has got the same number later.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver, get_context, popen_forkserver, popen_spawn_posix, resource_tracker, util
from pathlib import Path
from typing import Any

from shoal.shm.errors import InvalidOperationError
from shoal.shm.host import pipe_signal
from shoal.shm.host.descriptors import standard_taken
from shoal.shm.host.unpatched import threads_lock
from shoal.workers.pool import helper_processes, worker
from shoal.workers.pool.channel import Channel, socket_pair
from shoal.workers.pool.fork_template import ForkedProcess, ForkTemplate
from shoal.workers.pool.helper_processes import ServerEnd
from shoal.workers.pool.life import Life, open_pidfd

# The kernel tells only its parent that a process was stopped, so the supervisor looks, seldom.
_LOOKS_PER_TTL = 3
_EXIT_CODE_S = 1.0  # the longest wait for a dead worker's exit code, which the process that forked it may have to tell
# This many descriptors must be free for a start: multiprocessing leaves its own open if they run out half-way.
_DESCRIPTORS_OF_A_START = 16

# Python's name for the file of a program that it reads from standard input. No other process can import it. With None
# instead, a worker starts without the main module, as in a program given with -c.
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
        return self.method == "fork"

    @property
    def method(self) -> str:
        """``fork``, ``spawn`` or ``forkserver``."""
        return str(self.context.get_start_method())

    def without_fork_server(self) -> Recipe:
        """The same, started by this process itself."""
        return replace(self, context=get_context("spawn"))


class WorkerProcess:
    """One worker process, its channel and its death."""

    def __init__(self, process: Any, channel: Channel) -> None:
        self.pid: int = process.pid
        self.channel = channel
        self._process = process
        self._lock = threads_lock()  # guards the pidfd against being closed while it is used
        self._pidfd = open_pidfd(self.pid)
        self.tasks_done = 0

    @property
    def death(self) -> int:
        """A descriptor that is readable once the process is dead."""
        return self._pidfd if self._pidfd is not None else int(self._process.sentinel)

    def is_dead(self) -> bool:
        """Whether the process has ended."""
        return self.wait(0.0)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the process to end; whether it has."""
        poller = select.poll()
        poller.register(self.death, select.POLLIN)
        return bool(poller.poll(timeout_s * 1000))

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

    def is_suspended(self) -> bool:
        """Whether somebody has stopped the process, as SIGSTOP and a debugger do (Linux; False elsewhere)."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_bytes()
        except OSError:
            return False
        return stat.rpartition(b")")[2].split()[0] in (b"T", b"t")

    def watch_suspension(self, ttl_s: float) -> Suspension:
        """From now on, whether the process is suspended for ``ttl_s``."""
        return Suspension(self, ttl_s)

    def exit_code_text(self) -> str:
        """Exit code of the dead process, for a message: a signal is named, and its number is negative."""
        self._process.join(_EXIT_CODE_S)
        code: int | None = self._process.exitcode
        if code is None:
            return "an unknown exit code"
        with contextlib.suppress(ValueError):  # no signal of this machine
            return f"exit code {code} ({signal.Signals(-code).name})"
        return f"exit code {code}"

    def close(self) -> None:
        """Forget the dead process."""
        self.channel.close()
        with self._lock:
            process, self._process = self._process, None
            if self._pidfd is not None:
                os.close(self._pidfd)
            process.join(_EXIT_CODE_S)
            with contextlib.suppress(ValueError):  # its exit code is unknown
                process.close()


class Suspension:
    """Looks at a worker a few times in its ttl. It is over when as many looks in a row found the worker suspended.

    Only looks count: time in which the pool's process was stopped as well, or the machine slept, does not.
    """

    def __init__(self, worker: WorkerProcess, ttl_s: float) -> None:
        self._worker = worker
        self._pause_s = ttl_s / _LOOKS_PER_TTL
        self._looked_s = time.monotonic()
        self._found = 0

    def next_look_s(self) -> float:
        """How long nothing is to be done."""
        return max(0.0, self._looked_s + self._pause_s - time.monotonic())

    def is_over(self) -> bool:
        """Look, if it is time; whether the worker has been suspended for its ttl."""
        if self.next_look_s() > 0:
            return False
        self._looked_s = time.monotonic()
        self._found = self._found + 1 if self._worker.is_suspended() else 0
        return self._found > _LOOKS_PER_TTL


class WorkerDiedError(Exception):
    """The worker is dead, or its channel is broken."""


class MainModuleEndedError(Exception):
    """The main module ended while a worker was started, so the worker may have begun without it."""


class StarterDiedError(Exception):
    """The process that starts workers has died."""

    def __init__(self, text: str, end: ServerEnd) -> None:
        super().__init__(text)
        self.end = end


def start_worker(recipe: Recipe, life: Life, template: ForkTemplate | None) -> WorkerProcess:
    """Start a worker.

    ``OSError`` or ``MemoryError`` if the machine lacks something; ``WorkerDiedError`` if the worker has died meanwhile;
    ``StarterDiedError`` if the process that starts it has.
    """
    process: Any = None
    server = helper_processes.fork_server_pid()
    ours, theirs = socket_pair()
    try:
        with theirs:
            if template is not None:
                process = template.start_worker(theirs)
            else:
                # The fork server, the resource tracker and each process have pipes that multiprocessing opens here.
                with standard_taken():
                    _check_free_descriptors()
                    process = _start_process(recipe, theirs, life)
        return WorkerProcess(process, Channel(ours))
    except BaseException as error:
        ours.close()  # a worker that lives ends because of it
        if isinstance(process, ForkedProcess):  # those of multiprocessing close what they hold themselves
            process.close()
        if isinstance(error, MainModuleEndedError):
            return start_worker(recipe, life, template)
        if isinstance(error, ProcessLookupError):
            raise WorkerDiedError("at once") from error
        if isinstance(error, (EOFError, ConnectionError)):
            raise _why_it_was_lost(recipe, server, error) from error
        raise


def _why_it_was_lost(recipe: Recipe, server: int | None, error: Exception) -> Exception:
    """Who has died during a start. ``server``: process id of the fork server before the start."""
    if recipe.forks:
        return StarterDiedError("the process that forks the pool's workers has died", ServerEnd.LOST)
    end = helper_processes.how_fork_server_ended(server) if recipe.method == "forkserver" else ServerEnd.RUNS
    if end is ServerEnd.RUNS:
        return WorkerDiedError(f"({type(error).__name__}) before it had read what to do")
    return StarterDiedError(f"the fork server of multiprocessing, which starts the workers, has died: {end.value}", end)


def make_template(recipe: Recipe, life: Life) -> ForkTemplate:
    """The process that forks the workers; ``start`` forks it."""

    def prepare() -> None:
        worker.forget_signals()
        life.let_go()

    def work(tasks: socket.socket) -> None:
        worker.work(tasks, life.process, life.pipe, recipe.database, recipe.initializer, recipe.initargs)

    return ForkTemplate(work, life.process, prepare)


def _start_process(recipe: Recipe, tasks: socket.socket, life: Life) -> Any:
    """``Process.start`` without its entry in the list of children.

    Any thread that reads that list asks each process for its exit code, but only one thread can get it. At its end a
    process waits for all processes in the list, before the pool's queue is done. And a daemonic process may have no
    children, because children may outlive it; a worker does not.
    """
    process = recipe.context.Process(
        target=worker.work,
        args=(tasks, life.process, life.pipe, recipe.database, recipe.initializer, recipe.initargs),
        name="shoal-worker",
        daemon=False,
    )
    _check_current_directory()
    helper_processes.end_them_at_exit()
    with pipe_signal.kept_back():  # it may have died
        resource_tracker.ensure_running()  # when it starts it unblocks SIGINT, so it starts first
    # A new process blocks SIGINT until it can ignore it: the pool handles Ctrl-C. The fork server must not: it serves
    # other parts of the program, too, and their processes would block SIGINT for ever.
    blocked = () if recipe.method == "forkserver" else (signal.SIGINT,)
    if recipe.method == "forkserver":
        helper_processes.forget_lost_fork_server()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        vanished = _restore_main_file(recipe)
        if recipe.method == "forkserver":
            forkserver.ensure_running()  # before SIGPIPE is blocked, for the same reason
        with pipe_signal.kept_back():  # who is to read what the worker begins with may die
            process._popen = _launched(recipe, process)
        if _restore_main_file(recipe) != vanished:
            process._popen.kill()
            process._popen.wait(_EXIT_CODE_S)
            raise MainModuleEndedError
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    process._sentinel = process._popen.sentinel
    del process._target, process._args, process._kwargs  # they may refer to this process by a long way round
    return process


def _launched(recipe: Recipe, process: Any) -> Any:
    """Have the process started, also where stdout or stderr cannot be written.

    ``multiprocessing`` flushes both first, which only a fork needs: the child would have a copy of what is buffered.
    What was printed for a pipe that nobody reads any more stays in the buffer, and no worker could ever be started.
    """
    try:
        util._flush_std_streams()  # type: ignore[attr-defined]
    except OSError:
        kind: Any = (popen_forkserver if recipe.method == "forkserver" else popen_spawn_posix).Popen
        popen = kind.__new__(kind)
        popen._fds, popen.returncode, popen.finalizer = [], None, None
        popen._launch(process)
        return popen
    return process._Popen(process)


def _check_current_directory() -> None:
    """``multiprocessing`` tells a new process where it was started."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise InvalidOperationError(
            "the current directory of the program was deleted; change to another with os.chdir, "
            'or use mp_context="fork", and make a new pool'
        ) from None


def _restore_main_file(recipe: Recipe) -> int:
    """Restore the main module's ``__file__`` if it has vanished; returns how often it has vanished.

    Python removes it when the module has run. Submitted tasks are still to be done then, and a new process would not
    find the main module without it.
    """
    global _vanished
    main = sys.modules["__main__"]
    if getattr(main, "__file__", None) == _STANDARD_INPUT:
        main.__file__ = None
    if recipe.main_file not in (None, _STANDARD_INPUT) and getattr(main, "__file__", None) is None:
        _vanished += 1  # first: a thread that sees the file sees this, too
        main.__file__ = recipe.main_file
    return _vanished


def _check_free_descriptors() -> None:
    opened: list[int] = []
    try:
        while len(opened) < _DESCRIPTORS_OF_A_START:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for descriptor in opened:
            os.close(descriptor)

"""The process that forks the workers of a pool with the start method ``fork``.

A fork copies one thread, and every lock in its present state. So a process with threads is copied only when the
user asks for it: the first ``submit`` forks the template, which has one thread and changes nothing. All workers and
their replacements are forked from the template. So all of them start from the same state of the program.

    request   1 byte: W with 2 descriptors (the worker's end of its channel, a pipe for reports), or E for the end
    first     the template's pid, sent by the template (8)
    report    pid, or the negative number of the error that prevented the fork (8); the worker's exit code (8)

The template ends when it is told to and has no worker left, at once when the pool's process is gone, or by SIGKILL.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import errno
import os
import select
import signal
import socket
import struct
import threading
from collections.abc import Callable
from multiprocessing import util
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext
from typing import Any, NoReturn

from shoal.shm.host import descriptors, pipe_signal
from shoal.shm.host.unpatched import threads_lock
from shoal.workers.pool.channel import socket_pair

_WORKER = b"W"
_END = b"E"
_NUMBER = struct.Struct("<q")
_ENDING_S = 1.0  # the template gets this long for an orderly end, which a stopped template never reaches


class ForkedProcess:
    """A worker that the template has forked; it has those parts of ``multiprocessing.Process`` that the pool uses."""

    def __init__(self, report: int) -> None:
        self.sentinel = report
        self.exitcode: int | None = None
        pid = self._read(None)
        if pid is None:
            raise EOFError("the process that forks the pool's workers has died")
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        self.pid = pid

    def join(self, timeout: float) -> None:
        """Wait for the exit code."""
        if self.exitcode is None:
            self.exitcode = self._read(timeout)

    def close(self) -> None:
        """Close the pipe."""
        os.close(self.sentinel)

    def _read(self, timeout: float | None) -> int | None:
        poller = select.poll()
        poller.register(self.sentinel, select.POLLIN)
        if not poller.poll(None if timeout is None else timeout * 1000):
            return None
        raw = os.read(self.sentinel, _NUMBER.size)
        return int(_NUMBER.unpack(raw)[0]) if len(raw) == _NUMBER.size else None


class ForkTemplate:
    """The template process, as the pool sees it.

    ``prepare`` runs in the template when it starts, ``work`` in each worker. ``life`` is readable in the template when
    the pool's process is gone.
    """

    def __init__(self, work: Callable[[socket.socket], None], life: Connection, prepare: Callable[[], None]) -> None:
        self._requests, self._theirs = socket_pair()
        self._arguments = work, life, prepare
        self._pid: int | None = None
        self._is_forking = False
        self._is_reaped = False
        self._lock = threads_lock()  # the number is not signalled after the process was reaped

    def start(self) -> None:
        """Fork the process, unless it runs.

        A signal handler may interrupt this and call it again, or raise an exception. Then the next call completes it.
        """
        if self._is_forking:
            return
        if self._pid is None:
            self._is_forking = True
            try:
                self._fork()
            finally:
                self._is_forking = False
        self._theirs.close()

    def _fork(self) -> None:
        parent = os.getpid()
        # Not ``Process.start``: it records the process as a child that multiprocessing reaps and joins.
        process: Any = ForkContext().Process(target=self._serve, name="shoal-template", daemon=False)
        # Where standard output is closed, the flush would raise. It also does where nobody takes the output any more:
        # then the copies of what is buffered cannot be written either.
        with descriptors.standard_taken(), contextlib.suppress(OSError):
            util._flush_std_streams()  # type: ignore[attr-defined]  # else both processes write what is buffered
        try:
            self._pid = os.fork()
            if self._pid == 0:
                os._exit(process._bootstrap(parent_sentinel=self._arguments[1].fileno()))
        finally:
            if os.getpid() != parent:  # an exception of a signal handler must not lead into the user's program
                os._exit(1)

    def _serve(self) -> None:
        work, life, prepare = self._arguments
        self._requests.close()
        descriptors.keep_standard()
        prepare()
        threading.current_thread().name = "shoal-template"
        self._theirs.send(_NUMBER.pack(os.getpid()))
        _Serving(self._theirs, work, life).run()

    @property
    def pid(self) -> int | None:
        """Process id of the template."""
        return self._pid

    def start_worker(self, tasks: socket.socket) -> ForkedProcess:
        """Have a worker forked; from any thread. ``EOFError`` or ``OSError`` if that is impossible."""
        report_read, report_write = descriptors.pipe()
        try:
            try:
                # ``socket.send_fds`` ignores its ``flags``: where SIGPIPE has its default action, it ends the program.
                passed = array.array("i", [tasks.fileno(), report_write])
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)]
                self._requests.sendmsg([_WORKER], rights, _no_signal())
            finally:
                os.close(report_write)
            return ForkedProcess(report_read)
        except BaseException:
            os.close(report_read)
            raise

    def end(self) -> None:
        """End it in order, or with SIGKILL if that takes too long. All its workers are dead."""
        self._theirs.close()
        pids = {self._pid} if self._pid is not None else set()
        with contextlib.suppress(OSError):  # it is dead, or it takes too long
            self._requests.settimeout(_ENDING_S)
            self._requests.send(_END, _no_signal())
            while raw := self._requests.recv(_NUMBER.size):  # its death ends the stream
                pids.add(_NUMBER.unpack(raw)[0])  # the only news if ``_fork`` was interrupted after the fork
        self._requests.close()
        with self._lock:
            self._is_reaped = True
            for pid in pids:
                with contextlib.suppress(ProcessLookupError, ChildProcessError):  # the program reaps children itself
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)

    def kill(self) -> None:
        """Send it SIGKILL, from any thread. A thread that waits for one of its workers gets ``EOFError``."""
        with self._lock:
            if self._pid is not None and not self._is_reaped:
                with contextlib.suppress(ProcessLookupError):  # it is dead, and the program reaps its children itself
                    os.kill(self._pid, signal.SIGKILL)


def _no_signal() -> int:
    return getattr(socket, "MSG_NOSIGNAL", 0)


def _be_worker(process: Any, life: int) -> NoReturn:
    """In a worker: run the process to its end, as ``multiprocessing`` does.

    From CPython 3.13 on ``_bootstrap`` leaves the end to its caller. Without it, what tasks have put into a queue of
    ``multiprocessing`` could be lost.
    """
    code = 1
    try:
        atexit._clear()  # those of the program run in the program
        atexit.register(util._exit_function)  # type: ignore[attr-defined]
        code = process._bootstrap(parent_sentinel=life)
    finally:
        atexit._run_exitfuncs()
        os._exit(code)


class _Serving:
    """The template process, from inside."""

    def __init__(self, requests: socket.socket, work: Callable[[socket.socket], None], life: Connection) -> None:
        self._requests = requests
        self._life = life
        self._work = work
        self._children: dict[int, int] = {}  # pid -> pipe for the reports on it
        self._wake_read, self._wake_write = descriptors.wake_pipe()

    def run(self) -> None:
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        poller = select.poll()
        for descriptor in (self._requests.fileno(), self._life.fileno(), self._wake_read):
            poller.register(descriptor, select.POLLIN)
        is_open = True
        while is_open or self._children:
            ready = dict(poller.poll())
            if self._life.fileno() in ready:
                return
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
                self._reap()
            if self._requests.fileno() in ready and not self._answer():
                poller.unregister(self._requests.fileno())
                is_open = False

    def _answer(self) -> bool:
        try:
            request, received, *_ = socket.recv_fds(self._requests, 1, 2)
        except ConnectionResetError:  # the pool's process has died, and had not read everything
            return False
        if request != _WORKER:
            return False
        if len(received) < 2:  # this process had no room for them; the sender sees the end of its pipe
            for descriptor in received:
                os.close(descriptor)
            return True
        tasks, report = socket.socket(fileno=received[0]), received[1]
        process: Any = ForkContext().Process(target=self._become_worker, args=(tasks, report), name="shoal-worker")
        try:
            # Not ``Process.start``: where no process can be forked, it leaves its pipes open.
            pid = os.fork()
        except OSError as error:
            self._report(report, -(error.errno or errno.EAGAIN))
            os.close(report)
        else:
            if pid == 0:
                _be_worker(process, self._life.fileno())
            self._children[pid] = report
            self._report(report, pid)
        finally:
            tasks.close()
        return True

    def _become_worker(self, tasks: socket.socket, report: int) -> None:
        signal.set_wakeup_fd(-1)
        reports = [report, *self._children.values()]
        for descriptor in (self._wake_read, self._wake_write, *reports):
            os.close(descriptor)
        self._requests.close()
        self._work(tasks)

    def _reap(self) -> None:
        for pid, report in list(self._children.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._report(report, os.waitstatus_to_exitcode(status))
                os.close(report)
                del self._children[pid]

    def _report(self, report: int, number: int) -> None:
        with contextlib.suppress(BrokenPipeError):  # the pool does not read it any more
            pipe_signal.write(report, _NUMBER.pack(number))

"""The process that forks the workers of a pool with the start method ``fork``.

A fork copies one thread and every lock as it is, so a process with threads is copied at a moment of the user's choice
only: in the first ``submit`` the template is forked, which has one thread and does nothing. All workers, and those that
replace them, are forked from it. So they all start from the same state of the program.

    request   1 byte: W with 2 descriptors (the worker's end of its channel, a pipe to report to), or E for the end
    report    pid, or the negative number of the error that kept it from being forked (8); its exit code (8)
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import struct
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext
from typing import Any

_WORKER = b"W"
_END = b"E"
_NUMBER = struct.Struct("<q")


class ForkedProcess:
    """A worker that the template has forked; the part of ``multiprocessing.Process`` that is needed of it."""

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
    """The template process, as the pool sees it."""

    def __init__(
        self, work: Callable[[socket.socket], None], life: Connection, forget_signals: Callable[[], None]
    ) -> None:
        self._requests, theirs = socket.socketpair()
        with theirs:
            process: Any = ForkContext().Process(
                target=_serve,
                args=(self._requests, theirs, work, life, forget_signals),
                name="shoal-template",
                daemon=False,
            )
            process._popen = process._Popen(process)  # as for a worker, not in the list of children
        self._process = process

    def start_worker(self, tasks: socket.socket) -> ForkedProcess:
        """Have a worker forked; from any thread. ``EOFError`` or ``OSError`` if it cannot be."""
        report_read, report_write = os.pipe()
        try:
            try:
                socket.send_fds(self._requests, [_WORKER], [tasks.fileno(), report_write], _no_signal())
            finally:
                os.close(report_write)
            return ForkedProcess(report_read)
        except BaseException:
            os.close(report_read)
            raise

    def end(self) -> None:
        """Have it end once its workers have."""
        with contextlib.suppress(OSError):  # it is dead
            self._requests.send(_END, _no_signal())
        self._requests.close()
        self._process._popen.wait()
        self._process._popen.close()

    def kill(self) -> None:
        """End it now."""
        with contextlib.suppress(ProcessLookupError):  # it is dead, and the program reaps its children itself
            os.kill(self._process._popen.pid, signal.SIGKILL)


def _no_signal() -> int:
    return getattr(socket, "MSG_NOSIGNAL", 0)


class _Serving:
    """The template process, from inside."""

    def __init__(self, requests: socket.socket, work: Callable[[socket.socket], None], life: Connection) -> None:
        self._requests = requests
        self._life = life
        self._work = work
        self._children: dict[int, int] = {}  # pid -> pipe to report to
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

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
        request, descriptors, *_ = socket.recv_fds(self._requests, 1, 2)
        if request != _WORKER:
            return False
        if len(descriptors) < 2:  # there was no room for them here; whoever asked sees the end of its pipe
            for descriptor in descriptors:
                os.close(descriptor)
            return True
        tasks, report = socket.socket(fileno=descriptors[0]), descriptors[1]
        process: Any = ForkContext().Process(target=self._become_worker, args=(tasks, report), name="shoal-worker")
        try:
            # Not ``Process.start``: where no process can be forked, it leaves its pipes open.
            pid = os.fork()
        except OSError as error:
            self._report(report, -(error.errno or errno.EAGAIN))
            os.close(report)
        else:
            if pid == 0:
                code = 1
                try:
                    code = process._bootstrap(parent_sentinel=self._life.fileno())
                finally:
                    os._exit(code)
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
        with contextlib.suppress(BrokenPipeError):  # nobody is interested any more
            os.write(report, _NUMBER.pack(number))


def _serve(
    ours: socket.socket,
    requests: socket.socket,
    work: Callable[[socket.socket], None],
    life: Connection,
    forget_signals: Callable[[], None],
) -> None:
    """Main function of the template process."""
    ours.close()
    forget_signals()
    threading.current_thread().name = "shoal-template"
    _Serving(requests, work, life).run()

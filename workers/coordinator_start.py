"""Greets the store's coordinator over its control socket, and starts one. ``take_over`` says when.

``start.lock`` picks the client that starts a process, so that eight orphaned workers do not start eight interpreters.
The kernel releases it if that client is killed. The coordinator's own lock then makes sure that only one serves.

Nothing here uses ``subprocess``, ``threading`` or ``socket.socket``, which a program may have replaced
(``shm.host.unpatched``). All of it runs where no signal handler interrupts it (``uninterrupted``).
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shoal.shm.codec import decode
from shoal.shm.errors import ConfigurationError, CoordinatorLostError
from shoal.shm.files import control_address, store_directory, store_files
from shoal.shm.files.regular_file import private_file
from shoal.shm.files.store_place import lock
from shoal.shm.host import descriptors, unpatched
from shoal.shm.host.child_python import COORDINATOR, check_launched, python_command, python_environment, starting
from shoal.shm.host.unpatched import select, time
from shoal.shm.wire import handshake, wire_errors
from shoal.shm.wire.handshake import Hello, Welcome

_NO_SIGNAL = getattr(_socket, "MSG_NOSIGNAL", 0)  # a program may have set SIGPIPE to end it
_LONGEST_WAIT_S = 1e6  # the kernel's calls take no longer one

# Descriptors in use here. A child that is forked meanwhile closes its copies: else it would hold the lock as well.
_under_way: set[int] = set()
# Held over a fork, and while a number is closed and still in the set: a child that is forked then would close what the
# program has opened under it meanwhile. Reentrant: a signal handler may fork.
_no_fork: Any = unpatched.thread.RLock()


@contextlib.contextmanager
def _held(*fds: int) -> Iterator[None]:
    """Close these descriptors in the end, and at once in a child that is forked meanwhile."""
    with _no_fork:
        _under_way.update(fds)
    try:
        yield
    finally:
        with _no_fork:
            for fd in fds:
                os.close(fd)
            _under_way.difference_update(fds)


def greet(directory: Path, hello: Hello, deadline_s: float) -> Welcome | None:
    """Send the hello over the control socket and receive the welcome; None if no process serves the socket."""
    fd = descriptors.above_standard(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM).detach())
    with _held(fd):
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fd)
        try:
            connection.settimeout(min(max(0.01, deadline_s - time.monotonic()), _LONGEST_WAIT_S))
            with control_address.socket_address(directory) as address:
                connection.connect(address)
            connection.sendall(handshake.encode_hello(hello), _NO_SIGNAL)
            return handshake.receive_welcome(connection)
        except TimeoutError:
            pid = control_address.peer_pid(connection)
            raise CoordinatorLostError(
                f"the coordinator of {directory}, process {pid or 'unknown'}, does not answer; see whether it is "
                "stopped, see which process holds coordinator.lock there, or open with a longer timeout"
            ) from None
        except (FileNotFoundError, NotADirectoryError, ConnectionError, BlockingIOError, EOFError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:  # a link in the place of the socket: the next coordinator replaces it
                return None
            if not isinstance(error, PermissionError):
                raise
            raise ConfigurationError(
                f"the store at {directory} belongs to another user; only its owner may attach"
            ) from error
        finally:
            connection.detach()


def start_if_nobody_does(directory: Path, hello: Hello, idle_timeout_s: float, deadline_s: float) -> bool:
    """Start a coordinator; False if another process does. If it cannot be started, remove what was made for it."""
    with contextlib.ExitStack() as made:
        try:
            if hello.store_id is None:
                made.callback(store_directory.remove_directories, store_directory.make_directory(directory))
            path = directory / store_files.START_LOCK_FILE
            if not (path.exists() or path.is_symlink()):
                made.callback(path.unlink, missing_ok=True)
            fd = descriptors.above_standard(private_file(path, os.O_RDWR | os.O_CREAT))
        except OSError as error:
            store_directory.raise_if_read_only(directory, error)
            raise
        with _held(fd):
            if not lock(fd, path):
                made.pop_all()
                return False
            _start(directory, hello, idle_timeout_s, deadline_s)
        made.pop_all()
    return True


def _start(directory: Path, hello: Hello, idle_timeout_s: float, deadline_s: float) -> None:
    """Start a coordinator and wait until it serves or reports why it cannot."""
    command = python_command(COORDINATOR, str(directory), "--linger", str(idle_timeout_s))
    if hello.durability is not None:
        command += ["--durability", hello.durability]
    if hello.max_bytes is not None:
        command += ["--max-bytes", str(hello.max_bytes)]
    if hello.history_ms is not None:
        command += ["--history-ms", str(hello.history_ms)]
    if hello.store_id is not None:
        command += ["--store-id", hello.store_id.hex()]
    report_read, report_write = descriptors.pipe()
    with _held(report_read):
        with _held(report_write), starting():
            launcher = _spawn(command, report_write)
        parts = _read_report(report_read, deadline_s)
        status = _reap(launcher, kill=time.monotonic() >= deadline_s)
    if parts:
        raise wire_errors.error_from(*parts)
    if status is not None:
        check_launched(status)


def _reap(launcher: int, kill: bool) -> int | None:
    """The launcher's exit status; None if the program has reaped it, as one that reaps all its children does.

    ``kill``: the time is up, so kill it if it runs. A launcher of shoal ends at once; another program may not.
    """
    try:
        pid, status = unpatched.os.waitpid(launcher, os.WNOHANG if kill else 0)
        if not pid:
            os.kill(launcher, signal.SIGKILL)
            _, status = unpatched.os.waitpid(launcher, 0)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status)


def _spawn(command: list[str], report_fd: int) -> int:
    """Start the launcher, a process that starts the coordinator and then ends; its pid."""
    pid: int = unpatched.os.posix_spawn(
        command[0],
        [*command, "--report-fd", str(descriptors.FIRST_OWN)],
        python_environment(),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, 0, 1),
            (os.POSIX_SPAWN_DUP2, 0, 2),
            (os.POSIX_SPAWN_DUP2, report_fd, descriptors.FIRST_OWN),
        ],
        setsigmask=(),
        setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
    )
    return pid


def _read_report(fd: int, deadline_s: float) -> list[Any]:
    """The new coordinator's report of an error; empty if it serves, was not needed, died, or takes too long."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    left_s = min(max(0.0, deadline_s - time.monotonic()), _LONGEST_WAIT_S)
    if not poller.poll(left_s * 1000):
        return []
    raw = unpatched.os.read(fd, 65536)
    return decode(raw) if raw else []


def _after_fork_in_child() -> None:
    _no_fork._at_fork_reinit()
    for fd in _under_way:
        os.close(fd)
    _under_way.clear()


if hasattr(os, "register_at_fork"):
    # The lock's own methods: a signal handler that raises inside a function of Python would keep it locked for ever.
    os.register_at_fork(before=_no_fork.acquire, after_in_parent=_no_fork.release, after_in_child=_after_fork_in_child)

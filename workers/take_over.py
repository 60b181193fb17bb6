"""Starts the next coordinator when none answers. Any client may; one does, the others wait for it.

``start.lock`` picks the one that starts a process, so that eight orphaned workers do not start eight interpreters. It
is let go by the kernel if the starter is killed. The coordinator's own lock then makes sure that there is one.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from shoal.shm import commit_set, handshake, store_files
from shoal.shm.child_python import check_launched, python_command, python_environment, starting
from shoal.shm.codec import decode
from shoal.shm.errors import ConfigurationError, CoordinatorLostError
from shoal.shm.handshake import Hello, Welcome

_POLL_S = 0.01


def attach(directory: Path, hello: Hello, linger_s: float, timeout_s: float, start: bool = True) -> Welcome:
    """Be admitted by the store's coordinator, starting one if none serves and ``start`` allows it.

    Raises what the coordinator found while opening (``CorruptionError``, ``ConfigurationError``, ``StoreFullError``),
    and ``CoordinatorLostError`` if there was none within ``timeout_s``.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        welcome = _knock(directory, hello, deadline_s)
        if welcome is not None:
            return welcome
        if start:
            _start_if_nobody_does(directory, hello, linger_s, deadline_s)
        if not start or time.monotonic() >= deadline_s:
            raise CoordinatorLostError(
                f"no coordinator for {directory} could be reached or started within {timeout_s} s; "
                "see who holds coordinator.lock there, or open with a longer timeout"
            )
        time.sleep(_POLL_S * random.uniform(0.5, 1.5))


def _knock(directory: Path, hello: Hello, deadline_s: float) -> Welcome | None:
    """Ask to be admitted; None if nobody answers at the door."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(max(0.01, deadline_s - time.monotonic()))
        try:
            with store_files.socket_address(directory) as address:
                connection.connect(address)
            connection.sendall(handshake.encode_hello(hello))
            return handshake.receive_welcome(connection)
        except (FileNotFoundError, NotADirectoryError, ConnectionError, BlockingIOError, EOFError, TimeoutError):
            return None
        except PermissionError as error:
            raise ConfigurationError(f"the store at {directory} belongs to another user; only he may attach") from error


def _start_if_nobody_does(directory: Path, hello: Hello, linger_s: float, deadline_s: float) -> None:
    import filelock  # here, because it takes 50 ms to import and only a starter needs it

    store_files.make_directory(directory)
    lock = filelock.FileLock(directory / store_files.START_LOCK_FILE, mode=0o600, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return
    try:
        _start(directory, hello, linger_s, deadline_s)
    finally:
        lock.release()


def _start(directory: Path, hello: Hello, linger_s: float, deadline_s: float) -> None:
    """Start a coordinator and wait until it serves or says why it cannot."""
    report_read, report_write = os.pipe()
    try:
        command = python_command(
            "shoal.coordinator.process", str(directory), "--linger", str(linger_s), "--report-fd", str(report_write)
        )
        if hello.durability is not None:
            command += ["--durability", hello.durability]
        if hello.max_bytes is not None:
            command += ["--max-bytes", str(hello.max_bytes)]
        with starting():
            launcher = subprocess.Popen(
                command,
                env=python_environment(),
                pass_fds=[report_write],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
            )
    except BaseException:
        os.close(report_read)
        raise
    finally:
        os.close(report_write)
    try:
        parts = _read_report(report_read, deadline_s)
        if time.monotonic() >= deadline_s:
            launcher.kill()  # whatever it is: shoal's ends at once
        status = launcher.wait()
    finally:
        os.close(report_read)
    if parts:
        raise commit_set.error_from(*parts)
    check_launched(status)


def _read_report(fd: int, deadline_s: float) -> list[Any]:
    """What the new coordinator says: nothing if it serves, was not needed, died, or takes too long."""
    os.set_blocking(fd, False)
    while time.monotonic() < deadline_s:
        try:
            raw = os.read(fd, 65536)
        except BlockingIOError:
            time.sleep(_POLL_S / 5)
            continue
        return decode(raw) if raw else []
    return []

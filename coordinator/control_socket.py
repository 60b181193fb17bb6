"""The control socket: hands pipes and memory to processes of the same user, and to nobody else.

- The socket is 0600 in a 0700 directory; besides, the kernel is asked which user is on the other end.
- A connection is pending until it has sent its greeting. One that sends nothing for 5 s, nonsense, or more than a
  greeting is closed. Nobody else waits for it.
- However many connect, attached clients keep the descriptors that they need.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import time
from collections.abc import Callable
from pathlib import Path

from shoal.coordinator.missing_file import MissingFile
from shoal.shm.errors import ConfigurationError, ShoalError
from shoal.shm.files import control_address
from shoal.shm.files.regular_file import remove_file
from shoal.shm.wire import handshake
from shoal.shm.wire.frames import FrameBuffer, FrameError

_SILENT_S = 5.0  # a pending connection that has sent no greeting for so long is closed
_MAX_PENDING = 128
# Descriptors kept free for the log and for checkpoints, without which attached clients could not go on.
_KEPT_DESCRIPTORS = 48

# Errors that keep a new client out and do not concern attached clients.
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.ETOOMANYREFS)
# Errors of a peer that leaves before it is answered, or never takes its answer.
_GONE = (ConnectionError, BlockingIOError, TimeoutError)

# Attaches a client, given its greeting and the pid that the kernel reports; raises the error that the client gets.
Admit = Callable[[handshake.Hello, int], handshake.Welcome]


class ControlSocket:
    """The listening socket, and the connections that have sent no greeting yet."""

    def __init__(self, directory: Path, admit: Admit) -> None:
        self._path = directory / control_address.SOCKET_FILE
        self._admit = admit
        self._missing = MissingFile(self._path)
        remove_file(self._path, missing_ok=True)  # a dead coordinator's: this one holds the lock
        self._listener = self._listen()
        # By descriptor, the oldest first: the connection, what it has sent, since when it is pending.
        self._pending: dict[int, tuple[socket.socket, bytearray, float]] = {}

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with control_address.socket_address(self._path.parent) as address:
                listener.bind(address)
            os.chmod(self._path, 0o600)
            listener.listen(_MAX_PENDING)
        except OSError:
            listener.close()
            raise
        listener.setblocking(False)
        return listener

    @property
    def is_missed(self) -> bool:
        """Whether the socket was not there at the last look: nobody new can come in."""
        return self._missing.since_s is not None

    def reopen_if_removed(self, now_s: float) -> bool:
        """Listen anew if somebody has removed the socket; True if there is another descriptor to watch."""
        if not self._missing.is_due(now_s):
            return False
        try:
            listener = self._listen()
        except OSError:  # no descriptor or no room on the disk: attached clients go on, and the next look tries again
            return False
        self._listener.close()
        self._listener = listener
        return True

    def fileno(self) -> int:
        """The listener's descriptor."""
        return self._listener.fileno()

    def accept(self) -> list[int]:
        """Accept the connections that wait; the descriptors to watch for their greetings."""
        fresh = []
        for _ in range(_MAX_PENDING):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, ConnectionError):  # none waits, or the one that did has gone
                break
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                break  # it waits until there is a descriptor for it
            if control_address.peer_uid(connection) not in (os.getuid(), 0):
                connection.close()
                continue
            connection.setblocking(False)
            if not self._has_room():
                with contextlib.suppress(*_GONE):
                    handshake.send_refusal(connection, self._no_room())
                connection.close()
                continue
            if len(self._pending) == _MAX_PENDING:
                self._close_pending(next(iter(self._pending)))  # the one that is pending longest
            self._pending[connection.fileno()] = (connection, bytearray(), time.monotonic())
            fresh.append(connection.fileno())
        return fresh

    def is_pending(self, fd: int) -> bool:
        """Whether ``fd`` is a pending connection."""
        return fd in self._pending

    def receive(self, fd: int) -> bool:
        """Read what a pending connection has sent, and answer a whole greeting; True when it is closed."""
        connection, received, _ = self._pending[fd]
        try:
            data = connection.recv(handshake.MAX_HELLO_BYTES)
            received += data
            messages = FrameBuffer().feed(bytes(received)) if data else []
            if data and not messages and len(received) <= handshake.MAX_HELLO_BYTES:
                return False
            hello = handshake.decode_hello(messages[0]) if messages else None
        except BlockingIOError:
            return False  # another connection had this descriptor, and was closed in the same turn
        except (ConnectionError, FrameError):
            hello = None  # its peer is gone or is no shoal: closing is the answer
        if hello is not None:
            self._answer(connection, hello)
        self._close_pending(fd)
        return True

    def drop_silent(self) -> list[int]:
        """Close the connections that have sent no greeting for too long; their descriptors."""
        now_s = time.monotonic()
        late = [fd for fd, (_, _, since) in self._pending.items() if now_s - since > _SILENT_S]
        for fd in late:
            self._close_pending(fd)
        return late

    def close(self) -> None:
        """Stop listening, and close what is pending."""
        self._path.unlink(missing_ok=True)
        self._listener.close()
        for fd in list(self._pending):
            self._close_pending(fd)

    def _answer(self, connection: socket.socket, hello: handshake.Hello) -> None:
        connection.setblocking(True)
        connection.settimeout(1.0)  # a few hundred bytes into an empty socket buffer
        try:
            welcome = self._welcome(hello, control_address.peer_pid(connection))
        except ShoalError as error:
            with contextlib.suppress(*_GONE):
                handshake.send_refusal(connection, error)
            return
        try:
            handshake.send_welcome(connection, welcome)
        except _GONE:
            pass  # its pipes end with it, as those of any client
        except OSError as error:
            if error.errno not in _NO_ROOM:  # else too many descriptors are on their way: it may connect again
                raise
        finally:
            for fd in welcome.descriptors:
                os.close(fd)

    def _welcome(self, hello: handshake.Hello, pid: int) -> handshake.Welcome:
        """Take the client in, or raise what it is told."""
        if not self._has_room():
            raise self._no_room()
        try:
            return self._admit(hello, pid)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise ConfigurationError(
                f"the coordinator of the store, process {os.getpid()}, cannot take in another process: {error}; "
                "attach fewer processes"
            ) from error

    def _has_room(self) -> bool:
        """Whether the descriptors that are kept are free: takes them, all at once, and closes them."""
        taken = []
        try:
            for _ in range(_KEPT_DESCRIPTORS):
                taken.append(os.dup(self._listener.fileno()))
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            return False
        finally:
            for fd in taken:
                os.close(fd)
        return True

    def _no_room(self) -> ConfigurationError:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return ConfigurationError(
            f"the coordinator of the store, process {os.getpid()}, may have {limit} descriptors, and they are in use; "
            "attach fewer processes, or raise `ulimit -n` where it is started"
        )

    def _close_pending(self, fd: int) -> None:
        connection, _, _ = self._pending.pop(fd)
        connection.close()

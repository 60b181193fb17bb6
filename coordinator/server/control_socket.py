"""The door: hands pipes and memory to processes of the same user, and to nobody else.

The socket is 0600 in a 0700 directory; besides, the kernel is asked who is on the other end. A visitor who says
nothing, nonsense, or more than a greeting is shown out; nobody else waits for him. However many come, those inside
keep the descriptors they need.
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

from shoal.coordinator.server.missing_file import MissingFile
from shoal.shm.errors import ConfigurationError, ShoalError
from shoal.shm.files import control_address
from shoal.shm.wire import handshake
from shoal.shm.wire.frames import FrameBuffer, FrameError

_PATIENCE_S = 5.0
_MOST_VISITORS = 128
# Of the descriptors the process may have: for the log and checkpoints, without which those inside would not go on.
_KEPT_DESCRIPTORS = 48

# What keeps a visitor out and says nothing about those inside.
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.ETOOMANYREFS)
# How a visitor leaves before it is answered, or never takes its answer.
_GONE = (ConnectionError, BlockingIOError, TimeoutError)

Admit = Callable[[handshake.Hello, int], handshake.Welcome]  # the greeting, and who sent it as the kernel says


class ControlSocket:
    """The listening socket and those who have connected and not yet been admitted."""

    def __init__(self, directory: Path, admit: Admit) -> None:
        self._path = directory / control_address.SOCKET_FILE
        self._admit = admit
        self._missing = MissingFile(self._path)
        self._path.unlink(missing_ok=True)  # a dead coordinator's: this one holds the lock
        self._listener = self._listen()
        self._visitors: dict[int, tuple[socket.socket, bytearray, float]] = {}  # who came first stands first

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with control_address.socket_address(self._path.parent) as address:
                listener.bind(address)
            os.chmod(self._path, 0o600)
            listener.listen(_MOST_VISITORS)
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
        except OSError:  # no descriptor or no room on the disk: those inside go on, and the next look tries again
            return False
        self._listener.close()
        self._listener = listener
        return True

    def fileno(self) -> int:
        """The listener's descriptor."""
        return self._listener.fileno()

    def accept(self) -> list[int]:
        """Let those waiting connect; the descriptors to watch for what they say."""
        fresh = []
        for _ in range(_MOST_VISITORS):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, ConnectionError):  # nobody is waiting, or whoever was has left again
                break
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                break  # it goes on waiting until there is a descriptor for it
            if control_address.peer_uid(connection) not in (os.getuid(), 0):
                connection.close()
                continue
            connection.setblocking(False)
            if not self._has_room():
                with contextlib.suppress(*_GONE):
                    handshake.send_refusal(connection, self._no_room())
                connection.close()
                continue
            if len(self._visitors) == _MOST_VISITORS:
                self._dismiss(next(iter(self._visitors)))  # who has been silent longest
            self._visitors[connection.fileno()] = (connection, bytearray(), time.monotonic())
            fresh.append(connection.fileno())
        return fresh

    def is_visitor(self, fd: int) -> bool:
        """Whether ``fd`` belongs to someone not yet admitted."""
        return fd in self._visitors

    def hear(self, fd: int) -> bool:
        """Read what a visitor says and answer; True when it is done with, either way."""
        connection, heard, _ = self._visitors[fd]
        try:
            data = connection.recv(handshake.MAX_HELLO_BYTES)
            heard += data
            messages = FrameBuffer().feed(bytes(heard)) if data else []
            if data and not messages and len(heard) <= handshake.MAX_HELLO_BYTES:
                return False
            hello = handshake.decode_hello(messages[0]) if messages else None
        except BlockingIOError:
            return False  # whoever could be heard had this descriptor before it, and was dismissed in the same turn
        except (ConnectionError, FrameError):
            hello = None  # whoever it was is gone or no shoal: closing is the answer
        if hello is not None:
            self._answer(connection, hello)
        self._dismiss(fd)
        return True

    def impatient(self) -> list[int]:
        """Show out those who have said nothing for too long; their descriptors."""
        now_s = time.monotonic()
        late = [fd for fd, (_, _, since) in self._visitors.items() if now_s - since > _PATIENCE_S]
        for fd in late:
            self._dismiss(fd)
        return late

    def close(self) -> None:
        """Close the door."""
        self._path.unlink(missing_ok=True)
        self._listener.close()
        for fd in list(self._visitors):
            self._dismiss(fd)

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
            if error.errno not in _NO_ROOM:  # too many descriptors are on their way: it is closed, and may come again
                raise
        finally:
            for fd in welcome.descriptors:
                os.close(fd)

    def _welcome(self, hello: handshake.Hello, pid: int) -> handshake.Welcome:
        """Take the visitor in, or raise what it is told."""
        if not self._has_room():
            raise self._no_room()
        try:
            return self._admit(hello, pid)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise ConfigurationError(
                f"the process that serves {self._path.parent} cannot take in another: {error}; attach fewer processes"
            ) from error

    def _has_room(self) -> bool:
        """Whether those that are kept are free: it takes them, all at once, and lets them go."""
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
            f"{self._path.parent} is served by a process that may have {limit} descriptors, and they are in use; "
            "attach fewer processes, or raise `ulimit -n` where it is started"
        )

    def _dismiss(self, fd: int) -> None:
        connection, _, _ = self._visitors.pop(fd)
        connection.close()

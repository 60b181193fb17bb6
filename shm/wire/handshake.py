"""The handshake: one message each way over the control socket, once per client. All else goes through its pipes.

hello      frame: msgpack [PROTOCOL_VERSION, client id, pid, durability or nil, max_bytes or nil, database id,
                           id of the store or nil, depth, history in ms or nil]
welcome    frame: msgpack [nil, durability, generation, id of the store], with four descriptors:
           the segment (reading), the client's snapshot slots, its request pipe (writing), its answer pipe (reading)
refusal    frame: msgpack [[name of the error's class, its arguments]]

The client sends a hello; the coordinator sends a welcome or a refusal.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct
from typing import Any, NamedTuple

from shoal.shm import codec
from shoal.shm.errors import ConfigurationError, ShoalError
from shoal.shm.host.descriptors import above_standard
from shoal.shm.limits import MAX_INTEGER, MAX_PIPELINE_DEPTH
from shoal.shm.wire import wire_errors
from shoal.shm.wire.frames import FrameBuffer, FrameError, frame

PROTOCOL_VERSION = 7
MAX_HELLO_BYTES = 4096
_DESCRIPTORS = 4
_FD = struct.Struct("i")


class Hello(NamedTuple):
    """A client that wants to attach, and the options it opens the store with.

    ``client_id`` and ``database_id`` are random numbers above 0. One open database may have several clients, because a
    signal handler may commit during a commit; they share the database's id. ``store_id`` is given if the database had
    that store open before and accepts no other. ``depth`` is how many commits the client may have in flight; above 1,
    it is a pipelined client, and the ids from ``client_id`` to ``client_id + depth - 1`` are its own.
    """

    protocol: int
    client_id: int
    pid: int
    durability: str | None
    max_bytes: int | None
    database_id: int = 0
    store_id: bytes | None = None
    depth: int = 1
    history_ms: int | None = None


class Welcome(NamedTuple):
    """What an attached client gets. The four descriptors belong to the receiver, which closes them."""

    durability: str
    generation: int
    store_id: bytes
    segment_fd: int
    slots_fd: int
    request_fd: int
    answer_fd: int

    @property
    def descriptors(self) -> tuple[int, int, int, int]:
        """All four descriptors."""
        return self.segment_fd, self.slots_fd, self.request_fd, self.answer_fd


def encode_hello(hello: Hello) -> bytes:
    """A hello, framed."""
    return frame(codec.pack(list(hello)))


def decode_hello(message: bytes) -> Hello:
    """The hello in ``message``; FrameError for anything that no client of this protocol sends."""
    try:
        parts = codec.unpackb(message)
        hello = Hello(*parts)
    except (ValueError, TypeError) as error:
        raise FrameError(f"not a hello: {error}") from error
    whole = hello.protocol, hello.client_id, hello.pid, hello.database_id, hello.depth
    numbers = {type(n) for n in whole} == {int}
    if not numbers or hello.protocol != PROTOCOL_VERSION or hello.client_id <= 0:
        found = str(hello.protocol) if numbers else "other than a number"
        raise FrameError(f"protocol {found}, expected {PROTOCOL_VERSION}")
    if not 1 <= hello.depth <= MAX_PIPELINE_DEPTH or hello.client_id + hello.depth > MAX_INTEGER:
        raise FrameError(f"a depth of {hello.depth}")
    optional = (hello.durability, str), (hello.max_bytes, int), (hello.store_id, bytes), (hello.history_ms, int)
    if any(type(value) not in (kind, type(None)) for value, kind in optional):
        raise FrameError("options of the wrong types")
    return hello


def send_welcome(connection: _socket.socket, welcome: Welcome) -> None:
    """Send a welcome with its descriptors, which the caller still has to close."""
    message = frame(codec.pack([None, welcome.durability, welcome.generation, welcome.store_id]))
    raw = struct.pack(f"{_DESCRIPTORS}i", *welcome.descriptors)
    connection.sendmsg([message], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, raw)])


def send_refusal(connection: _socket.socket, error: Exception) -> None:
    """Send an error, which the client raises."""
    name, arguments = wire_errors.error_parts(error)
    connection.sendall(frame(codec.pack([[name, arguments]])))


def receive_welcome(connection: _socket.socket) -> Welcome:
    """Wait for the welcome. Raises the coordinator's error if it refuses, and EOFError if it goes away.

    ``ConfigurationError`` for what no coordinator of this version sends.
    """
    buffer = FrameBuffer()
    descriptors: list[int] = []
    messages: list[bytes] = []
    try:
        while not messages:
            data, fds = _receive(connection)
            descriptors += fds
            if not data:
                raise EOFError
            messages = buffer.feed(data)
        return _decode_welcome(messages[0], descriptors)
    except (FrameError, ValueError, TypeError, LookupError) as error:
        for fd in descriptors:
            os.close(fd)
        raise ConfigurationError(
            f"what serves the store does not speak as this shoal does ({error}); "
            "run the same version of shoal in every process"
        ) from error
    except BaseException:
        for fd in descriptors:
            os.close(fd)
        raise


def _receive(connection: _socket.socket) -> tuple[bytes, list[int]]:
    """Bytes from the socket and the descriptors that came with them, close-on-exec.

    ``socket.recv_fds`` cannot be used: it ignores its ``flags``.
    """
    room = _socket.CMSG_SPACE(_DESCRIPTORS * _FD.size)
    data, ancillary, flags, _ = connection.recvmsg(MAX_HELLO_BYTES, room, getattr(_socket, "MSG_CMSG_CLOEXEC", 0))
    received = [
        fd
        for level, kind, raw in ancillary
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS)
        for (fd,) in _FD.iter_unpack(raw[: len(raw) // _FD.size * _FD.size])
    ]
    if flags & _socket.MSG_CTRUNC and len(received) < _DESCRIPTORS:  # this process may have no more of them
        for fd in received:
            os.close(fd)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    for fd in received:
        os.set_inheritable(fd, False)  # for systems without the flag
    return data, [above_standard(fd) for fd in received]


def _decode_welcome(message: bytes, descriptors: list[int]) -> Welcome:
    """The welcome in ``message``. Raises the error of a refusal; ValueError, TypeError or LookupError for all else."""
    parts: list[Any] = codec.unpackb(message)
    if parts[0] is not None:
        error = wire_errors.error_from(*parts[0])
        if isinstance(error, ShoalError):
            raise error
        raise ValueError(f"it refuses with a {type(error).__name__}")
    _, durability, generation, store_id = parts
    kinds = [type(durability), type(generation), type(store_id)]
    if kinds != [str, int, bytes] or len(descriptors) != _DESCRIPTORS:
        raise ValueError(f"a welcome with {len(descriptors)} descriptors, expected {_DESCRIPTORS}")
    return Welcome(durability, generation, store_id, *descriptors)

"""The first words over the control socket, once per client; everything after goes through its pipes.

client   frame: msgpack [PROTOCOL_VERSION, client id, pid, durability or nil, max_bytes or nil, database id,
                        id of the store or nil]
server   frame: msgpack [nil, durability, generation, id of the store], with four descriptors:
         the segment (reading), the client's snapshot slots, its request pipe (writing), its answer pipe (reading)
   or    frame: msgpack [[error's name, arguments]]
"""

from __future__ import annotations

import _socket
import os
import socket
import struct
from typing import Any, NamedTuple

from shoal.shm import codec
from shoal.shm.errors import ConfigurationError, ShoalError
from shoal.shm.host.descriptors import above_standard
from shoal.shm.wire import wire_errors
from shoal.shm.wire.frames import FrameBuffer, FrameError, frame

PROTOCOL_VERSION = 2
MAX_HELLO_BYTES = 4096
_DESCRIPTORS = 4
_FD = struct.Struct("i")


class Hello(NamedTuple):
    """Who wants to attach, and how.

    One open database may have several clients, when a signal handler commits during a commit; they share its id.
    ``store_id`` is given if the database had that store open before and takes no other.
    """

    protocol: int
    client_id: int
    pid: int
    durability: str | None
    max_bytes: int | None
    database_id: int = 0
    store_id: bytes | None = None


class Welcome(NamedTuple):
    """What an attached client is given."""

    durability: str
    generation: int
    store_id: bytes
    segment_fd: int
    slots_fd: int
    request_fd: int
    answer_fd: int

    @property
    def descriptors(self) -> tuple[int, int, int, int]:
        """All of them, which belong to whoever has the welcome."""
        return self.segment_fd, self.slots_fd, self.request_fd, self.answer_fd


def encode_hello(hello: Hello) -> bytes:
    """The client's first message."""
    return frame(codec.pack(list(hello)))


def decode_hello(message: bytes) -> Hello:
    """Raises FrameError for anything a client never says."""
    try:
        parts = codec.unpackb(message)
        hello = Hello(*parts)
    except (ValueError, TypeError) as error:
        raise FrameError(f"not a greeting: {error}") from error
    numbers = {type(n) for n in (hello.protocol, hello.client_id, hello.pid, hello.database_id)} == {int}
    if not numbers or hello.protocol != PROTOCOL_VERSION or hello.client_id <= 0:
        told = str(hello.protocol) if numbers else "other than a number"
        raise FrameError(f"protocol {told}, expected {PROTOCOL_VERSION}")
    optional = (hello.durability, str), (hello.max_bytes, int), (hello.store_id, bytes)
    if any(type(value) not in (kind, type(None)) for value, kind in optional):
        raise FrameError("options of the wrong types")
    return hello


def send_welcome(connection: socket.socket, welcome: Welcome) -> None:
    """Answer a greeting with what it asked for."""
    message = frame(codec.pack([None, welcome.durability, welcome.generation, welcome.store_id]))
    socket.send_fds(connection, [message], list(welcome.descriptors))


def send_refusal(connection: socket.socket, error: Exception) -> None:
    """Answer a greeting with an error the client raises."""
    name, arguments = wire_errors.error_parts(error)
    connection.sendall(frame(codec.pack([[name, arguments]])))


def receive_welcome(connection: _socket.socket) -> Welcome:
    """Wait for the answer. Raises the coordinator's error, or EOFError if it went away.

    ``ConfigurationError`` for what no coordinator of this version says.
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
    """What is there to read, and the descriptors that came with it, which programs executed here do not inherit.

    Not ``socket.recv_fds``, which passes over its ``flags``.
    """
    room = socket.CMSG_SPACE(_DESCRIPTORS * _FD.size)
    data, ancillary, _, _ = connection.recvmsg(MAX_HELLO_BYTES, room, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
    received = [
        fd
        for level, kind, raw in ancillary
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        for (fd,) in _FD.iter_unpack(raw[: len(raw) // _FD.size * _FD.size])
    ]
    for fd in received:
        os.set_inheritable(fd, False)  # where the flag is unknown
    return data, [above_standard(fd) for fd in received]


def _decode_welcome(message: bytes, descriptors: list[int]) -> Welcome:
    """Raises the coordinator's error if it is one, ValueError, TypeError or LookupError for what is no welcome."""
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

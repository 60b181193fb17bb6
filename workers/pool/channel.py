"""Messages between a pool and one worker, over a pair of stream sockets.

    message   length of the body (8) │ kind (1) │ body

The pool's end never blocks: it sends and receives a message piece by piece, whenever the socket allows. So a stopped
worker delays nothing else. The worker's end blocks; the worker has nothing else to do. The end of the stream does not
tell a death: a process that a task has forked may hold a copy of the worker's socket for hours.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

from shoal.shm.host.descriptors import standard_taken

TASK = b"T"  # pool to worker: a pickled call
END = b"E"  # pool to worker: there are no more tasks
READY = b"r"  # worker to pool: attached and initialized
NOT_ATTACHED = b"a"  # worker to pool: an exception, while it attached to the store
NOT_INITIALIZED = b"i"  # worker to pool: an exception, in the initializer
RESULT = b"R"  # worker to pool: a pickled result
RAISED = b"X"  # worker to pool: an exception of the task
UNSENDABLE = b"U"  # worker to pool: why the result cannot be pickled

_HEAD = struct.Struct("<Qc")
# A body this small is sent in one piece with its head; copying a larger one costs more than a second call.
COPIED_BYTES = 1 << 16
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)  # a program may have set SIGPIPE to end it

Message = tuple[bytes, bytearray]


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """``socket.socketpair`` with numbers from 3 on."""
    with standard_taken():
        return socket.socketpair()


class Channel:
    """The pool's end. Used by one thread."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._outgoing: list[memoryview] = []
        self._head = bytearray()
        self._kind = b""
        self._body: bytearray | None = None
        self._received = 0

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._socket.fileno()

    @property
    def is_sending(self) -> bool:
        """Whether a part of a message is still to be sent."""
        return bool(self._outgoing)

    def send(self, kind: bytes, body: Any = b"") -> None:
        """Begin to send a message; ``flush`` sends the rest when the socket takes it. ``OSError`` if it is broken."""
        self._outgoing = [memoryview(piece) for piece in _pieces(kind, body)]
        self.flush()

    def flush(self) -> None:
        """Send as much as the socket takes."""
        try:
            while self._outgoing:
                sent = self._socket.send(self._outgoing[0], _NO_SIGNAL)
                rest = self._outgoing[0][sent:]
                self._outgoing[:1] = [rest] if rest else []
        except BlockingIOError:
            return

    def receive(self) -> Message | None:
        """The next message, None if it is not complete yet. ``EOFError`` or ``OSError`` if no more can come."""
        try:
            while self._body is None:
                piece = self._socket.recv(_HEAD.size - len(self._head))
                self._head += _not_empty(piece)
                if len(self._head) == _HEAD.size:
                    length, self._kind = _HEAD.unpack(self._head)
                    self._body, self._received = bytearray(length), 0
            with memoryview(self._body) as view:
                while self._received < len(view):
                    self._received += _not_empty(self._socket.recv_into(view[self._received :]))
        except BlockingIOError:
            return None
        message = self._kind, self._body
        self._head, self._body = bytearray(), None
        return message

    def close(self) -> None:
        """Close the socket."""
        self._outgoing = []
        self._socket.close()


def send_message(end: socket.socket, kind: bytes, body: Any = b"") -> None:
    """Send one message from the worker's end; blocks until the pool's socket has taken all of it."""
    for piece in _pieces(kind, body):
        end.sendall(piece)


def receive_message(end: socket.socket) -> Message:
    """The next message, on the worker's end. ``EOFError`` if the pool has closed the other."""
    length, kind = _HEAD.unpack(_receive(end, _HEAD.size))
    return kind, _receive(end, length)


def _pieces(kind: bytes, body: Any) -> list[Any]:
    head = _HEAD.pack(len(body), kind)
    return [head + body] if len(body) <= COPIED_BYTES else [head, body]


def _receive(end: socket.socket, length: int) -> bytearray:
    received, data = 0, bytearray(length)
    with memoryview(data) as view:
        while received < length:
            received += _not_empty(end.recv_into(view[received:]))
    return data


def _not_empty(piece: Any) -> Any:
    if not piece:
        raise EOFError("the other end of the channel is closed")
    return piece

"""Frames: messages over a pipe or a socket, which may deliver them in any pieces.

    frame    4 bytes  length of the message in bytes, at most ``MAX_FRAME_BYTES``
             message  a hello, welcome or refusal (``handshake``), a request or an answer

All numbers in messages are little-endian.
"""

from __future__ import annotations

import math
import struct
import time
from typing import Any

from shoal.shm.host.unpatched import os, select
from shoal.shm.host.waiting import Lookout
from shoal.shm.limits import KIB, MAX_COMMIT_BYTES, MIB

try:
    import cython
except ModuleNotFoundError:
    from shoal.shm import cython_shim as cython  # type: ignore[no-redef]

if cython.compiled:
    from cython.cimports.frame_bytes import only_message

_LENGTH = struct.Struct("<I")
LENGTH_BYTES = _LENGTH.size
# A request with as many bytes of reads and of mutations as are allowed.
MAX_FRAME_BYTES = 2 * MAX_COMMIT_BYTES
# os.read allocates all that it is asked for. 1 MiB at a time took 20 us; 32 KiB takes no time that could be measured.
_READ_BYTES = 32 * KIB
_LARGE_READ_BYTES = 1 * MIB
_LONGEST_SLEEP_S = 1e6  # poll takes no longer one


class FrameError(Exception):
    """Raised for bytes that do not follow this protocol."""


def frame(body: bytes) -> bytes:
    """``body`` with its length in front."""
    return _LENGTH.pack(len(body)) + body


class FrameBuffer:
    """Takes bytes as they come in and returns whole messages."""

    __slots__ = ("_missing", "_pieces", "wanted_bytes")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of one unfinished message; joined once, when it is whole
        self._missing = 0  # bytes to come before the pieces are worth joining
        self.wanted_bytes = _READ_BYTES  # how many to read next

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that ``data`` completes. Raises FrameError for a length no message may have."""
        if not self._pieces:
            if cython.compiled:
                message = only_message(data)
                if message is not None:
                    return [message]
            elif len(data) >= LENGTH_BYTES and _LENGTH.unpack_from(data)[0] == len(data) - LENGTH_BYTES:
                return [data[LENGTH_BYTES:]]  # exactly one message, the usual case
        else:
            self._pieces.append(data)
            self._miss(self._missing - len(data))
            if self._missing > 0:
                return []
            data = b"".join(self._pieces)
            self._pieces.clear()
        messages = []
        position, end = 0, len(data)
        self._miss(0)
        while end - position >= LENGTH_BYTES:
            (length,) = _LENGTH.unpack_from(data, position)
            if length > MAX_FRAME_BYTES:
                raise FrameError(f"a message of {length:,} bytes; the limit is {MAX_FRAME_BYTES:,}")
            missing = length - (end - position - LENGTH_BYTES)
            if missing > 0:
                self._miss(missing)
                break
            position += LENGTH_BYTES + length
            messages.append(data[position - length : position])
        if position < end:
            self._pieces.append(data[position:] if position else data)
            if self._missing <= 0:
                self._miss(1)
        return messages

    def _miss(self, missing: int) -> None:
        self._missing = missing
        self.wanted_bytes = _READ_BYTES if missing <= _READ_BYTES else _LARGE_READ_BYTES


def write_all(fd: int, data: bytes, give_up_s: float = math.inf) -> None:
    """Write all of ``data``; TimeoutError if it does not fit into the pipe before ``give_up_s`` (monotonic)."""
    written = 0
    while True:
        try:
            written += os.write(fd, memoryview(data)[written:] if written else data)
            if written == len(data):
                return
        except BlockingIOError:
            pass  # the pipe is full
        poller = select.poll()
        poller.register(fd, select.POLLOUT)
        wait_ready(poller, give_up_s)


def wait_ready(poller: Any, give_up_s: float) -> None:
    """Sleep until a descriptor in ``poller`` is ready; TimeoutError at ``give_up_s`` (monotonic)."""
    while True:
        left_s = give_up_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        if poller.poll(min(left_s, _LONGEST_SLEEP_S) * 1000):
            return


def read_message(
    fd: int,
    poller: Any,
    buffer: FrameBuffer,
    ready: list[bytes],
    lookout: Lookout,
    look_s: float,
    give_up_s: float = math.inf,
) -> bytes:
    """The next message from ``fd``, which ``poller`` watches: look for ``look_s`` seconds, then sleep.

    ``ready`` holds the messages that came with an earlier one. EOFError at the end of the pipe, TimeoutError at
    ``give_up_s`` (monotonic).
    """
    while not ready:
        if not lookout.look(poller.poll, look_s):
            wait_ready(poller, give_up_s)
        data = os.read(fd, buffer.wanted_bytes)
        if not data:
            raise EOFError
        ready.extend(buffer.feed(data))
    return ready.pop(0)

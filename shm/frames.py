"""Messages over a pipe: a 4-byte length, then that many bytes. A pipe may deliver them in any pieces."""

from __future__ import annotations

import os
import select
import struct

from shoal.shm.limits import KIB, MAX_COMMIT_BYTES, MIB
from shoal.shm.waiting import Lookout

_LENGTH = struct.Struct("<I")
LENGTH_BYTES = _LENGTH.size
# A commit set of the allowed size, with what it read and its framing.
MAX_FRAME_BYTES = 2 * MAX_COMMIT_BYTES
# os.read allocates all it is asked for: 1 MiB at a time took 20 us, 32 KiB nothing that shows.
_READ_BYTES = 32 * KIB
_LARGE_READ_BYTES = 1 * MIB


class FrameError(Exception):
    """The other side does not speak this protocol."""


def frame(body: bytes) -> bytes:
    """``body`` with its length in front."""
    return _LENGTH.pack(len(body)) + body


class FrameBuffer:
    """Bytes as they came in, given out as whole messages."""

    __slots__ = ("_missing", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of one unfinished message, joined once when it is whole
        self._missing = 0  # bytes until there is something to do with them

    def wanted_bytes(self) -> int:
        """How much to ask the descriptor for next."""
        return _READ_BYTES if self._missing <= _READ_BYTES else _LARGE_READ_BYTES

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that ``data`` completes. Raises FrameError for a length no message may have."""
        if not self._pieces:
            if len(data) >= LENGTH_BYTES and _LENGTH.unpack_from(data)[0] == len(data) - LENGTH_BYTES:
                return [data[LENGTH_BYTES:]]  # one message and nothing else: nearly always
        else:
            self._pieces.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return []
            data = b"".join(self._pieces)
            self._pieces.clear()
        messages = []
        position, end = 0, len(data)
        self._missing = 0
        while end - position >= LENGTH_BYTES:
            (length,) = _LENGTH.unpack_from(data, position)
            if length > MAX_FRAME_BYTES:
                raise FrameError(f"a message of {length:,} bytes; the limit is {MAX_FRAME_BYTES:,}")
            self._missing = length - (end - position - LENGTH_BYTES)
            if self._missing > 0:
                break
            position += LENGTH_BYTES + length
            messages.append(data[position - length : position])
        if position < end:
            self._pieces.append(data[position:] if position else data)
            if self._missing <= 0:
                self._missing = 1
        return messages


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data`` to a blocking descriptor."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


def read_message(
    fd: int, poller: select.poll, buffer: FrameBuffer, ready: list[bytes], lookout: Lookout, look_s: float
) -> bytes:
    """The next message of a descriptor that ``poller`` watches. EOFError at its end.

    Looks for ``look_s`` seconds, then sleeps.
    """
    while not ready:
        if not lookout.look(poller.poll, look_s):
            poller.poll()
        data = os.read(fd, buffer.wanted_bytes())
        if not data:
            raise EOFError
        ready.extend(buffer.feed(data))
    return ready.pop(0)

"""Frames: messages over a pipe or a socket, which may deliver them in any pieces.

    frame    4 bytes  length of the message in bytes, at most ``MAX_FRAME_BYTES``
             message  a hello, welcome or refusal (``handshake``), a request or an answer

All numbers in messages are little-endian.
"""

from __future__ import annotations

import struct

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

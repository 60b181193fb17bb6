"""The address of ``control.sock``, where a coordinator hands out descriptors, and the process at its other end."""

from __future__ import annotations

import _socket
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOCKET_FILE = "control.sock"
# Linux takes 107 bytes of path in a socket's address, macOS 103.
_LONGEST_ADDRESS_BYTES = 99


@contextmanager
def socket_address(directory: Path) -> Iterator[str]:
    """An address of the control socket. A path that is too long for one is replaced by one through a descriptor."""
    path = str(directory / SOCKET_FILE)
    if len(os.fsencode(path)) <= _LONGEST_ADDRESS_BYTES:
        yield path
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET_FILE}"
    finally:
        os.close(fd)


def peer_pid(connection: _socket.socket) -> int:
    """The process on the other end of a local socket; 0 if the system does not tell which it is."""
    if not hasattr(_socket, "SO_PEERCRED"):
        return 0
    return int.from_bytes(connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)[:4], "little")


def peer_uid(connection: _socket.socket) -> int:
    """The user on the other end of a local socket."""
    if hasattr(_socket, "SO_PEERCRED"):
        raw = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        return int.from_bytes(raw[4:8], "little")
    raw = connection.getsockopt(0, 1, 76)  # macOS: LOCAL_PEERCRED, struct xucred
    return int.from_bytes(raw[4:8], "little")

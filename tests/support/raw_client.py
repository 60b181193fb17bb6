"""A client that sends bytes of its own making to a coordinator, and the proof that nobody else noticed."""

from __future__ import annotations

import os
import socket

import shoal
from shoal.shm.wire import handshake


def attach(db: shoal.Database, depth: int = 1, client_id: int = 77) -> handshake.Welcome:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"{db.path}/control.sock")
        hello = handshake.Hello(handshake.PROTOCOL_VERSION, client_id, os.getpid(), None, None, depth=depth)
        connection.sendall(handshake.encode_hello(hello))
        return handshake.receive_welcome(connection)


def send_and_hear(db: shoal.Database, message: bytes, depth: int = 1) -> bytes:
    """What comes back until the coordinator hangs up, or its answer."""
    welcome = attach(db, depth)
    try:
        rest = memoryview(message)
        while rest:
            rest = rest[os.write(welcome.request_fd, rest) :]
        return os.read(welcome.answer_fd, 65536)
    finally:
        for fd in welcome.descriptors:
            os.close(fd)


def assert_unharmed(db: shoal.Database, pid: int) -> None:
    kv = shoal.KVStore(db)
    kv.put("r", "still", "here")
    assert kv.get("r", "still") == "here"
    assert db.info().coordinator_pid == pid
    assert db.check() == []

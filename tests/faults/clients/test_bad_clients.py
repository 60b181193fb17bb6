"""A client that sends what no worker would send is disconnected, and no other client notices."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

import shoal
from shoal.shm.wire import answer as wire_answer
from shoal.shm.wire import request as wire_request
from shoal.shm.wire.frames import frame
from tests.support.raw_client import assert_unharmed, attach, send_and_hear
from tests.support.shared_memory import store_of

WRITE = [b"key", b"\x01", 0]
NOTHING = msgpack.packb([[], None, None, None])
LATE = b"\xc1\xc7\x0c\xff" + struct.pack(">Iq", 0, 2**62)  # a moment beyond all years, as a value has it
BAD_MUTATIONS = [
    [[b"key"], None, None, None],
    [["text", b"v", 0], None, None, None],
    [[b"", b"v", 0], None, None, None],
    [[b"k" * 5000, b"v", 0], None, None, None],
    [[b"key", "text", 0], None, None, None],
    [[b"key", b"v", -1], None, None, None],
    [[b"key", b"v", "soon"], None, None, None],
    [WRITE, [b"a"], None, None],
    [WRITE, [1, 2], None, None],
    [WRITE, 7, None, None],
    [WRITE, None, [["no such", []]], None],
    [WRITE, None, [["delete", "key"]], None],
    [[], None, [["event_append", []]], None],
    [[], None, [["increment", []]], None],
    [{}, None, None, None],
    [[*WRITE, *WRITE], None, None, None],
    [[], None, {"in": ["delete"]}, None],
    [WRITE, None, [[{}, []]], None],
    [WRITE, None, None, "check"],
    [WRITE, None, None, ["no such", []]],
    [WRITE, None, None],
    [],
    {},
    7,
    None,
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[shoal.Database]:
    with shoal.open(tmp_path_factory.mktemp("bad") / "store", durability="memory", linger=0.2) as db:
        yield db


def _all_written(db: shoal.Database) -> list[tuple[bytes, int]]:
    """Every key of every run and the version it was written at."""
    with db.snapshot("r") as view:
        engine: Any = view._engine
        return [(key, found.version) for key, found in engine.attachment.reader.scan(b"", None, engine.snapshot)]


@pytest.mark.long
@pytest.mark.parametrize("mutations", BAD_MUTATIONS, ids=str)
def test_a_malformed_commit_set_ends_its_client_only(served: shoal.Database, mutations: Any) -> None:
    """A request of the wrong shape is answered by hanging up; nothing of it is written."""
    before, nothing = served.info(), _all_written(served)
    header = struct.pack("<QQQI", 1, 0, 0, 0)
    assert send_and_hear(served, frame(header + msgpack.packb(mutations))) == b""
    assert _all_written(served) == nothing
    assert_unharmed(served, before.coordinator_pid)


@pytest.mark.parametrize(
    "message",
    [
        frame(b""),
        frame(b"\0" * 27),
        frame(os.urandom(500)),
        struct.pack("<I", 2**32 - 1),
        frame(struct.pack("<QQQI", 1, 0, 0, 4) + msgpack.packb([[1], []])),
        frame(wire_request.encode_request(1, 0, 0, msgpack.packb([{b"k": 1}, []]), NOTHING)),
        frame(wire_request.encode_request(1, 0, 0, LATE, NOTHING)),
        frame(struct.pack("<QQQI", 1, 0, 0, 2**31)),
    ],
    ids=["empty", "short", "random", "4 GiB", "bad reads", "a map read", "a late moment", "reads beyond the end"],
)
def test_nonsense_ends_its_client_only(served: shoal.Database, message: bytes) -> None:
    """Bytes that are no request are answered by hanging up."""
    pid = served.info().coordinator_pid
    assert send_and_hear(served, message) == b""
    assert_unharmed(served, pid)


def test_an_operation_that_makes_no_sense_is_refused(served: shoal.Database) -> None:
    """Wrong arguments of a known operation refuse that commit; client and coordinator go on."""
    pid = served.info().coordinator_pid
    header = struct.pack("<QQQI", 9, 0, 0, 0)
    for arguments in ([b"k"], [b"k", "one"], [b"k", 1, 2], [b"k", None], [b"k", [1]]):
        answer = send_and_hear(served, frame(header + msgpack.packb([[], None, [["increment", arguments]], None])))
        commit_id, status, _, _ = wire_answer.decode_answer(answer[4:])
        assert (commit_id, status) == (9, wire_answer.REFUSED)
    assert_unharmed(served, pid)


@pytest.mark.parametrize(
    "writes",
    [
        ["text", b"v"],
        [b"k", "text"],
        [b"k" * 5000, b"v"],
        [b"", b"v"],
        [b"k", b"v" * (17 << 20)],
        [b"k", 7],
        [b"k", []],
    ],
    ids=["text as key", "text as value", "long key", "empty key", "long value", "number", "list"],
)
def test_what_an_insert_would_write_is_refused(served: shoal.Database, writes: Any) -> None:
    """An operation names its keys and values itself: what no key or value is refuses all of it."""
    pid, nothing = served.info().coordinator_pid, _all_written(served)
    operation = ["insert", [b"new", "it is there", [], [b"first", b"\x01", *writes]]]
    message = struct.pack("<QQQI", 3, 0, 0, 0) + msgpack.packb([[], None, [operation], None])
    commit_id, status, _, _ = wire_answer.decode_answer(send_and_hear(served, frame(message))[4:])
    assert (commit_id, status) == (3, wire_answer.REFUSED)
    assert _all_written(served) == nothing
    assert_unharmed(served, pid)


def test_half_a_message_and_then_nothing(served: shoal.Database) -> None:
    """A client that stops in the middle of a message holds up nobody."""
    welcome = attach(served)
    os.write(welcome.request_fd, frame(b"x" * 1000)[:500])
    assert_unharmed(served, served.info().coordinator_pid)
    for fd in welcome.descriptors:
        os.close(fd)


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        struct.pack("<I", 2**31),
        frame(msgpack.packb([99, 1, 1, None, None])),
        frame(msgpack.packb([1, -1, 1, None, None])),
        frame(msgpack.packb([1, 1, 1, 5, None])),
        frame(msgpack.packb([1, 1, 1, None, "large"])),
        frame(msgpack.packb("hello")),
        frame(b"\xc1"),
    ],
    ids=str,
)
def test_a_connection_that_is_no_greeting_is_closed(served: shoal.Database, words: bytes) -> None:
    """Whatever arrives on the control socket that is no greeting, the connection is closed and the others go on."""
    pid = served.info().coordinator_pid
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"{served.path}/control.sock")
        connection.settimeout(20)
        connection.sendall(words)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""
    assert_unharmed(served, pid)


def test_silent_connections_hold_up_nobody(served: shoal.Database) -> None:
    """Connections that say nothing do not keep a client from attaching."""
    silent = []
    for _ in range(50):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(f"{served.path}/control.sock")
        silent.append(connection)
    with shoal.open(served.path) as other:
        assert_unharmed(other, served.info().coordinator_pid)
    for connection in silent:
        connection.close()


def test_a_worker_cannot_write_the_segment(served: shoal.Database) -> None:
    """The segment a worker gets is mapped for reading: a wild write is an error there, not damage here."""
    segment = store_of(served).connection.attachment.segment
    with pytest.raises(TypeError):
        segment.mm[0:1] = b"x"
    with pytest.raises(TypeError):
        segment.words[3] = 7
    welcome = attach(served)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(welcome.segment_fd, b"x")
    with pytest.raises(PermissionError):
        os.ftruncate(welcome.slots_fd, 0)
    for fd in welcome.descriptors:
        os.close(fd)

"""A pipelined client as the coordinator meets it: many requests in one read, nonsense, and one that comes again."""

from __future__ import annotations

import os
import select
import struct

import pytest

import shoal
from shoal.primitives.rules import registry
from shoal.shm.wire import request as wire_request
from shoal.shm.wire.answer import COMMITTED, decode_answer
from shoal.shm.wire.frames import FrameBuffer, frame
from shoal.shm.wire.handshake import Welcome
from tests.support.raw_client import assert_unharmed, attach, send_and_hear

pytestmark = pytest.mark.long

KEY = b"\x01raw"
TIMEOUT_MS = 10_000


def increments(first: int, count: int, key: bytes = KEY) -> list[bytes]:
    """Framed requests with commit ids from ``first`` on."""
    mutations = wire_request.encode_mutations([], None, [(registry.INCREMENT, [key, 1])])
    return [frame(wire_request.encode_request(n, 0, 0, b"", mutations)) for n in range(first, first + count)]


def answers(fd: int, count: int) -> list[tuple[int, int, list[int]]]:
    """Commit id, status and results of the next answers."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    buffer, found = FrameBuffer(), list[bytes]()
    while len(found) < count:
        assert poller.poll(TIMEOUT_MS)
        data = os.read(fd, 65536)
        assert data, "the coordinator hung up"
        found += buffer.feed(data)
    told = [decode_answer(message) for message in found]
    return [(commit_id, status, details) for commit_id, status, _, details in told]


def close(welcome: Welcome) -> None:
    for fd in welcome.descriptors:
        os.close(fd)


def test_frames_in_any_pieces(db: shoal.Database) -> None:
    """Many requests in one write, and one request in many, are answered in order."""
    welcome = attach(db, depth=64)
    data = b"".join(increments(1, 60))
    os.write(welcome.request_fd, data[:-7])
    assert [told[0] for told in answers(welcome.answer_fd, 59)] == list(range(1, 60))
    for byte in data[-7:]:
        os.write(welcome.request_fd, bytes([byte]))
    assert answers(welcome.answer_fd, 1) == [(60, COMMITTED, [60])]
    close(welcome)
    assert_unharmed(db, db.info().coordinator_pid)


def test_one_that_comes_again(db: shoal.Database) -> None:
    """What is still in its former pipe is not done after it has come again: it sends that anew, once."""
    pid = db.info().coordinator_pid
    former = attach(db, depth=8)
    sent = increments(1, 8)
    os.write(former.request_fd, b"".join(sent[:4]))
    expected = answers(former.answer_fd, 4)
    os.write(former.request_fd, sent[4][:9])  # interrupted in the middle
    again = attach(db, depth=8)
    with pytest.raises(BrokenPipeError):
        os.write(former.request_fd, sent[4][9:])
    os.write(again.request_fd, b"".join(sent))
    assert answers(again.answer_fd, 8) == [*expected, *((n, COMMITTED, [n]) for n in range(5, 9))]
    close(former)
    os.write(again.request_fd, b"".join(increments(9, 1)))
    assert answers(again.answer_fd, 1) == [(9, COMMITTED, [9])]
    close(again)
    assert_unharmed(db, pid)


@pytest.mark.parametrize(
    "message",
    [
        frame(
            wire_request.encode_request(2, 0, 0, b"", wire_request.encode_mutations([], control=("check", [0, "", 0])))
        ),
        frame(
            wire_request.encode_request(
                2, 0, 0, wire_request.encode_reads([b"k"], []), wire_request.encode_mutations([])
            )
        ),
        frame(b"nonsense"),
        struct.pack("<I", 2**32 - 1),
    ],
    ids=["control", "reads", "nonsense", "length"],
)
def test_nonsense(db: shoal.Database, message: bytes) -> None:
    """The client is dropped, and nobody else notices."""
    pid = db.info().coordinator_pid
    assert send_and_hear(db, message, depth=4) == b""
    assert_unharmed(db, pid)

"""shm.frames: messages over a pipe that delivers them in any pieces."""

from __future__ import annotations

import os
import select
import struct
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.shm.host.waiting import Lookout
from shoal.shm.wire.frames import MAX_FRAME_BYTES, FrameBuffer, FrameError, frame
from shoal.shm.wire.pipe_messages import read_message, write_all


@given(st.lists(st.binary(max_size=40), max_size=10), st.lists(st.integers(1, 30), max_size=60))
def test_any_pieces_give_the_same_messages(messages: Any, cuts: Any) -> None:
    """However the bytes are cut, the messages come out whole and in order, each as soon as it is complete."""
    stream = b"".join(map(frame, messages))
    ends, total = [], 0
    for message in messages:
        total += len(message) + 4
        ends.append(total)
    buffer = FrameBuffer()
    found: list[bytes] = []
    position = 0
    for cut in [*cuts, len(stream) or 1]:
        piece = stream[position : position + cut]
        if not piece:
            break
        position += len(piece)
        found += buffer.feed(piece)
        assert len(found) == sum(end <= position for end in ends)
    assert found == messages


def test_byte_by_byte() -> None:
    """Even one byte at a time, the length included."""
    buffer = FrameBuffer()
    found = [message for byte in frame(b"ab") + frame(b"") + frame(b"c") for message in buffer.feed(bytes([byte]))]
    assert found == [b"ab", b"", b"c"]


def test_a_length_no_message_has() -> None:
    """Nonsense is FrameError naming length and limit, at once and not after waiting for so many bytes."""
    with pytest.raises(FrameError, match=f"{MAX_FRAME_BYTES + 1:,} bytes; the limit is {MAX_FRAME_BYTES:,}"):
        FrameBuffer().feed(struct.pack("<I", MAX_FRAME_BYTES + 1))
    assert FrameBuffer().feed(struct.pack("<I", MAX_FRAME_BYTES)) == []


def test_asks_for_more_when_a_large_message_is_under_way() -> None:
    """Small reads for small messages, large ones while a large message is missing much."""
    buffer = FrameBuffer()
    small = buffer.wanted_bytes
    assert buffer.feed(frame(bytes(10 << 20))[:1000]) == []
    assert buffer.wanted_bytes > small
    buffer.feed(bytes((10 << 20) + 4 - 1000))
    assert buffer.wanted_bytes == small


def test_through_a_pipe() -> None:
    """write_all and read_message carry messages larger than the pipe, and the end is EOFError."""
    read_fd, write_fd = os.pipe()
    for fd in (read_fd, write_fd):
        os.set_blocking(fd, False)
    messages = [b"small", bytes(range(256)) * 8192, b"", b"last"]

    def write() -> None:
        for message in messages:
            write_all(write_fd, frame(message))
        os.close(write_fd)

    writer = threading.Thread(target=write)
    writer.start()
    poller = select.poll()
    poller.register(read_fd, select.POLLIN)
    buffer = FrameBuffer()
    ready: list[bytes] = []
    assert [read_message(read_fd, poller, buffer, ready, Lookout(), 0.0) for _ in messages] == messages
    with pytest.raises(EOFError):
        read_message(read_fd, poller, buffer, ready, Lookout(), 0.0)
    writer.join()
    os.close(read_fd)

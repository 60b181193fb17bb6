"""What comes through the control socket and the pipes: greetings, welcomes, frames, requests, answers."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import Any

from shoal.primitives.rules.registry import OPERATIONS
from shoal.shm import codec, limits
from shoal.shm.errors import CASConflictError, ConflictError, LimitExceededError, NotFoundError, ShoalError
from shoal.shm.wire import answer as wire_answer
from shoal.shm.wire import handshake, wire_errors
from shoal.shm.wire import request as wire_request
from shoal.shm.wire.frames import LENGTH_BYTES, MAX_FRAME_BYTES, FrameBuffer, FrameError, frame
from shoal.shm.wire.request import CommitSet
from shoal.workers.shared_memory.connection import StoreConnection
from tests.fuzz.target import encoded, part, parts_of, script, target, word

_LENGTH = struct.Struct("<I")


def _hello_seeds() -> list[bytes]:
    return [
        script(handshake.PROTOCOL_VERSION, 77, 4711, None, None, 5, None),
        script(handshake.PROTOCOL_VERSION, 77, 4711, None, None, 5, None, 64),
        script(handshake.PROTOCOL_VERSION, 2**62, 1, "strict", 64 << 20, 2**62, bytes(16)),
        handshake.encode_hello(handshake.Hello(handshake.PROTOCOL_VERSION, 1, 1, "memory", 8 << 20)),
    ]


@target(_hello_seeds)
def hello(data: bytes) -> None:
    """A greeting is one of the right version and types, or FrameError."""
    messages = [data]
    if parts_of(data) is None:
        with contextlib.suppress(FrameError):
            messages = FrameBuffer().feed(data)
    for message in messages:
        try:
            said = handshake.decode_hello(message)
        except FrameError:
            continue
        assert said.protocol == handshake.PROTOCOL_VERSION
        assert type(said.client_id) is int
        assert 0 < said.client_id < 2**64
        assert type(said.pid) is int
        assert said.durability is None or type(said.durability) is str
        assert said.max_bytes is None or type(said.max_bytes) is int
        assert handshake.decode_hello(handshake.encode_hello(said)[LENGTH_BYTES:]) == said


def _welcome_seeds() -> list[bytes]:
    refusal = ["ConfigurationError", ["the store is being served otherwise"]]
    return [
        script(4, [None, "buffered", 3, bytes(16)]),
        script(0, [refusal]),
        script(4, frame(codec.pack([None, "memory", 1, b"s" * 16]))),
    ]


@target(_welcome_seeds)
def welcome(data: bytes) -> None:
    """What a client is answered at the door attaches it, or is ShoalError or EOFError; no descriptor is left open."""
    parts = parts_of(data) or [4, data]
    answer = part(parts, 1, bytes, None)
    if answer is None:
        answer = frame(encoded(parts[1] if len(parts) > 1 else None))
    mine, other = socket.socketpair()
    given = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(word(parts, 0) % 7)]
    with mine, other:
        mine.settimeout(5)
        if given:
            socket.send_fds(other, [answer[:1] or b"\0"], given)
            answer = answer[1:]
        other.sendall(answer[:100_000])
        other.close()
        before = set(os.listdir("/proc/self/fd"))
        try:
            found = handshake.receive_welcome(mine)
        except (ShoalError, EOFError):
            pass
        else:
            assert type(found.durability) is str
            assert type(found.generation) is int
            assert type(found.store_id) is bytes
            for fd in found.descriptors:
                os.close(fd)
        assert set(os.listdir("/proc/self/fd")) == before, "descriptors are left open"
    for fd in given:
        os.close(fd)


def _frames_seeds() -> list[bytes]:
    stream = frame(b"") + frame(b"x" * 100) + frame(b"yz")
    return [
        script([1, 3, 5], stream),
        script([], stream),
        script([4], _LENGTH.pack(2**32 - 1)),
        script([9], stream[:40]),
    ]


@target(_frames_seeds)
def frames(data: bytes) -> None:
    """Messages come out as they went in, whatever the pieces; a length over the limit is FrameError."""
    parts = parts_of(data) or [[], data]
    sizes = [size % 97 for size in part(parts, 0, list, []) if type(size) is int] or [len(data) + 1]
    stream = part(parts, 1, bytes, b"")
    expected, is_refused, rest = _messages_in(stream)
    buffer = FrameBuffer()
    found: list[bytes] = []
    position = turn = 0
    refused = False
    while position < len(stream) and not refused:
        piece = stream[position : position + max(1, sizes[turn % len(sizes)])]
        position, turn = position + len(piece), turn + 1
        try:
            found += buffer.feed(piece)
        except FrameError:
            refused = True
        held = sum(map(len, buffer._pieces))
        assert held <= len(stream)
        assert 0 < buffer.wanted_bytes <= limits.MIB, "what is asked for does not grow with what is announced"
    # A refused piece takes the whole messages in it along: the other side is shown out with them.
    assert refused == is_refused
    assert found == expected if not refused else found == expected[: len(found)]
    assert refused or sum(map(len, buffer._pieces)) == rest


def _messages_in(stream: bytes) -> tuple[list[bytes], bool, int]:
    messages: list[bytes] = []
    while len(stream) >= LENGTH_BYTES:
        (length,) = _LENGTH.unpack_from(stream)
        if length > MAX_FRAME_BYTES:
            return messages, True, 0
        if len(stream) < LENGTH_BYTES + length:
            break
        messages.append(stream[LENGTH_BYTES : LENGTH_BYTES + length])
        stream = stream[LENGTH_BYTES + length :]
    return messages, False, len(stream)


def _request_seeds() -> list[bytes]:
    writes = [b"\1t\1a\1g\1r\1k", codec.encode(5), 0, b"gone", None, 0, b"later", b"\xc0", 2**40]
    return [
        script(1, 0, 0, b"", [writes, None, None, None]),
        script(2, 7, 2**40, [[b"key", b"other"], [[b"a", b"b"]]], [[], [b"a", b"b"], None, None]),
        script(3, 0, 0, b"", [[], None, [["increment", [b"n", 5]], ["delete", [b"k"]]], None]),
        script(4, 0, 0, b"", [[], None, None, ["check", [1, "blocks", 7]]]),
    ]


def request_bytes(parts: list[Any]) -> bytes:
    """A request of these parts: its three numbers, reads and mutations, either as bytes or as what is to be encoded."""
    reads, mutations = (encoded(parts[i]) if i < len(parts) else b"" for i in (3, 4))
    return wire_request.encode_request(word(parts, 0), word(parts, 1), word(parts, 2), reads, mutations)


@target(_request_seeds)
def request(data: bytes) -> None:
    """A request is a commit set, every part of it of the promised type and within its limit, or FrameError."""
    parts = parts_of(data)
    try:
        found = wire_request.decode_request(data if parts is None else request_bytes(parts), OPERATIONS)
    except FrameError:
        return
    check_commit_set(found)


def check_commit_set(found: CommitSet) -> None:
    """What the engine relies on without looking again."""

    def is_key(key: Any) -> bool:
        return type(key) is bytes and 0 < len(key) <= limits.MAX_ENGINE_KEY_BYTES

    parts: tuple[Any, ...] = (found.keys_read, found.ranges_read, found.writes, found.clears, found.operations)
    assert all(type(part) is list for part in parts)
    assert all(map(is_key, found.keys_read))
    for lower, upper in (*found.ranges_read, *found.clears):
        assert type(lower) is type(upper) is bytes
        assert len(lower) <= limits.MAX_ENGINE_KEY_BYTES >= len(upper)
    for key, value, expires_ms in wire_request.triples(found.writes):
        assert is_key(key)
        assert value is None or (type(value) is bytes and len(value) <= limits.MAX_ENCODED_VALUE_BYTES)
        assert type(expires_ms) is int
        assert 0 <= expires_ms < 2**63
    keys = found.writes[::3]
    assert len(set(keys)) == len(keys), "a key stands in the writes twice"
    for name, arguments in found.operations:
        assert name in OPERATIONS
        assert type(arguments) is list
    if found.control is not None:
        assert type(found.control[0]) is str


def _answer_seeds() -> list[bytes]:
    def seed(commit_id: int, status: int, version: int, details: Any) -> bytes:
        return script(commit_id, status, version, codec.pack(details))

    errors: list[Exception] = [
        LimitExceededError("size of the counter", 2**64 - 1, 2**70),
        NotFoundError("cell 'x' does not exist"),
        CASConflictError("x", 1, 2),
        TypeError("increment found a value of type str"),
    ]
    return [
        script(1, 0, 7, b""),
        seed(1, 0, 7, [1, None, [[0, b"\0" * 32]]]),
        seed(1, 1, 0, [b"key", 3, 4]),
        seed(1, 3, 0, ["key b'x' has no version"]),
        *(seed(1, 2, 0, wire_errors.error_parts(error)) for error in errors),
    ]


class _Answered(StoreConnection):
    """A connection that is answered without being asked: what follows is the client's own code."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self.timeout_s = 1.0

    def _exchange(self, *_request: Any) -> tuple[int, int, Any]:
        _, status, version, details = wire_answer.decode_answer(self._message)
        return status, version, details


@target(_answer_seeds)
def answer(data: bytes) -> None:
    """What a client is answered is a version and results, or raised: ShoalError, TypeError, ValueError, FrameError."""
    parts = parts_of(data)
    message = data
    if parts is not None:
        details = encoded(parts[3]) if len(parts) > 3 else b""
        message = struct.pack("<QQQ", word(parts, 0), word(parts, 1), word(parts, 2)) + details
    connection = _Answered(message)
    try:
        version, _ = connection.submit(0, 0, b"", b"")
        assert type(version) is int
    except ConflictError as error:
        str(error)
    except (ShoalError, TypeError, ValueError, FrameError) as error:
        str(error)

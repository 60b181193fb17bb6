"""Requests, answers, handshakes and errors on the wire: as their diagrams say, and refused when they are not."""

from __future__ import annotations

import math
import os
import resource
import socket
import struct
from typing import Any

import msgpack
import pytest

import shoal
from shoal.shm.errors import ConfigurationError
from shoal.shm.host import descriptors
from shoal.shm.limits import MAX_ENGINE_KEY_BYTES, MAX_PIPELINE_DEPTH
from shoal.shm.wire import answer, handshake, request, wire_errors
from shoal.shm.wire.frames import FrameError, frame
from shoal.shm.wire.handshake import PROTOCOL_VERSION, Hello, Welcome
from shoal.shm.wire.pipe_messages import wait_ready

KNOWN = {"increment"}


class TestRequest:
    def test_it_is_as_the_diagram_says(self) -> None:
        """Every field put together by hand is decoded to what it stands for."""
        reads = msgpack.packb([[b"k"], [[b"a", b"b"]]])
        mutations = msgpack.packb([[b"w", b"v", 9, b"x", None, 0], [b"c", b"d"], [["increment", [b"n", 1]]], None])
        made = request.decode_request(struct.pack("<QQQI", 5, 6, 7, len(reads)) + reads + mutations, KNOWN)
        operations: Any = [["increment", [b"n", 1]]]  # lists, as msgpack decodes them
        assert made == request.CommitSet(
            5,
            6,
            7,
            [b"k"],
            [(b"a", b"b")],
            [b"w", b"v", 9, b"x", None, 0],
            [(b"c", b"d")],
            operations,
            None,
            mutations,
        )

    def test_a_round_trip(self) -> None:
        """What the client encodes is what the coordinator decodes; without reads none are sent."""
        mutations = request.encode_mutations([b"k", b"v", 0])
        message = request.encode_request(1, 0, 0, request.encode_reads([], []), mutations)
        assert message == struct.pack("<QQQI", 1, 0, 0, 0) + mutations
        made = request.decode_request(message, KNOWN)
        assert len(message) == request.HEADER_BYTES + len(mutations)
        assert (made.keys_read, made.ranges_read, made.writes, made.control) == ([], [], [b"k", b"v", 0], None)
        assert request.framed_request(1, 0, 0, b"", mutations) == frame(message)
        control = request.encode_mutations([], control=("check", [1]))
        assert request.decode_request(request.encode_request(1, 0, 0, b"", control), KNOWN).control == ("check", [1])

    @pytest.mark.parametrize(
        "mutations",
        [
            [[b"k", b"v"], None, None, None],
            [[b"", b"v", 0], None, None, None],
            [[b"k" * (MAX_ENGINE_KEY_BYTES + 1), b"v", 0], None, None, None],
            [["k", b"v", 0], None, None, None],
            [[b"k", "v", 0], None, None, None],
            [[b"k", b"v", -1], None, None, None],
            [[b"k", b"v", 0, b"k", b"w", 0], None, None, None],
            [[], [b"a"], None, None],
            [[], [b"a", 3], None, None],
            [[], None, [["unknown", [b"k"]]], None],
            [[], None, [["increment", []]], None],
            [[], None, [["increment", [3]]], None],
            [[], None, None, ["check"]],
            [[], None, None],
            3,
        ],
    )
    def test_what_no_client_sends(self, mutations: Any) -> None:
        """Any part of a wrong form is FrameError."""
        message = request.encode_request(1, 0, 0, b"", msgpack.packb(mutations))
        with pytest.raises(FrameError, match="not a commit set"):
            request.decode_request(message, KNOWN)

    def test_a_message_that_is_cut(self) -> None:
        """Cut anywhere, it is FrameError."""
        reads = request.encode_reads([b"k"], [])
        message = request.encode_request(1, 0, 0, reads, request.encode_mutations([b"k", b"v", 0]))
        for end in range(len(message)):
            with pytest.raises(FrameError):
                request.decode_request(message[:end], KNOWN)


class TestAnswer:
    @pytest.mark.parametrize(
        ("status", "version", "details"),
        [
            (answer.COMMITTED, 7, []),
            (answer.COMMITTED, 7, [1, None, b"x"]),
            (answer.CONFLICT, 0, [b"key", 3, 4]),
            (answer.REFUSED, 0, ["StoreFullError", ["text"]]),
            (answer.ANSWERED, 0, [1]),
        ],
    )
    def test_a_round_trip(self, status: Any, version: int, details: Any) -> None:
        """Id, status, version and details come back, behind the length of the frame."""
        sent = answer.encode_answer(5, status, version, details)
        assert struct.unpack_from("<IQQQ", sent) == (len(sent) - 4, 5, status, version)
        assert answer.decode_answer(sent[4:]) == (5, status, version, details)

    @pytest.mark.parametrize("message", [b"", bytes(23), struct.pack("<QQQ", 1, 9, 0), bytes(24) + b"\xc1"])
    def test_what_no_coordinator_sends(self, message: Any) -> None:
        """A short message, an unknown status or details that are no msgpack are FrameError."""
        with pytest.raises(FrameError):
            answer.decode_answer(message)

    def test_without_memory_to_decode(self) -> None:
        """The answer names the request it is for, and is a StoreFullError."""
        message = answer.no_memory_answer(struct.pack("<Q", 77) + bytes(100))
        commit_id, status, _, details = answer.decode_answer(message[4:])
        assert (commit_id, status) == (77, answer.REFUSED)
        assert isinstance(wire_errors.error_from(*details), shoal.StoreFullError)


class TestErrors:
    @pytest.mark.parametrize(
        "error",
        [
            shoal.ConflictError("key", 1, 2),
            shoal.LimitExceededError("size", 10, 10**30),
            shoal.StoreMovedError("/store", True),
            ValueError("text"),
        ],
    )
    def test_a_round_trip(self, error: Exception) -> None:
        """Class and text come back; a number beyond 64 bits as well."""
        name, arguments = wire_errors.error_parts(error)
        back = wire_errors.error_from(name, msgpack.unpackb(msgpack.packb(arguments)))
        assert (type(back), str(back)) == (type(error), str(error))

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [("KeyError", []), ("SystemExit", []), ("ConflictError", []), ("CorruptionError", [1]), ("ValueError", 3)],
    )
    def test_what_no_coordinator_sends(self, name: str, arguments: Any) -> None:
        """An unknown class, or arguments that do not fit, are FrameError."""
        with pytest.raises(FrameError):
            wire_errors.error_from(name, arguments)


class TestHandshake:
    HELLO = Hello(PROTOCOL_VERSION, 5, 1234, "strict", 16 << 20, 9, bytes(16))

    def test_hello(self) -> None:
        """It comes back as it was sent, with and without options."""
        for hello in (self.HELLO, Hello(PROTOCOL_VERSION, 5, 1234, None, None), self.HELLO._replace(depth=64)):
            assert handshake.decode_hello(handshake.encode_hello(hello)[4:]) == hello

    @pytest.mark.parametrize(
        "wrong",
        [
            {"protocol": PROTOCOL_VERSION + 1},
            {"protocol": "2"},
            {"client_id": 0},
            {"pid": None},
            {"durability": 3},
            {"max_bytes": "1"},
            {"store_id": "text"},
            {"depth": None},
            {"depth": 0},
            {"depth": MAX_PIPELINE_DEPTH + 1},
            {"client_id": 2**64 - 2, "depth": 2},
        ],
    )
    def test_a_hello_of_another_kind(self, wrong: Any) -> None:
        """Another protocol, or a field of another type, is FrameError."""
        with pytest.raises(FrameError):
            handshake.decode_hello(handshake.encode_hello(self.HELLO._replace(**wrong))[4:])

    def test_welcome(self) -> None:
        """It brings four descriptors, close-on-exec and above 2, which are those that were sent."""
        ours, theirs = socket.socketpair()
        pipes = [descriptors.pipe() for _ in range(2)]
        fds = [fd for pair in pipes for fd in pair]
        with ours, theirs:
            handshake.send_welcome(ours, Welcome("strict", 7, bytes(16), *fds))
            welcome = handshake.receive_welcome(theirs)
        assert (welcome.durability, welcome.generation, welcome.store_id) == ("strict", 7, bytes(16))
        assert [os.fstat(fd).st_ino for fd in welcome.descriptors] == [os.fstat(fd).st_ino for fd in fds]
        assert all(fd > 2 and not os.get_inheritable(fd) for fd in welcome.descriptors)
        for fd in (*fds, *welcome.descriptors):
            os.close(fd)

    def test_a_welcome_that_does_not_fit(self) -> None:
        """A client that may not have so many descriptors is told that, and has no more of them than before."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            handshake.send_welcome(ours, Welcome("strict", 7, bytes(16), *[ours.fileno()] * 4))
            lowest = os.dup(ours.fileno())
            os.close(lowest)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 2, hard))
            try:
                with pytest.raises(OSError, match="Too many open files"):
                    handshake.receive_welcome(theirs)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert os.dup(ours.fileno()) == lowest
            os.close(lowest)

    def test_refusal(self) -> None:
        """The client raises the error that the coordinator sends."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            handshake.send_refusal(ours, ConfigurationError("a reason"))
            with pytest.raises(ConfigurationError, match="a reason"):
                handshake.receive_welcome(theirs)

    @pytest.mark.parametrize("body", [[None, "strict", 7, bytes(16)], [["KeyError", []]], [["ValueError", ["x"]]], 3])
    def test_what_no_coordinator_sends(self, body: Any) -> None:
        """A welcome without descriptors, an unknown error or anything else is ConfigurationError."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(frame(msgpack.packb(body)))
            with pytest.raises(ConfigurationError, match="run the same version of shoal"):
                handshake.receive_welcome(theirs)

    def test_a_coordinator_that_goes_away(self) -> None:
        """The end of the connection is EOFError."""
        ours, theirs = socket.socketpair()
        with theirs:
            ours.close()
            with pytest.raises(EOFError):
                handshake.receive_welcome(theirs)


class _NeverReady:
    """A poller that finds something at its third call, and notes how long it may sleep."""

    def __init__(self) -> None:
        self.asked_ms: list[float] = []

    def poll(self, timeout_ms: float) -> list[int]:
        self.asked_ms.append(timeout_ms)
        return [7] * (len(self.asked_ms) == 3)


def test_no_sleep_is_long() -> None:
    """A signal that comes right before a sleep does not end it, so its handler must not have to wait for ever."""
    poller = _NeverReady()
    wait_ready(poller, math.inf)
    assert len(poller.asked_ms) == 3
    assert max(poller.asked_ms) <= 5_000

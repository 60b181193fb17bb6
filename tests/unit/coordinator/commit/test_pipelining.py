"""Commits of a pipelined client: outcomes that outlive a coordinator, and what a full store refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.commit.pipelining import Pipeline
from shoal.coordinator.host import THIS_MACHINE
from shoal.coordinator.log.writer import WalWriter
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.recovery.recover import recover
from shoal.primitives.rules import registry as operations
from shoal.shm.errors import StoreFullError
from shoal.shm.files.storage import DiskStorage
from shoal.shm.limits import Limits
from shoal.shm.memory.segment import Segment
from shoal.shm.wire import request as wire_request
from shoal.shm.wire.answer import COMMITTED, REFUSED, decode_answer
from shoal.shm.wire.frames import LENGTH_BYTES, FrameError
from shoal.shm.wire.request import CommitSet, decode_request, encode_mutations

CLIENT, DEPTH = 1_000, 8
INCREMENT, DELETE = operations.INCREMENT, operations.DELETE


class Coordinator:
    """A commit engine over the log in a directory, recovered from what is there, with one pipelined client."""

    def __init__(self, directory: Path, bounds: Limits | None = None) -> None:
        limits = bounds or Limits()
        storage = DiskStorage(directory)
        self.writer = Writer(Segment.create(16 << 20, 1))
        reclaimer = Reclaimer(self.writer, list)
        found = recover(storage, self.writer, reclaimer, limits=limits)
        self.log = WalWriter(storage, found.next_log_number, found.version, bytes(16))
        self.engine = CommitEngine(
            *(self.writer, reclaimer, found.window, self.log, THIS_MACHINE, found.version, found.sessions, False),
            operations.TABLE,
        )
        self.pipeline = Pipeline(self.engine, CLIENT, DEPTH)

    def send(self, *requests: CommitSet) -> list[tuple[int, int, Any]]:
        answers = self.pipeline.submit(list(requests), lambda _: None)
        self.engine.finish_group()
        return [(told[0], told[1], told[3]) for told in (decode_answer(each[LENGTH_BYTES:]) for each in answers)]

    def value(self, key: bytes) -> bytes | None:
        found = self.writer.newest(key, 0)
        return None if found is None else found.value


def operation(commit_id: int, name: str, *arguments: Any, answered: int = 0) -> CommitSet:
    return _request(commit_id, encode_mutations([], None, [(name, list(arguments))]), answered)


def put(commit_id: int, key: bytes, value: bytes, answered: int = 0) -> CommitSet:
    return _request(commit_id, encode_mutations([key, value, 0]), answered)


def _request(commit_id: int, mutations: bytes, answered: int, reads: bytes = b"") -> CommitSet:
    raw = wire_request.encode_request(commit_id, answered, 0, reads, mutations)
    return decode_request(raw, operations.TABLE.rules)


ORDER = [
    operation(1, DELETE, b"a"),  # not there
    put(2, b"a", b"\xa1x"),
    operation(3, INCREMENT, b"a", 1),  # no integer
    operation(4, DELETE, b"a"),
    operation(5, INCREMENT, b"a", 1),
    operation(6, DELETE, b"b"),  # not there
    put(7, b"b", b"\x01"),
    operation(8, INCREMENT, b"a", 1),
]


@pytest.mark.parametrize("done", range(len(ORDER) + 1))
def test_what_is_sent_again_is_told_again(tmp_path: Path, done: int) -> None:
    """After a death, wherever it came, the answers are those of one coordinator that did all; nothing is done twice.

    So are those of commits that changed nothing: if these were decided again, they would find what came after them.
    """
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = Coordinator(tmp_path / "whole")
    expected = whole.send(*ORDER)
    assert [status for _, status, _ in expected].count(REFUSED) == 1
    assert expected[0] == (1, COMMITTED, [False])
    first = Coordinator(tmp_path / "killed")
    assert first.send(*ORDER[:done]) == expected[:done]
    second = Coordinator(tmp_path / "killed")
    version = second.engine.version
    assert version == done
    assert second.send(*ORDER[:done]) == expected[:done]
    assert second.engine.version == version
    assert second.send(*ORDER) == expected
    assert (second.value(b"a"), second.value(b"b")) == (whole.value(b"a"), whole.value(b"b")) == (b"\x02", b"\x01")


def test_slots_are_used_again(tmp_path: Path) -> None:
    """Many times more commits than the depth: the last ``depth`` of them are told again, and no more is kept."""
    coordinator = Coordinator(tmp_path)
    for start in range(1, 100, DEPTH):
        coordinator.send(*[operation(n, INCREMENT, b"n", 1, answered=start - 1) for n in range(start, start + DEPTH)])
    last = [operation(n, INCREMENT, b"n", 1) for n in range(start, start + DEPTH)]
    again = Coordinator(tmp_path)
    assert [details for _, _, details in again.send(*last)] == [[n] for n in range(start, start + DEPTH)]
    assert len(again.engine.sessions) == DEPTH
    again.engine.forget_client(CLIENT, DEPTH)
    assert not again.engine.sessions


@pytest.mark.plain  # it replaces a method of the writer
def test_a_full_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit refused for lack of room leaves nothing; none that was sent before that was known is done behind it.

    The refused one may be sent again after a death, and then be done.
    """
    coordinator = Coordinator(tmp_path)
    is_full = True
    plan = coordinator.writer.plan

    def plan_if_room(writes: Any, *more: Any, fits: bool = False) -> Any:
        if is_full and writes and writes[0] == b"large":
            raise StoreFullError("full")
        return plan(writes, *more)

    monkeypatch.setattr(coordinator.writer, "plan", plan_if_room)
    sent = [put(1, b"a", b"\x01"), put(2, b"large", b"\x02"), put(3, b"b", b"\x03"), operation(4, DELETE, b"none")]
    assert [status for _, status, _ in coordinator.send(*sent)] == [COMMITTED, REFUSED, REFUSED, REFUSED]
    told = coordinator.send(put(5, b"b", b"\x04", answered=1))
    assert [(told[0][1], told[0][2][0])] == [(REFUSED, "StoreFullError")]
    assert coordinator.value(b"b") is None
    assert coordinator.send(put(6, b"b", b"\x05", answered=4))[0][1] == REFUSED  # the fifth may still come again
    assert coordinator.send(put(7, b"b", b"\x06", answered=6))[0][1] == COMMITTED
    again = Coordinator(tmp_path)
    assert again.engine.sessions.keys() == {CLIENT + 1, CLIENT + 7}


@pytest.mark.plain  # it replaces a method of the engine
def test_no_room_to_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that changes nothing, and whose outcome finds no room in the log, is refused as any without room."""
    coordinator = Coordinator(tmp_path)

    def has_no_room(*_: Any) -> None:
        raise StoreFullError("full")

    with monkeypatch.context() as patch:
        patch.setattr(coordinator.engine, "note", has_no_room)
        told = coordinator.send(operation(1, DELETE, b"a"), put(2, b"a", b"\x01"))
        assert [(status, details[0]) for _, status, details in told] == [(REFUSED, "StoreFullError")] * 2
    again = Coordinator(tmp_path)
    told = again.send(operation(1, DELETE, b"a"), put(2, b"a", b"\x01"))
    assert told == [(1, COMMITTED, [False]), (2, COMMITTED, [])]


def test_appends_that_follow_each_other_are_one_commit(tmp_path: Path) -> None:
    """They are answered one by one, also after a death; a bad one among them is refused alone."""
    coordinator = Coordinator(tmp_path)
    good = ["xxh3", [["step", b"\xc0"]]]
    appends = [operation(n, operations.EVENT_APPEND, b"log\0", *good) for n in range(1, 7)]
    expected = coordinator.send(*appends)
    assert [details[0][0][0] for _, _, details in expected] == list(range(6))
    assert coordinator.engine.version == 1
    again = Coordinator(tmp_path)
    assert again.send(*appends[2:]) == expected[2:]
    bad = operation(8, operations.EVENT_APPEND, b"log\0", 5)
    after = [operation(n, operations.EVENT_APPEND, b"log\0", *good, answered=6) for n in (7, 9)]
    told = again.send(after[0], bad, after[1])
    assert [status for _, status, _ in told] == [COMMITTED, REFUSED, COMMITTED]
    assert Coordinator(tmp_path).send(after[0], bad, after[1]) == told


@pytest.mark.parametrize(
    "request_",
    [
        _request(1, encode_mutations([], None, None, ("check", [0, "begin", 0])), 0),
        _request(1, encode_mutations([b"k", b"\x01", 0]), 0, wire_request.encode_reads([b"k"], [])),
        _request(1, encode_mutations([], None, [(INCREMENT, [b"a", 1]), (INCREMENT, [b"b", 1])]), 0),
    ],
)
def test_what_no_pipeline_sends(tmp_path: Path, request_: CommitSet) -> None:
    """Reads, control requests and several operations are refused as nonsense, and nothing of it is done."""
    coordinator = Coordinator(tmp_path)
    with pytest.raises(FrameError):
        coordinator.send(put(1, b"a", b"\x01"), request_)
    assert coordinator.engine.version == 0

"""What goes wrong while a commit is done: a request's own fault is its client's affair, all else ends the coordinator.

After it nothing is acknowledged that is not in the log, and the next coordinator has exactly what was acknowledged,
and what was in flight done once or not at all.
"""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.coordinator.commit.reading import BrokenStoreError
from shoal.coordinator.log import format as wal_format
from shoal.primitives.rules import registry as operations
from shoal.primitives.rules.event_rules import Appending
from shoal.shm.errors import StoreFullError
from shoal.shm.wire import answer as wire_answer
from shoal.shm.wire import request as wire_request
from shoal.shm.wire.answer import COMMITTED, REFUSED
from shoal.shm.wire.frames import frame
from tests.faults.disk import failing_coordinator
from tests.mutants.catching import rig as rigs
from tests.mutants.catching.rig import Disk, Rig, request
from tests.support.raw_client import assert_unharmed, send_and_hear
from tests.support.repository import ROOT
from tests.support.slow import slow

RUN = "run"
TIMEOUT_S = 20.0
LOG_KEY = b"log\0"


@pytest.fixture
def rig() -> Iterator[Rig]:
    """An engine with one commit in its log."""
    boot_id = wal_format.boot_id
    made = Rig(Disk())
    made.put(1, first="1")
    yield made
    wal_format.boot_id = boot_id
    while rigs.opened:
        rigs.opened.pop().close_descriptor()


def increment(commit_id: int) -> wire_request.CommitSet:
    return request(commit_id, operations=[[operations.INCREMENT, [b"count", 1]]])


def append(commit_id: int) -> wire_request.CommitSet:
    return request(commit_id, operations=[[operations.EVENT_APPEND, [LOG_KEY, "xxh3", [["step", b"\xc0"]]]]])


def put(commit_id: int) -> wire_request.CommitSet:
    return request(commit_id, [b"key", b"\x01", 0])


KINDS: dict[str, Callable[[int], list[tuple[int, wire_request.CommitSet]]]] = {
    "put": lambda n: [(2, put(n))],
    "operation": lambda n: [(2, increment(n))],
    "batch of one": lambda n: [(2, append(n))],
    "batch": lambda n: [(2, append(n)), (3, append(n))],
    "mixed": lambda n: [(2, append(n)), (3, put(n)), (4, append(n)), (5, increment(n))],
}
all_kinds = pytest.mark.parametrize("kind", KINDS)


def _state(rig: Rig) -> dict[bytes, bytes]:
    return {key: found.value for key, found in rig.reader.scan(b"", None, rig.published)}


def _raise(error: BaseException) -> Callable[..., Any]:
    def failing(*_arguments: Any, **_options: Any) -> Any:
        raise error

    return failing


@pytest.mark.plain  # it replaces methods of compiled classes
@all_kinds
@pytest.mark.parametrize(
    "place",
    [("writer", "apply"), ("log", "append"), ("log", "sync"), ("writer", "publish"), ("writer", "end_group")],
    ids=lambda place: place[1],
)
@pytest.mark.parametrize(
    "error",
    [OSError(errno.EIO, "no"), ValueError("no"), *slow(AssertionError("no"), IndexError("no"), TypeError("no"))],
    ids=lambda error: type(error).__name__,
)
def test_what_is_done_fails(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, kind: str, place: tuple[str, str], error: Exception
) -> None:
    """The exception leaves the engine, whatever kind of commit it hits; no answer, nothing published, log whole."""
    before = rig.published
    monkeypatch.setattr(getattr(rig, place[0]), place[1], _raise(error))
    with pytest.raises(type(error), match="no"):
        rig.submit(*KINDS[kind](7))
    assert rig.published == before
    monkeypatch.undo()
    after = Rig(rig.disk.after_kill())
    assert _state(after)[b"first"] == b"1"
    assert rigs.sound(after) == []


@pytest.mark.plain  # it replaces methods of compiled classes
@all_kinds
def test_the_disk_fails_while_room_is_made(rig: Rig, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A commit that finds no room has the group finished first: a sync that fails there is final, and nobody's fault.

    It is not taken for the commit's own error, and nothing is tried again as if nothing had happened.
    """
    answers = rig.engine.submit_together([(9, request(1, [b"earlier", b"\x01", 0]))])  # of the same group
    assert len(answers) == 1
    before = rig.published
    monkeypatch.setattr(rig.writer, "plan", _raise(StoreFullError("no room")))
    syncs: list[int] = []

    def failing() -> None:
        syncs.append(1)
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(rig.log, "sync", failing)
    with pytest.raises(OSError, match="no"):
        rig.submit(*KINDS[kind](7))
    assert len(syncs) == 1
    assert rig.published == before


@pytest.mark.plain  # it replaces methods of compiled classes
@all_kinds
def test_reclaiming_fails_while_room_is_made(rig: Rig, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """StoreFullError out of finishing a group or of reclaiming is not that of the commit which waits for room."""
    for place, name in ((rig.reclaimer, "step"), (rig.writer, "end_group")):
        with monkeypatch.context() as patch:
            rig.engine.submit_together([(9, request(rig.engine.version + 1, [b"earlier", b"\x01", 0]))])
            patch.setattr(rig.writer, "plan", _raise(StoreFullError("no room")))
            patch.setattr(place, name, _raise(StoreFullError("no room for the index")))
            with pytest.raises(AssertionError, match="room kept"):
                rig.submit(*KINDS[kind](7))


@pytest.mark.plain  # it replaces methods of compiled classes
@all_kinds
def test_no_room(rig: Rig, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A commit there is no room for, in memory or on the disk, is refused; the group's others stand; all goes on."""
    for place, name in ((rig.writer, "plan"), (rig.log, "reserve"), (rig.writer.heap, "allocate")):
        with monkeypatch.context() as patch:
            earlier = rig.engine.submit_together([(9, request(rig.engine.version + 1, [b"earlier", b"\x01", 0]))])
            patch.setattr(rig.log, "has_room", lambda _bytes: False)
            patch.setattr(place, name, _raise(StoreFullError("no room")))
            answers = rig.submit(*KINDS[kind](7))
            assert {status for _, status, *_ in answers} == {REFUSED}
            assert wire_answer.decode_answer(earlier[0][4:])[1] == COMMITTED
    assert {status for _, status, *_ in rig.submit(*KINDS[kind](7))} == {COMMITTED}
    assert rigs.sound(rig) == []


@pytest.mark.plain  # it replaces methods of compiled classes
def test_no_room_in_the_midst_of_a_commit(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """StoreFullError after half of a commit was written is a broken invariant; nobody is told that nothing was done."""
    monkeypatch.setattr(rig.writer.hash_index, "insert", _raise(StoreFullError("no room for a bucket")))
    with pytest.raises(AssertionError, match="planned"):
        rig.submit((2, put(7)))


@pytest.mark.plain  # it replaces methods of compiled classes
@pytest.mark.parametrize("kind", ["operation", "batch of one", "batch", "mixed"])
def test_the_store_cannot_be_read(rig: Rig, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """An exception out of the segment while a commit is decided is not its client's fault."""
    monkeypatch.setattr(rig.writer.hash_index, "find", _raise(IndexError("index out of bounds")))
    error = IndexError if kind == "mixed" else BrokenStoreError  # a mixed group is planned first, outside a decision
    with pytest.raises(error, match="index out of bounds"):
        rig.submit(*KINDS[kind](7))


@pytest.mark.plain  # it replaces what compiled modules call in C
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "StoreFullError"),
        (RecursionError("too deep"), "ValueError"),
        (IndexError("list index out of range"), "ValueError"),
        (AssertionError(), "ValueError"),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), "ValueError"),
        (TypeError("no number"), "TypeError"),
        (StoreFullError("said an operation"), "StoreFullError"),
    ],
    ids=repr,
)
def test_a_decision_fails(rig: Rig, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str) -> None:
    """Whatever a decision stumbles over is told to its client alone; nothing of it is applied, others are served."""
    before, version = _state(rig), rig.engine.version
    with monkeypatch.context() as patch:
        patch.setitem(operations.OPERATIONS, operations.INCREMENT, _raise(error))
        patch.setattr(Appending, "add", _raise(error))
        patch.setitem(operations.BATCHED, operations.EVENT_APPEND, Appending)
        for kind in ("operation", "batch of one", "batch"):
            for _, status, _, details in rig.submit(*KINDS[kind](7)):
                assert (status, details[0]) == (REFUSED, told)
        assert rig.engine.version == version
        assert _state(rig) == before
        assert [status for _, status, *_ in rig.submit((2, increment(8)), (3, put(8)))] == [REFUSED, COMMITTED]
    for kind in KINDS:
        assert {status for _, status, *_ in rig.submit(*KINDS[kind](9))} == {COMMITTED}
    assert rigs.sound(rig) == []


@pytest.mark.parametrize("key", [["nested"], {}, None, 7, "text", b""], ids=repr)
def test_an_operation_that_reads_no_key(rig: Rig, key: Any) -> None:
    """What an operation is asked to read may be anything: it is refused, as any argument that makes no sense."""
    arguments = [b"new", "it is there", [key, "missing"], [b"new", b"\x01"]]
    _, status, _, details = rig.submit((2, request(7, operations=[[operations.INSERT, arguments]])))[0]
    assert status == REFUSED
    assert details[0] == ("NotFoundError" if key == b"" else "TypeError")


@pytest.mark.plain
def test_no_room_for_a_version_in_between(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The empty version that reclaiming waits for is made later if the disk is full: nothing else depends on it."""
    with monkeypatch.context() as patch:
        patch.setattr(rig.log, "has_room", lambda _bytes: False)
        patch.setattr(rig.log, "reserve", _raise(StoreFullError("no room")))
        assert rig.engine.make_version() is False
    assert rig.engine.make_version() is True


@contextmanager
def _failing(path: Path, durability: str, fault: str, at: int) -> Iterator[subprocess.Popen[bytes]]:
    """A coordinator that fails; it serves."""
    command = [sys.executable, "-m", failing_coordinator.__name__, str(path), durability, fault, str(at)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as coordinator:
        assert coordinator.stdout is not None
        try:
            assert coordinator.stdout.readline() == b"serving\n"
            yield coordinator
        finally:
            coordinator.kill()


FAILING = ["sync", "append", "apply", "mapping", "publish", "end group", "read"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("durability", "fault"),
    [
        *(("strict", fault) for fault in FAILING[:3]),
        *(("buffered", fault) for fault in FAILING[:1]),
        *slow(*(("strict", fault) for fault in FAILING[3:]), *(("buffered", fault) for fault in FAILING[1:])),
    ],
)
def test_a_coordinator_that_fails(store: Path, durability: str, fault: str) -> None:
    """It ends with code 1 and its reason in ``coordinator.log``; its client goes on with the next one, nothing lost.

    What was in flight is done exactly once.
    """
    with _failing(store, durability, fault, 5) as coordinator, shoal.open(store, linger=0.2) as db:
        assert db.info().coordinator_pid == coordinator.pid
        kv, log = shoal.KVStore(db), shoal.EventLog(db)
        for n in range(12):
            kv.put(RUN, f"key {n}", n)
            assert kv.increment(RUN, "count") == n + 1
            assert log.append(RUN, "step", {"n": n}).sequence == n
            if fault == "sync" and durability == "buffered":
                coordinator_ended = _wait(coordinator, 0.15)
                if coordinator_ended:
                    break
        assert coordinator.wait(TIMEOUT_S) == 1
        assert db.info().coordinator_pid != coordinator.pid or fault == "sync"
        kv.put(RUN, "last", n)
        assert db.info().coordinator_pid != coordinator.pid
        assert kv.list(RUN) == sorted(["count", "last", *(f"key {each}" for each in range(n + 1))])
        assert kv.get(RUN, "count") == len(log.read_range(RUN, 0, 1000)) == n + 1
        assert log.verify_chain(RUN)
        assert db.check() == []
    notes = (store / "coordinator.log").read_text()
    assert f"process {coordinator.pid}" in notes
    assert str(failing_coordinator.FAULTS[fault][2]()) in notes


def _wait(coordinator: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        coordinator.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


@pytest.mark.long
def test_a_coordinator_without_memory_for_a_decision(store: Path) -> None:
    """The commit is refused, the coordinator goes on."""
    with _failing(store, "buffered", "decide", 3) as coordinator, shoal.open(store, linger=0.2) as db:
        kv = shoal.KVStore(db)
        assert [kv.increment(RUN, "count") for _ in range(2)] == [1, 2]
        for _ in range(3):
            with pytest.raises(StoreFullError, match="no memory"):
                kv.increment(RUN, "count")
        kv.put(RUN, "key", 1)
        assert (kv.get(RUN, "count"), kv.get(RUN, "key")) == (2, 1)
        assert db.info().coordinator_pid == coordinator.pid
        assert coordinator.poll() is None


@pytest.mark.long
def test_a_coordinator_without_memory_for_a_request(store: Path) -> None:
    """A request that cannot even be decoded is refused, the coordinator goes on."""
    with _failing(store, "buffered", "decode", 3) as coordinator, shoal.open(store, linger=0.2) as db:
        kv = shoal.KVStore(db)
        assert [kv.increment(RUN, "count") for _ in range(2)] == [1, 2]
        for _ in range(3):
            with pytest.raises(StoreFullError, match="no memory"):
                kv.put(RUN, "key", 1)
        assert (kv.get(RUN, "count"), kv.get(RUN, "key")) == (2, None)
        assert coordinator.poll() is None


@pytest.mark.long
def test_what_was_sent_before_nonsense(store: Path) -> None:
    """Requests in one write: those before the one that is none are done, it and those behind it are not."""
    with shoal.open(store, durability="memory", linger=0.2) as db:
        key = shoal.Namespace()._run_prefix(RUN) + b"\x01"
        good = [
            wire_request.encode_request(n, 0, 0, b"", wire_request.encode_mutations([key + b"k%d" % n, b"\x01", 0]))
            for n in (1, 2, 3)
        ]
        nonsense = wire_request.encode_request(9, 0, 0, b"", b"\xc1")
        assert send_and_hear(db, b"".join(map(frame, (*good[:2], nonsense, good[2])))) == b""
        assert_unharmed(db, db.info().coordinator_pid)
        assert shoal.KVStore(db).list(RUN, "k") == ["k1", "k2"]

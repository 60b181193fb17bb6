"""Whether a commit set may commit, and what it writes; nothing of the store changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from shoal.coordinator.commit.admission import NO_MUTATIONS, Admission, refusal
from shoal.coordinator.commit.apply import ClientSessions
from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.commit.reading import BrokenStoreError
from shoal.coordinator.log.format import decode_decided
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.shm.errors import NotFoundError
from shoal.shm.limits import MIB, Limits
from shoal.shm.memory.segment import Segment
from shoal.shm.operation import Decision, OperationTable, Read, VersionedValue, Write
from shoal.shm.wire.answer import REFUSED, decode_answer
from shoal.shm.wire.frames import LENGTH_BYTES
from shoal.shm.wire.request import CommitSet, decode_request, encode_mutations, encode_reads, encode_request


def _append(read: Read, _now_ms: int, key: bytes, text: str) -> Decision:
    """Append to what the key holds, and answer how long that was."""
    found = read(key)
    before = b"" if found is None else found.value
    return Decision([Write(key, before + text.encode(), 0)], len(before))


TABLE = OperationTable({"append": _append}, {})


class _Store:
    """A writer of which decisions need no more than ``newest``."""

    def __init__(self, **values: bytes) -> None:
        self.values = {key.encode(): value for key, value in values.items()}
        self.error: Exception | None = None

    def newest(self, key: bytes, now_ms: int, nodes: dict[bytes, int] | None = None) -> VersionedValue | None:
        if self.error is not None:
            raise self.error
        if nodes is not None:
            nodes[key] = 5
        value = self.values.get(key)
        return None if value is None else VersionedValue(value, 1, 0)


def _admission(store: Any, window: ConflictWindow | None = None, *moments_ms: int) -> Admission:
    moments = iter(moments_ms or [1000] * 100)
    clock: Any = SimpleNamespace(now_ms=lambda: next(moments))
    return Admission(store, window or ConflictWindow(0), TABLE, clock)


def _request(
    *operations: list[Any], writes: list[Any] | None = None, keys: list[bytes] | None = None, valid_until_ms: int = 0
) -> CommitSet:
    mutations = encode_mutations(writes or [], None, list(operations))
    return decode_request(encode_request(4, 2, valid_until_ms, encode_reads(keys or [], []), mutations), TABLE.rules)


def test_each_operation_sees_those_before_it() -> None:
    """And what the commit set writes itself; the log has what was decided and not what was asked."""
    admission = _admission(_Store(a=b"x"))
    request = _request(["append", [b"a", "y"]], ["append", [b"a", "z"]], ["append", [b"b", "new"]])
    writes, mutations, decided, results, nodes = admission.decide(request)
    assert writes == [b"a", b"xyz", 0, b"b", b"new", 0]
    assert (results, mutations) == ([1, 2, 0], NO_MUTATIONS)
    assert decode_decided(decided) == (writes, results, [])
    assert nodes == {b"a": 5, b"b": 5}


def test_writes_beside_operations() -> None:
    """They are logged as they were sent, and come first."""
    request = _request(["append", [b"a", "y"]], writes=[b"key", b"1", 0])
    writes, mutations, decided, _, _ = _admission(_Store()).decide(request)
    assert writes == [b"key", b"1", 0, b"a", b"y", 0]
    assert mutations == request.mutations
    assert decode_decided(decided).writes == [b"a", b"y", 0]


def test_a_key_both_written_and_decided() -> None:
    """It would be written twice in one commit: refused."""
    with pytest.raises(ValueError, match="both writes"):
        _admission(_Store()).decide(_request(["append", [b"a", "y"]], writes=[b"a", b"1", 0]))


def test_a_store_that_cannot_be_read() -> None:
    """Is not the client's fault: it passes every guard for exceptions."""
    store = _Store()
    store.error = IndexError("out of bounds")
    with pytest.raises(BrokenStoreError, match="out of bounds"):
        _admission(store).decide(_request(["append", [b"a", "y"]]))


def test_conflicts() -> None:
    """What it read was written since its snapshot, 2, or has expired though no deletion is there."""
    window = ConflictWindow(0)
    window.add_writes(2, [b"old"])
    window.add_writes(3, [b"new"])
    admission = _admission(_Store(old=b"1"), window)
    assert admission.conflict(_request(keys=[b"old"]), 4) is None
    assert admission.conflict(_request(keys=[b"old", b"new"]), 4) == (b"new", 2, 3)
    admission.now_ms()
    assert admission.conflict(_request(keys=[b"old", b"gone"], valid_until_ms=1000), 4) == (b"gone", 2, 4)
    assert admission.conflict(_request(keys=[b"old", b"gone"], valid_until_ms=1001), 4) is None


def test_a_clock_that_is_set_back_is_followed() -> None:
    """A key that a client writes then lives as long as that client has said, and is not swept at once."""
    admission = _admission(_Store(), None, 1000, 900, 1100)
    assert [admission.now_ms() for _ in range(3)] == [1000, 900, 1100]
    now_ms = 3_600_000
    clock = SimpleNamespace(now_ms=lambda: now_ms)
    writer, window = Writer(Segment.create(64 * MIB, 12345)), ConflictWindow(0)
    parts: Any = (writer, Reclaimer(writer, list), window, None, clock, 0, ClientSessions(), False, TABLE, Limits())
    engine = CommitEngine(*parts)
    engine.commit_writes([b"before", b"v", now_ms])
    engine.sweep_expired()
    assert writer.expires_ms(b"before") == 0
    now_ms = 1000
    engine.commit_writes([b"after", b"v", now_ms + 500])
    engine.sweep_expired()
    assert writer.expires_ms(b"after") == 1500
    now_ms += 500
    engine.sweep_expired()
    assert writer.expires_ms(b"after") == 0


def test_a_sweep_before_the_clock_was_set_back() -> None:
    """It is a change for who had read the key before it expired, whatever the clock says now."""
    window = ConflictWindow(0)
    window.add_writes(2, [b"k"])
    before = window.last_writes([b"k"])
    window.add_writes(3, [b"k"])
    window.note_sweep(3, before)
    admission = _admission(_Store(), window, 1000, 900)
    assert [admission.now_ms(), admission.now_ms()] == [1000, 900]
    assert admission.conflict(_request(keys=[b"k"], valid_until_ms=1000), 4) == (b"k", 2, 3)
    assert admission.conflict(_request(keys=[b"k"]), 4) is None


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NotFoundError("no run"), "NotFoundError"),
        (TypeError("no number"), "TypeError"),
        (ValueError("too long"), "ValueError"),
        (MemoryError(), "StoreFullError"),
        (RecursionError("too deep"), "ValueError"),
    ],
    ids=repr,
)
def test_refusals(error: Exception, told: str) -> None:
    """Every error is told as one that a client knows."""
    commit_id, status, _, details = decode_answer(refusal(_request(), error)[LENGTH_BYTES:])
    assert (commit_id, status, details[0]) == (4, REFUSED, told)

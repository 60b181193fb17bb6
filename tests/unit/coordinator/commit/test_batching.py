"""Appends that arrive together share a commit: each is answered as if it had been alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shoal.coordinator.commit.batching import Batch, Batching
from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.host import THIS_MACHINE
from shoal.coordinator.log.writer import WalWriter
from shoal.coordinator.memory.check_report import check_segment
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.recovery.recover import recover
from shoal.primitives.rules import event_rules as event_operations
from shoal.primitives.rules import registry as operations
from shoal.primitives.rules.event_rules import (
    EVENT,
    METADATA,
    TYPE,
    EventRecord,
    decode_events,
    decode_head,
    decode_metadata,
    type_key,
)
from shoal.primitives.rules.hash_chain import ChainCheck, canonical
from shoal.shm import limits
from shoal.shm.files.storage import DiskStorage
from shoal.shm.limits import Limits
from shoal.shm.memory.segment import Segment
from shoal.shm.wire import request as wire_request
from shoal.shm.wire.answer import COMMITTED, REFUSED, decode_answer
from shoal.shm.wire.frames import LENGTH_BYTES
from shoal.shm.wire.request import CommitSet, decode_request, encode_mutations

LOG = b"log"


class Engine:
    """A commit engine over the log in a directory, recovered from what is there."""

    def __init__(self, directory: Path, max_bytes: int = 16 << 20) -> None:
        storage = DiskStorage(directory)
        self.writer = Writer(Segment.create(max_bytes, 1))
        reclaimer = Reclaimer(self.writer, list)
        found = recover(storage, self.writer, reclaimer)
        self.log = WalWriter(storage, found.next_log_number, found.version, bytes(16))
        self.engine = CommitEngine(
            *(self.writer, reclaimer, found.window, self.log, THIS_MACHINE, found.version, found.sessions, False),
            operations.TABLE,
        )

    def together(self, *requests: tuple[int, CommitSet]) -> list[tuple[int, int, int, Any]]:
        answers = self.engine.submit_together(list(requests))
        self.engine.finish_group()
        assert check_segment(self.writer.segment, self.engine.version, self.writer) == []
        return [decode_answer(answer[LENGTH_BYTES:]) for answer in answers]

    def value(self, key: bytes) -> bytes | None:
        found = self.writer.newest(key, 0)
        return None if found is None else found.value

    def events(self, prefix: bytes = LOG) -> dict[int, EventRecord]:
        """All events of the log, by sequence."""
        events: dict[int, EventRecord] = {}
        for key, _ in self.writer.ordered_index.iterate(prefix + EVENT, prefix + TYPE):
            value = self.value(key)
            if value is not None:
                events |= decode_events(int.from_bytes(key[-8:], "big"), value)
        return events

    def length(self, prefix: bytes = LOG) -> int:
        """How many events the log has, of which each hash, the metadata and the index of the types are right."""
        metadata = decode_metadata(self.value(prefix + METADATA))
        check = ChainCheck(metadata.chain or "xxh3")
        newest: dict[str, tuple[int, int]] = {}
        for sequence, record in self.events(prefix).items():
            assert check.problem(sequence, *record[:-1]) == ""
            events, before = newest.get(record.event_type, (0, 0))
            assert record.before == before
            newest[record.event_type] = (events + 1, sequence + 1)
        assert (check.sequence, check.head_hash) == (metadata.next_sequence, metadata.head_hash)
        for event_type, head in newest.items():
            assert decode_head(self.value(type_key(prefix, event_type.encode()))) == head
        return metadata.next_sequence


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


def decode(commit_id: int, mutations: bytes) -> CommitSet:
    message = wire_request.encode_request(commit_id, 0, 0, wire_request.NO_READS, mutations)
    return decode_request(message, operations.OPERATIONS)


def request(commit_id: int, *operation_list: Any, writes: list[Any] | None = None) -> CommitSet:
    mutations = encode_mutations(writes or [], None, list(operation_list))
    return decode(commit_id, mutations)


def append(commit_id: int, *payloads: Any, log: bytes = LOG, event_type: Any = "step") -> CommitSet:
    entries = [[event_type, canonical(payload)] for payload in payloads]
    return request(commit_id, [operations.EVENT_APPEND, [log + METADATA, "xxh3", entries]])


def test_one_commit_for_all(engine: Engine) -> None:
    """Appends of several clients to one log are one version, each with sequences and hashes of its own."""
    answers = engine.together((1, append(7, "a")), (2, append(8, "b", "c")), (3, append(9, "d", event_type="other")))
    assert [(commit_id, status, version) for commit_id, status, version, _ in answers] == [
        *((7, COMMITTED, 1), (8, COMMITTED, 1), (9, COMMITTED, 1))
    ]
    assert [[entry[0] for entry in results[0]] for *_, results in answers] == [[0], [1, 2], [3]]
    for *_, results in answers:
        for sequence, event_hash in results[0]:
            assert engine.events()[sequence].hash == event_hash
    assert engine.length() == 4


def test_each_log_and_whatever_else_comes_with_it(engine: Engine) -> None:
    """Requests for other logs, and other kinds of requests, are done, too; the answers keep their order."""
    answers = engine.together(
        (1, append(1, "a")),
        (2, request(1, [operations.INCREMENT, [b"counter", 5]])),
        (3, append(1, "b", log=b"log2")),
        (4, append(1, "c")),
        (5, request(1, writes=[b"key", b"\x01", 0])),
        (6, append(1, "d", log=b"log2")),
    )
    assert all(status == COMMITTED for _, status, _, _ in answers)
    assert [answers[i][3][0][0][0] for i in (0, 2, 3, 5)] == [0, 0, 1, 1]
    assert answers[1][3] == [5]
    assert answers[0][2] == answers[3][2] != answers[2][2] == answers[5][2]
    assert (engine.length(), engine.length(b"log2"), engine.value(b"key")) == (2, 2, b"\x01")


def test_sent_again_is_answered_again(engine: Engine, tmp_path: Path) -> None:
    """A commit id that was part of a batch is answered from memory, by this coordinator and by the next."""
    first = engine.together((1, append(1, "a")), (2, append(1, "b")))
    again = engine.together((2, append(1, "b")), (3, append(1, "c")), (1, append(1, "a")))
    assert [again[2], again[0]] == first
    assert again[1][3][0][0][0] == 2
    assert engine.length() == 3
    following = Engine(tmp_path)  # the first one is as if it were killed: nothing was closed
    assert following.together((1, append(1, "a")), (2, append(1, "b")), (3, append(1, "c"))) == [*first, again[1]]
    assert following.length() == 3
    assert following.together((1, append(2, "d")), (2, append(2, "e")))[1][3][0][0][0] == 4
    assert following.length() == 5


@pytest.mark.parametrize(
    "bad",
    [
        append(1, "x", event_type=""),
        append(1, "x", event_type=5),
        append(1, "x", event_type="t" * 2000),
        request(1, [operations.EVENT_APPEND, [LOG + METADATA]]),
        request(1, [operations.EVENT_APPEND, [LOG + METADATA, "md5", [["step", b"\x01"]]]]),
        request(1, [operations.EVENT_APPEND, [LOG + METADATA, "xxh3", [["step", "no bytes"]]]]),
        request(1, [operations.EVENT_APPEND, [LOG + METADATA, "xxh3", 7]]),
    ],
    ids=range(7),
)
def test_a_refused_one_leaves_the_others_alone(engine: Engine, bad: Any) -> None:
    """What is wrong with one request is told to its client; the others are done as if it were not there."""
    answers = engine.together((1, append(1, "a")), (2, bad), (3, append(1, "b")))
    assert [status for _, status, _, _ in answers] == [COMMITTED, REFUSED, COMMITTED]
    assert engine.length() == 2


def test_full_store(tmp_path: Path) -> None:
    """Without room for all of them together, each is told for itself; nothing is half done."""
    engine = Engine(tmp_path, 8 << 20)
    payload, statuses = "x" * 60_000, set()
    for turn in range(1, 100):
        answers = engine.together(*((client, append(turn, payload)) for client in range(1, 9)))
        committed = [answer for answer in answers if answer[1] == COMMITTED]
        assert [answer[3][0] for answer in answers if answer[1] == REFUSED] == ["StoreFullError"] * (8 - len(committed))
        statuses.add(len(committed))
        if not committed:
            break
    assert statuses >= {8, 0}
    assert engine.length() > 8


def test_large_ones_and_many(engine: Engine) -> None:
    """Requests too large to share stand alone, and very many become several commits; no event is lost."""
    large = "x" * (limits.MAX_BATCH_MUTATIONS_BYTES + 1)
    answers = engine.together((1, append(1, large)), (2, append(1, "a")), (3, append(1, large)), (4, append(1, "b")))
    assert len({version for _, _, version, _ in answers}) == 3
    many = [(100 + client, append(1, client)) for client in range(3 * limits.MAX_BATCH + 1)]
    versions = [version for _, _, version, _ in engine.together(*many)]
    assert len(set(versions)) == 4
    assert engine.length() == 4 + len(many)


def test_what_has_reads_or_writes_is_validated(engine: Engine) -> None:
    """An append that comes with writes is not joined: it is one commit with them."""
    with_write = request(
        *(1, [operations.EVENT_APPEND, [LOG + METADATA, "xxh3", [["step", b"\x01"]]]]),
        writes=[LOG + EVENT + b"else", b"\x02", 0],
    )
    answers = engine.together((1, append(1, "a")), (2, with_write), (3, append(1, "b")))
    assert len({version for _, _, version, _ in answers}) == 2
    assert engine.value(LOG + EVENT + b"else") == b"\x02"


class TestGoingOn:
    """What is kept in mind from one batch to the next is believed only while it is so."""

    def test_after_one_another(self, engine: Engine) -> None:
        """Commit after commit, alone and together, with old types and new ones."""
        for turn in range(1, 30):
            types = [f"type-{turn * client % 7}" for client in range(turn % 4)]
            answers = engine.together(*((i, append(turn, turn, event_type=name)) for i, name in enumerate(types, 1)))
            assert all(status == COMMITTED for _, status, _, _ in answers)
            engine.length()
        assert engine.length() == sum(turn % 4 for turn in range(1, 30))

    @pytest.mark.parametrize("members", [1, 3])
    def test_after_somebody_else(self, engine: Engine, members: int) -> None:
        """A transaction that appended, a clear of the log, a write of its metadata: the next append sees them."""
        turns = iter(range(1, 100))

        def together() -> list[int]:
            turn = next(turns)
            answers = engine.together(*((client, append(turn, "x")) for client in range(1, members + 1)))
            return [answer[3][0][0][0] for answer in answers]

        assert together() == list(range(members))
        alone = request(next(turns), append(0, "y", "z").operations[0], writes=[b"key", b"\x01", 0])
        assert engine.together((9, alone))[0][1] == COMMITTED
        assert together() == list(range(members + 2, 2 * members + 2))
        mutations = encode_mutations([], [LOG, LOG + b"\xff"])
        cleared = decode(next(turns), mutations)
        assert engine.together((9, cleared))[0][1] == COMMITTED
        assert together() == list(range(members))
        assert engine.length() == members
        assert engine.together((9, request(next(turns), writes=[LOG + METADATA, None, 0])))[0][1] == COMMITTED
        assert together() == list(range(members))

    def test_after_a_refusal(self, engine: Engine) -> None:
        """A request that fails in the middle leaves nothing behind for the next."""
        bad = request(2, [operations.EVENT_APPEND, [LOG + METADATA, "xxh3", [["new", b"\x01"], ["new", "no bytes"]]]])
        engine.together((1, append(1, "a")), (2, append(1, "b")))
        assert [status for _, status, _, _ in engine.together((1, append(2, "c")), (2, bad))] == [COMMITTED, REFUSED]
        assert engine.together((1, append(3, "d", event_type="new")))[0][1] == COMMITTED
        assert engine.length() == 4

    def test_more_logs_than_are_kept_in_mind(self, engine: Engine) -> None:
        """Any number of logs take turns; only so many are kept in mind."""
        engine.engine._batching = Batching(engine.writer, operations.TABLE, Limits(known_batches=4))
        logs = [f"log{n}".encode() for n in range(6)]
        for turn in range(1, 20):
            engine.together((1, append(turn, "a", log=logs[turn * turn % 6])))
            assert len(engine.engine._batching) <= 4
        assert sum(engine.length(log) for log in logs) == 19

    def test_more_types_than_are_kept_in_mind(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        """A log of any number of types has the right head for each."""
        monkeypatch.setattr(event_operations, "_CACHED_HEADS", 4)
        for turn in range(1, 40):
            engine.together((1, append(turn, "a", event_type=f"type-{turn * turn % 11}")))
        assert engine.length() == 39

    def test_nothing_from_before_keys_have_gone(self, engine: Engine) -> None:
        """Where keys are is not believed once any have gone, even while room was made for the commit itself."""
        for turn in range(1, 4):
            engine.together((1, append(turn, "a")))
        batching = engine.engine._batching
        key = (operations.BATCHED[operations.EVENT_APPEND], LOG + METADATA)
        operation, nodes = batching.take(key, 0)
        assert nodes
        engine.writer.raise_epoch()
        batching.keep(Batch(key, operation, nodes, [], b"", []), engine.engine.version, [])
        fresh, known = batching.take(key, 0)
        assert fresh is not operation
        assert known == {}


def test_what_was_written_is_not_kept() -> None:
    """What stays in the coordinator's mind between commits is where a log ends, not the events it has written."""
    appending = event_operations.Appending(lambda key: None, LOG + METADATA)
    appending.begin(1)
    appending.add("xxh3", [["step", canonical("x" * 3000)] for _ in range(3)])
    writes = appending.writes()
    assert sum(len(value) for value in writes[1::3]) > 9000
    assert appending.writes() == []

"""Control requests over a commit engine, with a clock of the test: lines, waits, and the end of holders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.host import THIS_MACHINE
from shoal.coordinator.log.writer import WalWriter
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.presence.changes import Changes
from shoal.coordinator.presence.holders import Holders
from shoal.coordinator.recovery.recover import recover
from shoal.coordinator.server.clients import Client
from shoal.coordinator.server.control_requests import ControlRequests
from shoal.primitives.keys import Namespace
from shoal.primitives.rules import registry
from shoal.primitives.rules.lease_rules import decode_record
from shoal.shm import holder_index
from shoal.shm.files.storage import DiskStorage
from shoal.shm.memory.segment import Segment
from shoal.shm.operation import Write
from shoal.shm.wire import request as wire_request
from shoal.shm.wire.answer import ANSWERED, COMMITTED, REFUSED, decode_answer
from shoal.shm.wire.frames import LENGTH_BYTES
from shoal.shm.wire.request import decode_request, encode_mutations

LEASE = Namespace()._run_prefix("run") + b"\x08"
FOR_EVER = 1 << 60


class Coordinator:
    """What decides and answers, without pipes. ``now_s`` is the time."""

    def __init__(self, directory: Path) -> None:
        storage = DiskStorage(directory)
        self.now_s = 1000.0
        self.writer = Writer(Segment.create(16 << 20, 1))
        self.reclaimer = reclaimer = Reclaimer(self.writer, list)
        found = recover(storage, self.writer, reclaimer)
        self.log = WalWriter(storage, found.next_log_number, found.version, bytes(16))
        self.engine = CommitEngine(
            *(self.writer, reclaimer, found.window, self.log, THIS_MACHINE, found.version, found.sessions, False),
            registry.TABLE,
        )
        self.holders = Holders(self.writer, self.engine, lambda: self.now_s)
        checks: Any = SimpleNamespace(forget=lambda _: None)
        self.requests = ControlRequests(
            *(self.engine, found.window, checks, self.holders, Changes(found.window, self.writer, reclaimer)),
            lambda version, moment_us: [1, version or 0, 0],
        )
        self.clients = 0

    def client(self, database_id: int = 0) -> Client:
        self.clients += 1
        fd, page = THIS_MACHINE.new_slots()
        os.close(fd)
        client = Client(self.clients, 1, -1, -1, page)
        client.database_id = database_id or self.clients
        return client

    def ask(self, client: Client, name: str, arguments: list[Any], *operations: Any) -> Any:
        """Status and details of the answer; None if it comes later."""
        mutations = encode_mutations([], None, list(operations), (name, arguments))
        raw = wire_request.encode_request(1, 0, 0, b"", mutations)
        told = self.requests.answer(client, decode_request(raw, registry.TABLE.rules), self.now_s)
        assert told is not None
        return decode_answer(told[LENGTH_BYTES:])[1::2] if told else None

    def take(
        self,
        client: Client,
        name: bytes = b"a",
        ttl_ms: int = 30_000,
        wait_ms: int = FOR_EVER,
        asked_us: int | None = None,
        slots: int = 1,
    ) -> Any:
        key = LEASE + name
        asked_us = int(self.now_s * 1e6) if asked_us is None else asked_us
        ticket = client.client_id
        operation = (registry.LEASE_TAKE, [key, name.decode(), slots, client.database_id, 1, ttl_ms, ticket])
        return self.ask(client, "in_line", [[[key, key + b"\0"]], wait_ms, asked_us], operation)

    def release(self, client: Client, name: bytes = b"a") -> Any:
        operation = (registry.LEASE_RELEASE, [LEASE + name, client.database_id, client.client_id])
        return self.ask(self.client(), "leave", [], operation)

    def turn(self, after_s: float = 0.0, sync_s: float = 0.0) -> list[tuple[Client, int, Any]]:
        """The answers that come at the end of a turn, in which a sync took ``sync_s``."""
        self.now_s += after_s + sync_s
        answers = self.requests.after_turn(self.now_s, self.now_s - sync_s)
        assert self.engine.published == self.engine.version
        return [(client, *decode_answer(told[LENGTH_BYTES:])[1::2]) for client, told in answers]

    def held(self, name: bytes = b"a") -> list[int]:
        found = self.writer.newest(LEASE + name, 0)
        return [holder.holder for holder in decode_record(found and found.value)]

    def entries(self) -> int:
        keys = [key for key, _ in self.writer.ordered_index.iterate(holder_index.PREFIX, holder_index.BEHIND)]
        return sum(self.writer.newest(key, 0) is not None for key in keys)


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Coordinator]:
    made = Coordinator(tmp_path)
    yield made
    made.log.close()


def test_a_slow_sync_ends_no_holder(at: Coordinator) -> None:
    """While the coordinator waits for the disk it reads no pipe, so a holder that is silent then may have renewed."""
    client = at.client()
    assert at.take(client, ttl_ms=500) is not None
    at.turn(after_s=0.3, sync_s=0.4)
    assert at.held() == [client.database_id]
    assert at.ask(client, "renew", []) == (ANSWERED, [1])
    at.turn(after_s=0.4, sync_s=0.4)
    assert at.held() == [client.database_id]
    at.turn()
    assert at.held() == []


def test_a_line_is_served_in_order(at: Coordinator) -> None:
    """One for each release; one that comes in the turn of a release does not overtake."""
    first, *others = [at.client() for _ in range(5)]
    assert at.take(first) == (COMMITTED, [[1, 0]])
    for each in others[:3]:
        assert at.take(each) is None
    assert at.turn() == []
    at.release(first)
    assert at.take(others[3]) is None
    assert [(client, status) for client, status, _ in at.turn()] == [(others[0], COMMITTED)]
    for i in (0, 1, 2):
        at.release(others[i])
        assert [client for client, _, _ in at.turn()] == [others[i + 1]]


def test_who_asked_first_is_first(at: Coordinator) -> None:
    """Under the next coordinator the requests come in any order. One that is first is decided at once."""
    first, *others = [at.client() for _ in range(5)]
    at.take(first)
    for place in (2, 0, 3, 1):
        assert at.take(others[place], asked_us=place + 1) is None
    early, late = at.client(), at.client()
    assert at.take(late, asked_us=5, slots=2) is None
    assert at.take(early, asked_us=0, slots=2) == (COMMITTED, [[2, 1]])
    at.release(early)
    assert at.turn() == []
    for held, served in zip([first, *others], [*([each] for each in others[:3]), [others[3], late]], strict=False):
        at.release(held)
        assert [client for client, _, _ in at.turn()] == served


def test_one_that_does_not_wait_comes_after_the_line(at: Coordinator) -> None:
    """In the turn of a release the first in line gets it, and one that would not wait is told that it is held."""
    first, second, third = (at.client() for _ in range(3))
    at.take(first)
    at.take(second)
    at.release(first)
    assert at.take(third, wait_ms=0)[0] == REFUSED
    assert [client for client, _, _ in at.turn()] == [second]


def test_who_leaves_the_line(at: Coordinator) -> None:
    """One that is gone, gives up or waited long enough; those behind it move up."""
    first, gone, leaves, late, last = (at.client() for _ in range(5))
    at.take(first)
    for client, wait_ms in ((gone, FOR_EVER), (leaves, FOR_EVER), (late, 500), (last, FOR_EVER)):
        assert at.take(client, wait_ms=wait_ms) is None
    at.requests.forget(gone)
    at.ask(leaves, "leave", [], (registry.LEASE_RELEASE, [LEASE + b"a", leaves.database_id, leaves.client_id]))
    assert at.requests.due_in_s(at.now_s) == pytest.approx(0.5)
    assert at.turn(0.4) == []
    (told,) = at.turn(0.2)
    assert (told[0], told[1], told[2][0]) == (late, REFUSED, "LeaseHeldError")
    at.release(first)
    assert [client for client, _, _ in at.turn()] == [last]
    at.release(last)
    at.turn()
    assert not at.requests.is_active or len(at.holders)


def test_waits(at: Coordinator) -> None:
    """Told at once of what is written since, else by the commit, else when the time is up."""
    client, late = at.client(), at.client()
    ranges = [[LEASE + b"a", LEASE + b"a\0"]]
    at.take(at.client(), b"a")
    at.turn()
    version = at.engine.version
    assert at.ask(client, "wait", [version - 1, ranges, FOR_EVER]) == (ANSWERED, [1])
    assert at.ask(client, "wait", [version, ranges, 0]) == (ANSWERED, [0])
    assert at.ask(client, "wait", [version, ranges, FOR_EVER]) is None
    assert at.ask(late, "wait", [version, [[b"z", b"zz"]], 300]) is None
    at.take(at.client(), b"b")
    assert at.turn() == []
    at.requests.forget(at.client())
    at.engine.commit_own(lambda read, now_ms: [Write(LEASE + b"a", None, 0)])
    assert at.turn() == [(client, ANSWERED, [1])]
    assert at.turn(0.3) == [(late, ANSWERED, [0])]


def test_the_end_of_a_holder_is_in_slices(at: Coordinator) -> None:
    """However much it holds, no commit is larger than a slice; who waits gets each as it is freed."""
    database, waiting = 4711, at.client()
    for i in range(600):
        at.take(at.client(database), b"%d" % i)
    at.take(waiting, b"599")
    at.turn()
    assert at.entries() == 600
    at.requests.gone(database)
    counts, served = [], list[Client]()
    while at.requests.due_in_s(at.now_s) == 0:
        served += [client for client, _, _ in at.turn()]
        counts.append(at.entries())
    assert counts == [344, 88, 1]
    assert served == [waiting]
    assert at.held(b"599") == [waiting.database_id]
    assert at.held(b"0") == []


def test_a_holder_of_what_no_rule_knows_ends(at: Coordinator) -> None:
    """An entry for a key that has no tag, or a record that is damaged, goes; the rest is released."""
    client = at.client()
    at.take(client)
    strange = (b"x", b"\xff" * 9, LEASE[:-1] + b"\x01k", LEASE + b"damaged")
    writes = [holder_index.entry(client.database_id, key, 5_000) for key in strange]
    writes[0] = writes[0]._replace(value=b"no ttl")
    at.engine.commit_own(lambda read, now_ms: [*writes, Write(LEASE + b"damaged", b"\xc1", 0)])
    at.turn()
    assert at.entries() == 5
    at.requests.gone(client.database_id)
    at.turn()
    assert (at.entries(), at.held(), len(at.holders)) == (0, [], 0)


def test_silence(at: Coordinator) -> None:
    """Each thing that is held ends its ttl after the last sign of life, and not before."""
    client = at.client()
    at.take(client, b"short", 3_000)
    other = at.client(client.database_id)
    at.take(other, b"long", 9_000)
    for _ in range(20):  # it renews
        at.turn(0.5)
        assert at.ask(client, "renew", []) == (ANSWERED, [1])
    assert at.ask(client, "ages", [client.database_id, 99]) == (ANSWERED, [0, -1])
    for _ in range(5):
        at.turn(0.5)
    assert at.held(b"short")
    for _ in range(2):
        at.turn(0.5)
    assert (at.held(b"short"), at.held(b"long")) == ([], [client.database_id])
    for _ in range(13):
        at.turn(0.5)
    assert at.held(b"long") == []
    assert at.ask(client, "renew", []) == (ANSWERED, [0])
    assert at.entries() == 0


def test_time_in_which_the_coordinator_did_not_run_counts_for_nobody(at: Coordinator) -> None:
    """It was stopped, or the machine suspended: what it finds in the pipes afterwards is in time."""
    client = at.client()
    at.take(client, ttl_ms=3_000)
    at.turn(3600.0)
    assert at.held() == [client.database_id]
    assert at.ask(client, "renew", []) == (ANSWERED, [1])
    at.turn(2.0)
    assert at.held() == [client.database_id]


def test_entries_that_no_rule_has_written(at: Coordinator, tmp_path: Path) -> None:
    """They keep no coordinator from starting, and are gone when it has served for a while."""
    keys = [holder_index.PREFIX + rest for rest in (b"\xff" * 8 + b"held", b"\xff" * 20, bytes(9))]
    at.engine.commit_own(lambda read, now_ms: [Write(key, value, 0) for key in keys for value in (b"\xc1",)])
    at.engine.finish_group()
    again = Coordinator(tmp_path)
    for _ in range(3):
        again.turn(0.5)
    assert (again.entries(), len(again.holders)) == (0, 0)
    again.log.close()


def test_recovered_holders_have_their_ttl_to_come_back(at: Coordinator, tmp_path: Path) -> None:
    """The next coordinator finds them in the log; one that renews keeps what it holds, another loses it."""
    back, lost = at.client(), at.client()
    at.take(back, b"back", 2_000)
    at.take(lost, b"lost", 2_000)
    at.turn()
    again = Coordinator(tmp_path)
    try:
        assert again.requests.is_active
        for _ in range(6):
            assert again.ask(back, "renew", []) == (ANSWERED, [1])
            again.turn(0.5)
        assert (again.held(b"back"), again.held(b"lost")) == ([back.database_id], [])
        again.clients = 10
        assert again.take(again.client(), b"lost")[1] == [[3, 0]]
    finally:
        again.log.close()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("unknown", []),
        ("wait", []),
        ("wait", ["1", [], 0]),
        ("wait", [1, [[b"a"]], 0]),
        ("wait", [1, [["a", "b"]], 0]),
        ("wait", [1, [], -1]),
        ("wait", [1, [], None]),
        ("in_line", [[], 0, 0]),
        ("in_line", [[], 0, -1]),
        ("in_line", []),
        ("ages", [None]),
        ("ages", [[]]),
    ],
)
def test_what_no_client_sends(at: Coordinator, name: str, arguments: list[Any]) -> None:
    """It is no request; nothing of it is left, and the coordinator goes on."""
    mutations = encode_mutations([], None, None, (name, arguments))
    request = decode_request(wire_request.encode_request(1, 0, 0, b"", mutations), registry.TABLE.rules)
    client = at.client()
    told = at.requests.answer(client, request, at.now_s)
    assert told is None
    at.requests.forget(client)
    assert at.turn() == []

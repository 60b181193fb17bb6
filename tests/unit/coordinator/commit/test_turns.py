"""Turns at a contended key: which request is decided when, and that none is lost or waits for ever."""

from __future__ import annotations

import os
import random
from typing import Any

from shoal.coordinator.commit.turns import Turns
from shoal.coordinator.host import THIS_MACHINE
from shoal.coordinator.server.clients import Client
from shoal.coordinator.server.group import Group
from shoal.primitives.rules.registry import CELL_SWAP, TABLE
from shoal.shm.limits import RETURN_S, TURN_S
from shoal.shm.wire import request as wire_request
from shoal.shm.wire.request import CommitSet
from tests.support.histories.history_workers import seed_from

KEY = b"cell"


def new_client(client_id: int) -> Client:
    """A client without pipes."""
    fd, page = THIS_MACHINE.new_slots()
    os.close(fd)
    return Client(client_id, 0, -1, -1, page)


def swap(version: int, key: bytes = KEY) -> CommitSet:
    """A request of a client that knows ``version``."""
    mutations = wire_request.encode_mutations([], None, [(CELL_SWAP, [key, "cell", version, b"x"])])
    return wire_request.decode_request(wire_request.encode_request(1, 0, 0, b"", mutations), TABLE.rules)


class Cell:
    """A coordinator of one cell: which requests were decided, and who wrote."""

    def __init__(self) -> None:
        self.turns: Turns[Any] = Turns(TABLE.in_turn)
        self.version = 0
        self.decided: list[int] = []
        self.wrote: list[int] = []

    def submit(self, requests: list[tuple[int, CommitSet]]) -> list[bytes]:
        """Decide what comes; answer the version that the cell has now."""
        for client_id, request in requests:
            self.decided.append(client_id)
            if request.operations[0][1][2] == self.version:
                self.version += 1
                self.wrote.append(client_id)
        return [b"%d" % self.version for _ in requests]

    def turn(self, now_s: float, *asking: tuple[Client, CommitSet]) -> list[int]:
        """One turn of the loop; the clients that it answers."""
        group = Group()
        group.asking = [client for client, _ in asking]
        group.requests = [(client.client_id, request) for client, request in asking]
        group.submit_in_turn(self.turns, self.submit, self, now_s)
        return [client.client_id for client, _ in group.answers]


def contended() -> tuple[Cell, Client, Client, Client]:
    """A cell at version 1 at which B was told so, after A wrote. C has not sent anything."""
    cell, a, b, c = Cell(), new_client(1), new_client(2), new_client(3)
    assert cell.turn(0.0, (a, swap(0)), (b, swap(0))) == [1, 2]
    assert cell.wrote == [1]
    return cell, a, b, c


def test_who_was_told_the_newest_state_is_next() -> None:
    """Another request for the same state waits, although it comes first; then its client is told, and has the turn."""
    cell, _, b, c = contended()
    assert cell.turn(0.0001, (c, swap(1))) == []
    assert cell.turn(0.0002, (b, swap(1))) == [2, 3]
    assert cell.wrote == [1, 2]
    assert cell.turn(0.0003, (b, swap(2))) == []
    assert cell.turn(0.0004, (c, swap(2))) == [3, 2]
    assert cell.wrote == [1, 2, 3]


def test_other_keys_and_operations_do_not_wait() -> None:
    """A turn is at one key."""
    cell, _, _, c = contended()
    assert cell.turn(0.0001, (c, swap(9, b"other"))) == [3]


def test_a_turn_ends_by_itself() -> None:
    """Who was told and does not send again keeps the others waiting for a bounded time."""
    cell, _, b, c = contended()
    assert cell.turn(0.0001, (c, swap(1))) == []
    assert 0 < cell.turns.due_s() <= TURN_S
    assert cell.turn(cell.turns.due_s()) == [3]
    assert cell.wrote == [1, 3]
    assert cell.turn(cell.turns.due_s() + 1, (b, swap(1))) == [2]


def test_who_writes_in_a_loop_keeps_its_turn_for_a_while() -> None:
    """It takes one request for each change then; after ``TURN_S``, or if it is late, the next one goes."""
    cell, a, b, c = contended()
    now_s, step_s = 0.0, RETURN_S / 5
    cell.turn(now_s, (b, swap(1)))
    assert cell.turn(now_s + step_s, (b, swap(1))) == [2]  # it sends again at once: in a loop; and has the turn
    assert cell.turn(now_s + step_s, (a, swap(1)), (c, swap(1))) == []
    count = 0
    while cell.turns.waiting() == [a, c]:
        now_s += step_s
        count += 1
        cell.turn(now_s, (b, swap(cell.version)))
    assert count > 5
    assert now_s <= TURN_S + 2 * step_s
    assert cell.decided[-1] == a.client_id


def test_a_client_that_is_gone() -> None:
    """Its request is not decided any more, and nobody waits for its turn."""
    cell, a, b, c = contended()
    assert cell.turn(0.0001, (c, swap(1)), (a, swap(1))) == []
    cell.turns.forget(c)
    cell.turns.forget(b)
    assert cell.turn(0.0002) == [1]
    assert cell.decided.count(3) == 0


def test_a_client_that_sends_without_end_is_not_kept() -> None:
    """One request of a client waits at most: the coordinator's memory is not its to fill."""
    cell, _, _, c = contended()
    assert cell.turn(0.0001, (c, swap(1))) == []
    assert cell.turn(0.0001, (c, swap(0)), (c, swap(0))) == [3, 3]


def test_every_client_gets_its_share() -> None:
    """Clients in a loop have the key for equal times, whatever their speed; few requests are in vain, none is lost."""
    rng = random.Random(seed_from(1))
    cell, clients = Cell(), [new_client(number) for number in range(8)]
    speed = {client: rng.uniform(0.2, 0.9) for client in clients}
    knows = dict.fromkeys(clients, 0)
    ready = set(clients)
    now_s = 0.0
    for _ in range(6000):
        now_s += 0.00005
        asking = [client for client in clients if client in ready and rng.random() < speed[client]]
        ready -= set(asking)
        answered = cell.turn(now_s, *((client, swap(knows[client])) for client in asking))
        for client in clients:
            if client.client_id in answered:
                ready.add(client)
                knows[client] = cell.version
    times = [cell.wrote.count(client.client_id) / speed[client] for client in clients]
    assert min(times) > max(times) / 2, times
    assert len(cell.decided) < 1.3 * len(cell.wrote)
    assert len(ready) + len(cell.turns.waiting()) == len(clients)

"""Puts, claims and completions of one queue that arrive together share a commit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shoal.coordinator.server.group import Group
from shoal.primitives.rules import registry
from shoal.primitives.rules.queues.records import QUEUE, Queue
from shoal.primitives.rules.queues.task_record import CLAIMED
from shoal.shm import holder_index, limits
from shoal.shm.operation import Write
from shoal.shm.wire.answer import COMMITTED, REFUSED
from shoal.shm.wire.request import CommitSet, encode_mutations
from tests.unit.coordinator.commit.test_batching import Engine, decode, request

_KEY = b"\1a\1b\1c\1r\6\0\1q" + QUEUE


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


def _id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def _put(commit_id: int, *numbers: int) -> CommitSet:
    tasks = [part for number in numbers for part in (_id(number), b"payload")]
    return request(commit_id, [registry.TASK_PUT, [_KEY, 0, 0, 5, None, False, tasks]])


def _claim(commit_id: int, holder: int, ticket: int = 1, former_token: int = 0) -> CommitSet:
    """As a client sends it, who may wait."""
    operation = [registry.TASK_CLAIM, [_KEY, "q", holder, 11, 30_000, ticket, former_token, 1]]
    return decode(commit_id, encode_mutations([], None, [operation], ("in_line", [[], 0, 1])))


def _complete(commit_id: int, number: int, holder: int, token: int) -> CommitSet:
    return request(commit_id, [registry.TASK_COMPLETE, [_KEY, "n", _id(number), holder, token, b"result"]])


def _queue(engine: Engine) -> Queue:
    return Queue(lambda key: engine.writer.newest(key, 0), _KEY)


def test_one_commit_for_all(engine: Engine) -> None:
    """What several clients put, claim and complete at once is one version; each gets what it asked for."""
    held: list[Write] = []
    engine.engine.watch_own_writes(held.append)
    answers = engine.together((1, _put(1, 1, 2)), (2, _claim(1, 22)), (3, _put(1, 3)), (4, _claim(1, 44)))
    assert [answer[1:] for answer in answers] == [
        (COMMITTED, 1, [[_id(1), _id(2)]]),
        (COMMITTED, 1, [[[_id(1), b"payload", 1, 1]]]),
        (COMMITTED, 1, [[_id(3)]]),
        (COMMITTED, 1, [[[_id(2), b"payload", 1, 2]]]),
    ]
    entries = [write for write in held if write.key.startswith(holder_index.PREFIX)]
    assert [holder_index.decode_key(write.key)[0] for write in entries] == [22, 44]
    answers = engine.together((2, _complete(2, 1, 22, 1)), (1, _claim(2, 11)), (4, _complete(2, 2, 44, 2)))
    assert [answer[1:3] for answer in answers] == [(COMMITTED, 2)] * 3
    assert _queue(engine).counts == [0, 0, 1, 2, 0, 0]


def test_each_is_told_its_own_error(engine: Engine) -> None:
    """One that is fenced spoils the others nothing; who may wait is left to the caller if there is nothing for it."""
    engine.together((1, _put(1, 1)), (2, _claim(1, 22)))
    told = engine.engine.submit_together([(1, _claim(2, 11)), (3, _complete(1, 1, 33, 1)), (2, _complete(2, 1, 22, 1))])
    assert told[0] == b""
    answers = engine.together((3, _complete(1, 1, 33, 1)), (2, _complete(2, 1, 22, 1)))
    assert [answer[1] for answer in answers] == [REFUSED, COMMITTED]
    assert _queue(engine).counts == [0, 0, 0, 1, 0, 0]


def test_nothing_twice(engine: Engine) -> None:
    """A commit that is sent again, as to the next coordinator, is told again and changes nothing."""
    first = engine.together((1, _put(1, 1)), (2, _claim(1, 22)))
    again = engine.together((1, _put(1, 1)))
    assert again == first[:1]
    assert engine.engine.submit_together([(2, _claim(1, 22))]) == [b""]
    assert engine.engine.version == 1


def test_what_others_do_is_seen(engine: Engine) -> None:
    """A queue is kept from one batch to the next unless something else has changed it."""
    for number in range(1, 4):
        engine.together((1, _put(number, number)))
    cancelled = request(1, [registry.TASK_CANCEL, [_KEY, _id(1)]])
    assert engine.together((2, cancelled))[0][1:] == (COMMITTED, 4, [True])
    ((_, status, _, ((claimed,),)),) = engine.together((3, _claim(1, 33)))
    assert (status, claimed[0]) == (COMMITTED, _id(2))
    engine.together((2, request(2, [registry.TASK_RELEASE, [_KEY, "n", _id(2), 33, claimed[3]]])))
    ((_, status, _, ((claimed,),)),) = engine.together((4, _claim(1, 44)))
    assert (status, claimed[0]) == (COMMITTED, _id(2))
    task = _queue(engine).task(_id(2))
    assert task is not None
    assert (task.status, task.holder, task.attempt) == (CLAIMED, 44, 1)


@pytest.mark.plain
def test_who_is_taken_into_a_group() -> None:
    """A request that may wait is one of the commits if it is free to go and its client is still there."""
    here, gone, behind, lost = (SimpleNamespace(client_id=fd, request_fd=fd) for fd in range(4))
    group: Any = Group()
    group.others = [
        (here, [_claim(1, 1)], [], True),
        (gone, [_claim(1, 2)], [], True),
        (behind, [_claim(1, 3)], [], True),
        (lost, [_claim(1, 4)], [], False),
    ]
    clients: Any = {0: here, 1: object(), 2: behind, 3: lost}
    apart = group.apart(clients, lambda client, _: client is not behind)
    assert [client for client, *_ in apart] == [gone, behind, lost]
    assert group.asking == [here]


def test_nobody_is_overtaken_by_a_later_part(engine: Engine) -> None:
    """More come at once than share a commit: one who found nothing in an early part goes before those of a later."""
    claims = [(2 + number, _claim(1, 100 + number)) for number in range(limits.MAX_BATCH)]
    told = engine.engine.submit_together([(1, _put(1, 1)), *claims])
    assert told[1:] == [b""] * len(claims)
    assert _queue(engine).counts == [1, 0, 0, 0, 0, 0]

"""Which requests that may wait are decided with the commits of their turn."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from shoal.coordinator.server.clients import Client
from shoal.primitives.rules import registry
from shoal.shm.wire import request as wire_request
from shoal.shm.wire.answer import COMMITTED, REFUSED
from shoal.shm.wire.request import decode_request, encode_mutations
from tests.unit.coordinator.presence.test_control_requests import FOR_EVER, LEASE, Coordinator
from tests.unit.coordinator.presence.test_control_requests import at as at

QUEUE_KEY = LEASE[:-1] + b"\x06\0\1q\0"


def test_who_is_free_to_go_with_the_commits(at: Coordinator) -> None:
    """Nobody who waits is overtaken, and what those held that have gone is free before."""
    key = QUEUE_KEY

    def is_free(client: Client) -> bool:
        operation = (registry.TASK_CLAIM, [key, "q", client.database_id, 1, 30_000, 1, 0, 1])
        mutations = encode_mutations([], None, [operation], ("in_line", [[[key, key + b"\0"]], FOR_EVER, 1]))
        raw = wire_request.encode_request(1, 0, 0, b"", mutations)
        return at.requests.is_free(client, decode_request(raw, registry.TABLE.rules))

    first, second, holder = (at.client() for _ in range(3))
    assert is_free(first)
    operation = (registry.TASK_CLAIM, [key, "q", first.database_id, 1, 30_000, 1, 0, 1])
    assert at.ask(first, "in_line", [[[key, key + b"\0"]], FOR_EVER, 1], operation) is None
    assert not is_free(first)
    assert not is_free(second)
    at.requests.forget(first)
    assert is_free(second)
    assert at.take(holder) is not None
    at.requests.gone(holder.database_id)
    assert not is_free(second)
    at.turn()
    assert is_free(second)


def _claim(client: Client) -> tuple[str, list[Any]]:
    return registry.TASK_CLAIM, [QUEUE_KEY, "q", client.database_id, 1, 30_000, 1, 0, 1]


@pytest.fixture(params=range(3, 8))
def delayed(at: Coordinator, request: pytest.FixtureRequest) -> list[Client]:
    """One who waits for a delayed task and one who does not yet; each look at the time is a ms after the one before."""
    first, second, putter = (at.client() for _ in range(3))
    put = (registry.TASK_PUT, [QUEUE_KEY, 0, request.param, 5, None, False, [b"i" * 16, b"payload"]])
    clock: Any = SimpleNamespace(now_ms=itertools.count(1_000_000).__next__, monotonic_s=lambda: at.now_s)
    at.engine._admission._clock = clock
    at.ask(putter, "leave", [], put)
    assert at.ask(first, "in_line", [[[QUEUE_KEY, QUEUE_KEY + b"\0"]], FOR_EVER, 1], _claim(first)) is None
    return [first, second]


def test_who_does_not_wait_overtakes_nobody_as_time_passes(at: Coordinator, delayed: list[Client]) -> None:
    """A task that becomes due just after the line was looked at is for the first of the line."""
    first, second = delayed
    statuses = [at.ask(second, "in_line", [[], 0, 2], _claim(second))[0] for _ in range(8)]
    assert statuses == [REFUSED] * 8
    assert [(client, status) for client, status, _ in at.turn()] == [(first, COMMITTED)]


def test_whose_time_is_up_overtakes_nobody(at: Coordinator, delayed: list[Client]) -> None:
    """Also who has waited, behind another, to the moment at which a task becomes due."""
    _, second = delayed
    assert at.ask(second, "in_line", [[], 1, 2], _claim(second)) is None
    told = at.turn(after_s=0.002)
    assert (second, COMMITTED) not in [(client, status) for client, status, _ in told]

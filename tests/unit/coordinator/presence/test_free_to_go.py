"""Which requests that may wait are decided with the commits of their turn."""

from __future__ import annotations

from shoal.coordinator.server.clients import Client
from shoal.primitives.rules import registry
from shoal.shm.wire import request as wire_request
from shoal.shm.wire.request import decode_request, encode_mutations
from tests.unit.coordinator.presence.test_control_requests import FOR_EVER, LEASE, Coordinator
from tests.unit.coordinator.presence.test_control_requests import at as at


def test_who_is_free_to_go_with_the_commits(at: Coordinator) -> None:
    """Nobody who waits is overtaken, and what those held that have gone is free before."""
    key = LEASE[:-1] + b"\x06\0\1q\0"

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

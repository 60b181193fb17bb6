"""The rules of leases over a dict: what the index of holders says, and which tokens are given out."""

from __future__ import annotations

import pytest

from shoal.primitives.rules import lease_rules
from shoal.shm import holder_index
from shoal.shm.operation import Decision, VersionedValue

_LEASE = b"\x81\x81\x81\x03run\x08name"


class _Store:
    """What the rules have written."""

    def __init__(self) -> None:
        self.held: dict[bytes, bytes] = {}

    def read(self, key: bytes) -> VersionedValue | None:
        value = self.held.get(key)
        return None if value is None else VersionedValue(value, 1, 0)

    def write(self, decision: Decision) -> None:
        for key, value, _ in decision.writes:
            if value is None:
                del self.held[key]
            else:
                self.held[key] = value

    def take(self, holder: int, ttl_ms: int, ticket: int) -> int:
        decision = lease_rules.take(self.read, 0, _LEASE, "name", 3, holder, 4711, ttl_ms, ticket)
        self.write(decision)
        token: int = decision.result[0]
        return token

    def ttl_ms(self, holder: int) -> int | None:
        entry = self.held.get(holder_index.entry_key(holder, _LEASE))
        return None if entry is None else holder_index.decode_ttl_ms(entry)


def test_a_holder_of_several_slots_has_the_shortest_ttl() -> None:
    """Its entry ends with the slot that ends first, whichever was taken first; with the last slot the entry goes."""
    store = _Store()
    store.take(1, 30_000, 11)
    store.take(1, 500, 12)
    store.take(2, 9_000, 13)
    assert (store.ttl_ms(1), store.ttl_ms(2)) == (500, 9_000)
    store.write(lease_rules.release(store.read, 0, _LEASE, 1, 12))
    assert (store.ttl_ms(1), store.ttl_ms(2)) == (30_000, 9_000)
    store.write(lease_rules.release(store.read, 0, _LEASE, 1, 11))
    assert (store.ttl_ms(1), store.ttl_ms(2)) == (None, 9_000)


@pytest.mark.parametrize("known", [1, 2, 3, 4, 9])
def test_tokens_are_above_those_of_an_import(known: int) -> None:
    """After a token of an export is known, the next one is above it and above all that were given before."""
    store = _Store()
    given = [store.take(1, 1000, 11), store.take(1, 1000, 12)]
    store.write(lease_rules.raise_tokens(store.read, 0, lease_rules.TOKEN_KEY, known))
    assert store.take(1, 1000, 13) == max(known, *given) + 1

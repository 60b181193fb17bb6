"""How each operation is asked for: its name and arguments, in the order in which its rule takes them.

A function here and the rule that it names are the two ends of one call. No other file knows what ``Engine.perform``
carries between them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from shoal.primitives.engine import Engine, EnginePipeline, EngineTransaction, Holding
from shoal.primitives.keys import only
from shoal.primitives.rules import registry
from shoal.primitives.rules.cell_rules import CellRecord
from shoal.primitives.rules.lease_rules import TOKEN_KEY

if TYPE_CHECKING:
    from concurrent.futures import Future


class _Asking(NamedTuple):
    """An engine for requests to a pipeline: each returns a future."""

    pipeline: EnginePipeline
    convert: Callable[[Any], Any] | None

    def perform(self, name: str, arguments: list[Any]) -> Future[Any]:
        return self.pipeline.perform(name, arguments, self.convert)


def asking(pipeline: EnginePipeline, convert: Callable[[Any], Any] | None = None) -> Engine:
    """An engine with which each function here returns a future in place of what it says.

    The result of the future is the operation's, or what ``convert`` makes of it.
    """
    return cast(Engine, _Asking(pipeline, convert))


def delete(engine: Engine, key: bytes) -> bool:
    """``key_rules.delete``: whether the key was there."""
    deleted: bool = engine.perform(registry.DELETE, [key])
    return deleted


def increment(engine: Engine, key: bytes, by: int) -> int:
    """``key_rules.increment``: the sum."""
    total: int = engine.perform(registry.INCREMENT, [key, by])
    return total


def insert(engine: Engine, exists: str, required: list[bytes | str], writes: list[bytes]) -> Any:
    """``key_rules.insert``: write keys and values (flat), the first of which must be new. The result is None."""
    return engine.perform(registry.INSERT, [writes[0], exists, required, writes])


def init_cell(engine: Engine, key: bytes, name: str, value: bytes) -> int:
    """``cell_rules.init``: the cell's version."""
    version: int = engine.perform(registry.CELL_INIT, [key, name, value])
    return version


def cas_cell(engine: Engine, key: bytes, name: str, expected_version: int, value: bytes) -> int:
    """``cell_rules.cas``: the cell's new version."""
    version: int = engine.perform(registry.CELL_CAS, [key, name, expected_version, value])
    return version


def swap_cell(engine: Engine, key: bytes, name: str, expected_version: int, value: bytes) -> CellRecord | None:
    """``cell_rules.swap``: None if the cell was changed, else what it holds."""
    found: list[Any] | None = engine.perform(registry.CELL_SWAP, [key, name, expected_version, value])
    return None if found is None else CellRecord(*found)


def set_cell(engine: Engine, key: bytes, value: bytes) -> int:
    """``cell_rules.put``: the cell's new version."""
    version: int = engine.perform(registry.CELL_SET, [key, value])
    return version


def delete_cell(engine: Engine, key: bytes) -> bool:
    """``cell_rules.delete``: whether the cell was there."""
    deleted: bool = engine.perform(registry.CELL_DELETE, [key])
    return deleted


def append_events(engine: Engine, metadata_key: bytes, chain: str, entries: list[list[Any]]) -> list[list[Any]]:
    """``event_rules.append``: [sequence, hash] of each of the entries, which are [type, canonical payload]."""
    results: list[list[Any]] = engine.perform(registry.EVENT_APPEND, [metadata_key, chain, entries])
    return results


def take_lease(
    holding: Holding, key: bytes, name: str, slots: int, ttl_s: float, ticket: int, give_up_s: float
) -> list[int]:
    """``lease_rules.take``, in line until ``give_up_s`` (monotonic): token and slot."""
    ttl_ms = max(1, int(ttl_s * 1000))
    taken: list[int] = holding.acquire(
        ticket,
        (registry.LEASE_TAKE, [key, name, slots, holding.holder, os.getpid(), ttl_ms, ticket]),
        (registry.LEASE_RELEASE, [key, holding.holder, ticket]),
        [only(key)],
        ttl_s,
        give_up_s,
    )
    return taken


def release_lease(holding: Holding, key: bytes, ticket: int) -> None:
    """``lease_rules.release`` of what this holder took with ``ticket``."""
    holding.release(ticket, (registry.LEASE_RELEASE, [key, holding.holder, ticket]))


def raise_tokens(engine: Engine, token: int) -> None:
    """``lease_rules.raise_tokens``: every later token is above ``token``."""
    engine.perform(registry.TOKENS_RAISE, [TOKEN_KEY, token])


def fence_lease(transaction: EngineTransaction, holder: int, key: bytes, name: str, token: int) -> None:
    """``lease_rules.fence``, decided when the transaction commits."""
    transaction.require(registry.LEASE_FENCE, [key, name, holder, token])


def restore_events(engine: Engine, metadata_key: bytes, events: list[list[Any]]) -> None:
    """``event_rules.restore``: write [sequence, type, canonical payload, timestamp, hash before, hash] of each."""
    engine.perform(registry.EVENT_RESTORE, [metadata_key, events])

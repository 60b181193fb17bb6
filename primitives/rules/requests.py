"""How each operation is asked for: its name and arguments, in the order in which its rule takes them.

A function here and the rule that it names are the two ends of one call. No other file knows what ``Engine.perform``
carries between them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from shoal.primitives.engine import Engine, EnginePipeline, EngineTransaction, Holding, Operation
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


def refuse_if_read_only(engine: Engine) -> None:
    """What a write through an engine that only reads raises: for writes that look first, or may have nothing to do."""
    if engine.read_only:
        engine.delete(b"")  # refuses, and says why


def delete(engine: Engine, key: bytes) -> bool:
    """``key_rules.delete``: whether the key was there."""
    deleted: bool = engine.perform(registry.DELETE, [key])
    return deleted


def increment(engine: Engine, key: bytes, by: int) -> int:
    """``key_rules.increment``: the sum."""
    total: int = engine.perform(registry.INCREMENT, [key, by])
    return total


def remember_later(transaction: EngineTransaction, key: bytes, value: bytes, ttl_ms: int) -> None:
    """``key_rules.remember``, decided when the transaction commits: the time until then does not count."""
    transaction.defer(registry.REMEMBER, [key, value, ttl_ms])


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


def release_lease_later(holding: Holding, key: bytes, ticket: int) -> None:
    """The same as soon as it is possible, without waiting for it, if it was not done already."""
    holding.release_later(ticket, (registry.LEASE_RELEASE, [key, holding.holder, ticket]))


def raise_tokens(engine: Engine, token: int) -> None:
    """``lease_rules.raise_tokens``: every later token is above ``token``."""
    engine.perform(registry.TOKENS_RAISE, [TOKEN_KEY, token])


def fence_lease(transaction: EngineTransaction, holder: int, key: bytes, name: str, token: int) -> None:
    """``lease_rules.fence``, decided when the transaction commits."""
    transaction.require(registry.LEASE_FENCE, [key, name, holder, token])


def put_tasks(
    engine: Engine, key: bytes, options: tuple[int, int, int], user_key: bytes | None, tasks: list[bytes]
) -> list[bytes]:
    """``queue_rules.put``: the ids. ``options``: priority, delay (ms), most attempts. ``tasks``: id, payload, ..."""
    ids: list[bytes] = engine.perform(registry.TASK_PUT, [key, *options, user_key, False, tasks])
    return ids


def put_tasks_later(
    transaction: EngineTransaction,
    key: bytes,
    options: tuple[int, int, int],
    user_key: bytes | None,
    tasks: list[bytes],
) -> None:
    """The same, decided when the transaction commits. The ``user_key`` is new, and the transaction writes it."""
    transaction.defer(registry.TASK_PUT, [key, *options, user_key, True, tasks])


def claim_tasks(
    holding: Holding, key: bytes, name: str, ttl_s: float, ticket: tuple[int, int], limit: int, give_up_s: float
) -> list[list[Any]]:
    """``queue_rules.claim``, in line until ``give_up_s`` (monotonic): id, payload, attempt and token of each task.

    ``ticket``: the number, and the first token of what was claimed with it before, 0 if nothing was.
    """
    number, former_token = ticket
    ttl_ms = max(1, int(ttl_s * 1000))
    claimed: list[list[Any]] = holding.acquire(
        number,
        (registry.TASK_CLAIM, [key, name, holding.holder, os.getpid(), ttl_ms, number, former_token, limit]),
        (registry.TASK_UNCLAIM, [key, holding.holder, number]),
        [only(key)],
        ttl_s,
        give_up_s,
    )
    return claimed


def unclaim_tasks(holding: Holding, key: bytes, ticket: int) -> None:
    """``queue_rules.unclaim`` of what this holder claimed with ``ticket``."""
    holding.release(ticket, (registry.TASK_UNCLAIM, [key, holding.holder, ticket]))


def complete_task(engine: Engine, claimed: list[Any], result: bytes) -> None:
    """``queue_rules.complete``. ``claimed``, here and below: queue key, name and id of the task, holder, token."""
    engine.perform(*completion(claimed, result))


def completion(claimed: list[Any], result: bytes) -> Operation:
    """The operation that ``complete_task`` asks for."""
    return registry.TASK_COMPLETE, [*claimed, result]


def complete_task_later(
    transaction: EngineTransaction, claimed: list[Any], result: bytes, committed: Callable[[], None]
) -> None:
    """The same, decided when the transaction commits."""
    transaction.defer(registry.TASK_COMPLETE, [*claimed, result], committed)
    fence_task(transaction, claimed)  # holds also if the transaction deletes the run, and drops the other with it


def fail_task(engine: Engine, claimed: list[Any], error: str, retry_ms: int) -> None:
    """``queue_rules.fail``."""
    engine.perform(*failure(claimed, error, retry_ms))


def failure(claimed: list[Any], error: str, retry_ms: int) -> Operation:
    """The operation that ``fail_task`` asks for."""
    return registry.TASK_FAIL, [*claimed, error, retry_ms]


def fail_task_later(
    transaction: EngineTransaction, claimed: list[Any], error: str, retry_ms: int, committed: Callable[[], None]
) -> None:
    """The same, decided when the transaction commits."""
    transaction.defer(registry.TASK_FAIL, [*claimed, error, retry_ms], committed)
    fence_task(transaction, claimed)  # as in ``complete_task_later``


def release_task(engine: Engine, claimed: list[Any]) -> None:
    """``queue_rules.release``."""
    engine.perform(*giving_back(claimed))


def giving_back(claimed: list[Any]) -> Operation:
    """The operation that ``release_task`` asks for."""
    return registry.TASK_RELEASE, claimed


def fence_task(transaction: EngineTransaction, claimed: list[Any]) -> None:
    """``queue_rules.fence``, decided when the transaction commits."""
    transaction.require(registry.TASK_FENCE, claimed)


def retry_task(engine: Engine, key: bytes, name: str, task_id: bytes) -> None:
    """``queue_rules.retry``."""
    engine.perform(registry.TASK_RETRY, [key, name, task_id])


def cancel_task(engine: Engine, key: bytes, task_id: bytes) -> bool:
    """``queue_rules.cancel``: whether the task had not ended."""
    cancelled: bool = engine.perform(registry.TASK_CANCEL, [key, task_id])
    return cancelled


def purge_tasks(engine: Engine, key: bytes, ids: list[bytes], status: int, is_delayed: bool) -> int:
    """``queue_rules.purge``: how many were removed."""
    purged: int = engine.perform(registry.TASK_PURGE, [key, ids, status, is_delayed])
    return purged


def restore_task(engine: Engine, key: bytes, name: str, task_id: bytes, fields: list[Any]) -> None:
    """``queue_rules.restore``."""
    engine.perform(registry.TASK_RESTORE, [key, name, task_id, fields])


def restore_events(engine: Engine, metadata_key: bytes, events: list[list[Any]]) -> None:
    """``event_rules.restore``: write [sequence, type, canonical payload, timestamp, hash before, hash] of each."""
    engine.perform(registry.EVENT_RESTORE, [metadata_key, events])


def begin_log(engine: Engine, beginning_key: bytes, beginning: list[Any], chain: str, timestamp: int) -> None:
    """``trim_rules.begin``: begin an empty log as one that was trimmed."""
    engine.perform(registry.EVENT_BEGIN, [beginning_key, beginning, chain, timestamp])


def trim_events(engine: Engine, beginning_key: bytes, first: int, before: int, lasts: list[int]) -> int | None:
    """``trim_rules.trim``: the sequence with which the log begins then; None if it is to be looked at again."""
    begins: int | None = engine.perform(registry.EVENT_TRIM, [beginning_key, first, before, lasts])
    return begins

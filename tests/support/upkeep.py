"""Passes of upkeep as a coordinator makes them, but over any engine, at a time of the test's own; and old records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import shoal
from shoal.primitives.rules import requests
from shoal.primitives.rules.hash_chain import GENESIS_HASH, canonical, event_hash
from shoal.primitives.rules.queues import records
from shoal.primitives.rules.retention.upkeep import upkeep
from shoal.primitives.views import events, runs, traces
from shoal.primitives.views.fleet.tasks import STORED, TaskStatus, base_of, task_name
from shoal.primitives.views.runs import RunsView
from shoal.shm import codec
from shoal.shm.host.randomness import random_bits

LEAST_SLICE = 16  # what a slice looks at before it can remove anything is less


def do_pass(db: shoal.Database, now_ms: int, most: int, between: Callable[[], None] = lambda: None) -> int:
    """One pass, each slice a transaction; calls ``between`` after each. How many slices it took."""
    cursor: bytes | None = b""
    slices = 0
    while cursor is not None:
        transaction = db._store.begin()
        try:
            found = upkeep(transaction.find, transaction.scan, cursor, now_ms, most)
            for lower, upper in found.clears:
                transaction.clear(lower, upper)
            for key, value, expires_ms in found.writes:
                if value is None:
                    transaction.delete(key)
                else:
                    transaction.put(key, value, expires_ms)
            transaction.commit()
        except shoal.ConflictError:  # the coordinator of the store has done some of it meanwhile
            continue
        finally:
            transaction.abandon()
        assert found.cursor != cursor, "no step forward"
        cursor = found.cursor
        slices += 1
        between()
    return slices


def append_at(db: shoal.Database, space: shoal.Namespace, run: str, timestamp: int, *types: str) -> None:
    """Append events with a timestamp, together."""
    log = shoal.EventLog(db, namespace=space)
    length, head = log.anchor(run)
    made = []
    for sequence, event_type in enumerate(types, length):
        own = event_hash("xxh3", sequence, event_type, canonical(sequence), timestamp, head)
        made.append(shoal.Event(sequence, event_type, sequence, timestamp, head, own))
        head = own
    events.restore(log._views[run], made)
    assert length or made[0].prev_hash == GENESIS_HASH


def record_at(
    db: shoal.Database, space: shoal.Namespace, run: str, timestamp: int, trace_id: str, parent: str | None = None
) -> None:
    """Record a trace with a timestamp."""
    store = shoal.TraceStore(db, namespace=space)
    kind = shoal.TraceType.Custom(f"kind {trace_id[-1:]}", None)
    traces.restore(store._views[run], shoal.Trace(trace_id, parent, kind, timestamp, ["a", trace_id], {"of": run}))


def archive_at(db: shoal.Database, space: shoal.Namespace, run: str, timestamp: int) -> None:
    """Register a run that was archived at a time."""
    other = shoal.RunIndex(db, namespace=space)
    made = other.create_run(run_id=run, tags=["t"])
    other.delete_run(run)
    archived = replace(made, status=shoal.RunStatus.Archived, created_at=timestamp - 1, updated_at=timestamp)
    with db.transaction(run, namespace=space) as txn:
        runs.restore(RunsView(txn._begun(), space), archived)


def put_task_at(
    db: shoal.Database,
    space: shoal.Namespace,
    run: str,
    queue: str,
    status: TaskStatus,
    timestamp: int,
    put_at: int | None = None,
    key: str | None = None,
    payload_bytes: int = 1,
) -> str:
    """Put a task that has ended at a time, or one that waits; its id."""
    created = timestamp if put_at is None else put_at
    task_id = (created << 80 | 7 << 76 | 2 << 62 | random_bits(62)).to_bytes(16, "big")
    name, stored, body = task_name(queue, task_id), STORED[status], codec.encode(bytes(payload_bytes))
    is_done = status is TaskStatus.Done
    due_ms = 0 if status in (TaskStatus.Ready, TaskStatus.Claimed) else timestamp
    fields = [1, stored, 0, 1, 5, created, due_ms, body, body if is_done else None, None]
    fields.append(None if key is None else key.encode())
    where = base_of(space, run, queue) + records.QUEUE
    requests.restore_task(db._store.auto_commit, where, name, task_id, fields)
    return name

"""The upkeep of the records and indices of the runs of a namespace. ``rules.layouts.run_keys`` has their keys.

Invariants: a record and its index keys are written by the same commit. The id, parent and created_at of a run do not
change while it is registered. Its parent may have been deleted since. What a run holds lies under its own prefix
(``run_contents``) and needs no record here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from shoal.primitives.engine import Engine
from shoal.primitives.keys import after, bound, decode_text, encode_text
from shoal.primitives.rules import requests
from shoal.primitives.rules.layouts import run_keys
from shoal.primitives.rules.layouts.parts import NUMBER_BYTES
from shoal.primitives.run_types import RunMetadata, RunStatus, decode_run, encode_run, has_ended, status_number
from shoal.shm.clock import now_ms
from shoal.shm.errors import AlreadyExistsError, CorruptionError, NotFoundError
from shoal.shm.limits import MAX_RUN_ID_BYTES

RECORD, ALL = run_keys.RECORD, run_keys.ALL


def by_status(status: RunStatus) -> bytes:
    """The index of the runs of a status."""
    return run_keys.by_status(status_number(status))


def by_tag(tag: str) -> bytes:
    """The index of the runs that have a tag."""
    return run_keys.by_tag(tag.encode())


def by_parent(parent_run: str) -> bytes:
    """The index of the children of a run."""
    return run_keys.by_parent(parent_run.encode())


class RunRecords:
    """The records of the namespace whose ``_runs_prefix`` is ``prefix``, over one engine."""

    __slots__ = ("_engine", "_prefix")

    def __init__(self, engine: Engine, prefix: bytes) -> None:
        self._engine = engine
        self._prefix = prefix

    def find(self, run_id: str) -> RunMetadata | None:
        """A run's metadata; None if it is not registered."""
        found = self._engine.find(self._record_key(run_id))
        return None if found is None else decode_run(run_id, found.value)

    def registered(self, run_id: str) -> RunMetadata:
        """The metadata of a run, for a write; ``NotFoundError`` if it is not registered."""
        run = self.find(run_id)
        requests.refuse_if_read_only(self._engine)
        if run is None:
            raise NotFoundError(f"run {run_id!r} is not registered; create_run registers it")
        return run

    def listed(self, run_id: str) -> RunMetadata:
        """The metadata of a run that an index names. Index and record change together, so it is registered."""
        found = self._engine.find(self._prefix + RECORD + run_id.encode())
        if found is None:
            raise CorruptionError("an index of the runs", 0, f"the record of run {run_id!r}", "none")
        return decode_run(run_id, found.value)

    def must_be_new(self, run_id: str) -> None:
        """Raise ``AlreadyExistsError`` if a run is registered, for a write."""
        found = self._engine.find(self._record_key(run_id))
        requests.refuse_if_read_only(self._engine)
        if found is not None:
            raise AlreadyExistsError(f"run {run_id!r} is registered already; take another id")

    def register(self, run: RunMetadata, raw: bytes) -> RunMetadata:
        """Write a new run, whose stored form is ``raw``, with its index keys; what ``find`` then gives."""
        self._engine.put(self._record_key(run.run_id), raw)
        for key in self._index_keys(run):
            self._engine.put(key, b"")
        return decode_run(run.run_id, raw)  # what get_run will say, and nothing of the caller's own

    def update(self, run: RunMetadata, **changed: Any) -> RunMetadata:
        """Write a run with some fields changed: the record, and the index keys that differ."""
        now = max(now_ms(), run.updated_at)  # the clock of another process may be behind
        if "status" in changed and has_ended(changed["status"]):
            changed["completed_at"] = now
        new = replace(run, updated_at=now, **changed)
        raw = encode_run(new)
        old_keys, new_keys = self._index_keys(run), self._index_keys(new)
        for key in old_keys - new_keys:
            self._engine.delete(key)
        for key in new_keys - old_keys:
            self._engine.put(key, b"")
        self._engine.put(self._record_key(run.run_id), raw)
        return decode_run(run.run_id, raw)

    def unregister(self, run: RunMetadata) -> None:
        """Delete a run's record and index keys."""
        self._engine.delete(self._record_key(run.run_id))
        for key in self._index_keys(run):
            self._engine.delete(key)

    def ids(self, index: bytes, created_after: int | None = None, created_before: int | None = None) -> Iterator[str]:
        """The run ids of one index; ended early, only what was read of it is validated."""
        start = self._prefix + index
        lower = start + bound(created_after or 0)
        upper = after(start) if created_before is None else start + bound(created_before)
        if lower < upper:
            for key, _ in self._engine.scan(lower, upper):
                yield decode_text(key[len(start) + NUMBER_BYTES :])

    def _record_key(self, run_id: str) -> bytes:
        return self._prefix + RECORD + encode_text("run_id", run_id, MAX_RUN_ID_BYTES)

    def _index_keys(self, run: RunMetadata) -> set[bytes]:
        tags = (tag.encode() for tag in run.tags)
        parent_run = None if run.parent_run is None else run.parent_run.encode()
        status = status_number(run.status)
        return run_keys.index_keys(self._prefix, run.run_id.encode(), run.created_at, status, tags, parent_run)

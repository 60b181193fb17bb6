"""The runs of a namespace over one engine transaction: how ``RunIndex`` stores them.

Keys, all at the level of the namespace (key_space.runs_prefix, tag RUN), by kind:

    0  run id                                   the record of a run (run_types)
    1  status, 1 byte · created · run id        by status
    2  sized tag · created · run id             by tag
    3  sized parent id · created · run id       by parent
    4  created · run id                         all

``created`` is the number created_at, so every index is in the order of results: by created_at, then id. Indices hold
no value. A record and its index keys are always written by the same commit; a run's id, parent and created_at never
change while it is registered. A parent may have been deleted since. What a run holds lies under its own prefix
(run_contents) and needs no record here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from shoal.primitives import identifiers, run_contents
from shoal.primitives.engine import Engine
from shoal.primitives.keys import Namespace, Tag, after, bound, decode_text, encode_text, number, sized
from shoal.primitives.run_types import (
    CreateRunOptions,
    RunMetadata,
    RunQuery,
    RunStats,
    RunStatus,
    check_status,
    check_tags,
    decode_run,
    encode_run,
    has_ended,
)
from shoal.shm.clock import now_ms
from shoal.shm.codec import Value
from shoal.shm.errors import AlreadyExistsError, InvalidStatusTransitionError, NotFoundError
from shoal.shm.limits import MAX_RUN_ID_BYTES

_RECORD, _BY_STATUS, _BY_TAG, _BY_PARENT, _ALL = (bytes((Tag.RUN, kind)) for kind in range(5))
_CREATED_BYTES = 8


def _new_run(run_id: str | None, parent_run: str | None, tags: list[str], metadata: Value) -> RunMetadata:
    """A run that begins now, Active; its id is made if None is given."""
    now = now_ms()
    return RunMetadata(
        run_id=identifiers.new_id() if run_id is None else run_id,
        parent_run=parent_run,
        status=RunStatus.Active,
        created_at=now,
        updated_at=now,
        completed_at=None,
        tags=tags,
        metadata=metadata,
        error=None,
    )


def _by_status(status: RunStatus) -> bytes:
    return _BY_STATUS + bytes((status.number,))


def _by_tag(tag: str) -> bytes:
    return _BY_TAG + sized(tag.encode())


def _by_parent(parent_run: str) -> bytes:
    return _BY_PARENT + sized(encode_text("parent_run", parent_run, MAX_RUN_ID_BYTES))


class RunsView:
    """The methods of ``RunIndex`` over one engine transaction."""

    __slots__ = ("_engine", "_namespace", "_prefix")

    def __init__(self, engine: Engine, namespace: Namespace) -> None:
        self._engine = engine
        self._namespace = namespace
        self._prefix = namespace.runs_prefix()

    def create_run(
        self,
        *,
        run_id: str | None = None,
        parent_run: str | None = None,
        tags: Iterable[str] = (),
        metadata: Value = None,
    ) -> RunMetadata:
        """Register a run, Active; ``AlreadyExistsError``, or ``NotFoundError`` if the parent is not registered."""
        return self.create_run_with_options(CreateRunOptions(run_id, parent_run, tags, metadata))

    def create_run_with_options(self, options: CreateRunOptions) -> RunMetadata:
        """``create_run`` with its keywords in one object."""
        if not isinstance(options, CreateRunOptions):
            raise TypeError(f"options has type {type(options).__name__}; give a shoal.CreateRunOptions")
        run = _new_run(options.run_id, options.parent_run, list(options.tags), options.metadata)
        raw = encode_run(run)
        self._must_be_new(run.run_id)
        if options.parent_run is not None:
            self._registered(options.parent_run)
        return self._register(run, raw)

    def get_run(self, run_id: str) -> RunMetadata | None:
        """A run's metadata; None if it is not registered."""
        found = self._engine.find(self._record_key(run_id))
        return None if found is None else decode_run(run_id, found.value)

    def update_status(self, run_id: str, status: RunStatus) -> RunMetadata:
        """Give a run another status; ``InvalidStatusTransitionError`` if ``RunStatus`` does not allow it."""
        return self._change_status(run_id, check_status(status), None)

    def complete_run(self, run_id: str) -> RunMetadata:
        """Active -> Completed."""
        return self._change_status(run_id, RunStatus.Completed, None)

    def fail_run(self, run_id: str, error: str) -> RunMetadata:
        """Active -> Failed, with what went wrong."""
        if not isinstance(error, str):
            raise TypeError(f"error has type {type(error).__name__}; give a str, as str(exception)")
        return self._change_status(run_id, RunStatus.Failed, error)

    def pause_run(self, run_id: str) -> RunMetadata:
        """Active -> Paused."""
        return self._change_status(run_id, RunStatus.Paused, None)

    def resume_run(self, run_id: str) -> RunMetadata:
        """Paused -> Active."""
        return self._change_status(run_id, RunStatus.Active, None)

    def cancel_run(self, run_id: str) -> RunMetadata:
        """Active or Paused -> Cancelled."""
        return self._change_status(run_id, RunStatus.Cancelled, None)

    def archive_run(self, run_id: str) -> RunMetadata:
        """Any status -> Archived: hidden from ``query_runs``, its data stays. There is no way back."""
        return self._change_status(run_id, RunStatus.Archived, None)

    def add_tags(self, run_id: str, tags: Iterable[str]) -> RunMetadata:
        """Add tags behind those the run has; one it has already stays where it is."""
        added = check_tags(tags)
        run = self._registered(run_id)
        return self._update(run, tags=list(dict.fromkeys(run.tags + added)))

    def remove_tags(self, run_id: str, tags: Iterable[str]) -> RunMetadata:
        """Take tags away; one the run does not have is no error."""
        removed = check_tags(tags)
        run = self._registered(run_id)
        return self._update(run, tags=[tag for tag in run.tags if tag not in removed])

    def update_metadata(self, run_id: str, metadata: Value) -> RunMetadata:
        """Replace the metadata as a whole."""
        return self._update(self._registered(run_id), metadata=metadata)

    def query_runs(self, query: RunQuery = RunQuery()) -> list[RunMetadata]:  # noqa: B008 (frozen)
        """The runs that match, by created_at, then id."""
        if not isinstance(query, RunQuery):
            raise TypeError(f"query has type {type(query).__name__}; give a shoal.RunQuery")
        runs: list[RunMetadata] = []
        if query.limit == 0:
            return runs
        for run_id in self._ids(self._best_index(query), query.created_after, query.created_before):
            run = self._registered(run_id)
            if query.matches(run):
                runs.append(run)
                if len(runs) == query.limit:
                    break
        return runs

    def list_runs(self) -> list[str]:
        """The ids of all registered runs, archived ones too, by created_at, then id."""
        return list(self._ids(_ALL))

    def get_child_runs(self, parent_run: str) -> list[RunMetadata]:
        """The runs created under or forked from one, archived ones too, by created_at, then id."""
        return [self._registered(run_id) for run_id in self._ids(_by_parent(parent_run))]

    def get_stats(self) -> RunStats:
        """How many runs there are of each status."""
        counts = [sum(1 for _ in self._ids(_by_status(status))) for status in RunStatus]
        active, completed, failed, cancelled, paused, archived = counts
        return RunStats(sum(counts), active, completed, failed, cancelled, paused, archived)

    def delete_run(self, run_id: str, *, cascade_children: bool = False) -> None:
        """Delete a run and everything in it; with ``cascade_children`` all its descendants likewise.

        ``NotFoundError`` if it is neither registered nor holds anything.
        """
        if type(cascade_children) is not bool:
            raise TypeError(f"cascade_children has type {type(cascade_children).__name__}; give a bool")
        run_prefix = self._namespace.run_prefix(run_id)
        run = self.get_run(run_id)
        if run is None and not run_contents.holds_anything(self._engine, run_prefix):
            raise NotFoundError(f"run {run_id!r} is not registered and holds nothing; there is nothing to delete")
        below = self._descendants(run_id) if cascade_children else []
        prefixes = [self._namespace.run_prefix(child.run_id) for child in below]
        keys_of = [run_contents.few_keys(self._engine, prefix) for prefix in prefixes]
        run_contents.remove(self._engine, run_prefix)
        for prefix, keys in zip(prefixes, keys_of, strict=True):
            if keys is None:
                run_contents.remove(self._engine, prefix)
            else:
                for key in keys:
                    self._engine.delete(key)
        for registered in below if run is None else [run, *below]:
            self._unregister(registered)

    def fork_run(self, run_id: str, *, new_run_id: str | None = None) -> RunMetadata:
        """Register a child of a run, Active, with a copy of all it holds; see ``RunIndex.fork_run`` for the errors."""
        return self.fork_run_from(self._engine, run_id, new_run_id)

    def fork_run_from(self, source: Engine, run_id: str, new_run_id: str | None) -> RunMetadata:
        """``fork_run`` with what the run holds read from ``source``, at one moment of it."""
        run = _new_run(new_run_id, run_id, [], None)
        raw = encode_run(run)
        to_prefix = self._namespace.run_prefix(run.run_id)
        self._must_be_new(run.run_id)
        if run_contents.holds_anything(self._engine, to_prefix):
            raise AlreadyExistsError(f"run {run.run_id!r} holds something already; fork to another new_run_id")
        is_registered = self.get_run(run_id) is not None
        writes = run_contents.copied(source, self._namespace.run_prefix(run_id), to_prefix)
        if not writes and not is_registered:
            raise NotFoundError(f"run {run_id!r} is not registered and holds nothing; there is nothing to fork")
        for write in writes:
            assert write.value is not None
            self._engine.put(write.key, write.value, write.expires_ms)
        return self._register(run, raw)

    def restore_run(self, run: RunMetadata) -> None:
        """Register a run exactly as ``query_runs(RunQuery(include_archived=True))`` gave it elsewhere, times included.

        Not part of ``RunIndex``: for import, whose other half that query is. The parent may come later, or never.
        Raises ``AlreadyExistsError`` if the id is registered, ``TypeError`` or ``ValueError`` for a bad field.
        """
        if not isinstance(run, RunMetadata):
            raise TypeError(f"run has type {type(run).__name__}; give a shoal.RunMetadata")
        raw = encode_run(run)
        self._must_be_new(run.run_id)
        self._register(replace(run, tags=check_tags(run.tags)), raw)

    def _change_status(self, run_id: str, status: RunStatus, error: str | None) -> RunMetadata:
        run = self._registered(run_id)
        if not run.status.may_become(status):
            raise InvalidStatusTransitionError(run.status, status)
        changed: dict[str, Any] = {"status": status}
        if error is not None:
            changed["error"] = error
        return self._update(run, **changed)

    def _update(self, run: RunMetadata, **changed: Any) -> RunMetadata:
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

    def _register(self, run: RunMetadata, raw: bytes) -> RunMetadata:
        self._engine.put(self._record_key(run.run_id), raw)
        for key in self._index_keys(run):
            self._engine.put(key, b"")
        return decode_run(run.run_id, raw)  # what get_run will say, and nothing of the caller's own

    def _unregister(self, run: RunMetadata) -> None:
        self._engine.delete(self._record_key(run.run_id))
        for key in self._index_keys(run):
            self._engine.delete(key)

    def _registered(self, run_id: str) -> RunMetadata:
        run = self.get_run(run_id)
        if run is None:
            raise NotFoundError(f"run {run_id!r} is not registered; create_run registers it")
        return run

    def _must_be_new(self, run_id: str) -> None:
        if self._engine.find(self._record_key(run_id)) is not None:
            raise AlreadyExistsError(f"run {run_id!r} is registered already; take another id")

    def _descendants(self, run_id: str) -> list[RunMetadata]:
        """All below a run, each once: after a delete and a create under the same id, descent may run in a circle."""
        found: dict[str, RunMetadata] = {}
        waiting = [run_id]
        while waiting:
            for child in self.get_child_runs(waiting.pop()):
                if child.run_id != run_id and child.run_id not in found:
                    found[child.run_id] = child
                    waiting.append(child.run_id)
        return list(found.values())

    def _record_key(self, run_id: str) -> bytes:
        return self._prefix + _RECORD + encode_text("run_id", run_id, MAX_RUN_ID_BYTES)

    def _index_keys(self, run: RunMetadata) -> set[bytes]:
        indices = [_ALL, _by_status(run.status), *(_by_tag(tag) for tag in run.tags)]
        if run.parent_run is not None:
            indices.append(_by_parent(run.parent_run))
        rest = number(run.created_at) + run.run_id.encode()
        return {self._prefix + index + rest for index in indices}

    def _ids(self, index: bytes, created_after: int | None = None, created_before: int | None = None) -> Iterator[str]:
        """The run ids of one index; ended early, only what was read of it is validated."""
        start = self._prefix + index
        lower = start + bound(created_after or 0)
        upper = after(start) if created_before is None else start + bound(created_before)
        if lower < upper:
            for key, _ in self._engine.scan(lower, upper):
                yield decode_text(key[len(start) + _CREATED_BYTES :])

    @staticmethod
    def _best_index(query: RunQuery) -> bytes:
        """The index that likely has the fewest runs beside those asked for; each has the bounds in time."""
        if query.parent_run is not None:
            return _by_parent(query.parent_run)
        for tag in query.tags or ():
            return _by_tag(tag)
        return _ALL if query.status is None else _by_status(query.status)

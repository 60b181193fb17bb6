"""The runs of a namespace over one engine: their lifecycle, tags, descent, deletion and forks.

``run_records`` owns the stored records and indexes of runs, and ``run_contents`` the keys inside a run. Each method
reads and writes in one transaction. Two functions have callers of their own: ``fork`` (``RunIndex.fork_run``, which
reads the run at a snapshot) and ``restore`` (``shoal import``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

from shoal.primitives import identifiers, run_contents
from shoal.primitives.engine import Engine, EngineTransaction
from shoal.primitives.keys import Namespace, encode_text
from shoal.primitives.rules import requests
from shoal.primitives.run_types import (
    CreateRunOptions,
    RunMetadata,
    RunQuery,
    RunStats,
    RunStatus,
    check_status,
    check_tags,
    encode_run,
    matches,
)
from shoal.primitives.views.fleet.retention import RetentionView
from shoal.primitives.views.run_diff import RunDiff, diff
from shoal.primitives.views.run_records import ALL, RunRecords, by_parent, by_status, by_tag
from shoal.shm.arguments import check_bool, check_str, check_type
from shoal.shm.clock import now_ms
from shoal.shm.codec import Value
from shoal.shm.errors import AlreadyExistsError, InvalidStatusTransitionError, NotFoundError
from shoal.shm.limits import MAX_RUN_ID_BYTES
from shoal.shm.operation import check_version


class RunsView(RetentionView):
    """The methods of ``RunIndex`` in a transaction: ``txn.runs``.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     with db.transaction("run-1") as txn:
    ...         run = txn.runs.create_run(run_id="run-1", tags=["nightly"])
    ...         txn.runs.pause_run("run-1").status.name, txn.runs.list_runs()
    ('Paused', ['run-1'])

    What a method reads is validated at commit. Any call may also raise ``InvalidOperationError`` (the transaction has
    ended, or only reads), ``SnapshotExpiredError`` (its snapshot was revoked) and ``CorruptionError`` (a stored
    record is damaged). ``Transaction`` says what the commit may raise.
    """

    __slots__ = ("_records",)

    def __init__(self, engine: Engine, namespace: Namespace) -> None:
        self._engine = engine
        self._namespace = namespace
        self._records = RunRecords(engine, namespace._runs_prefix())

    def create_run(
        self,
        *,
        run_id: str | None = None,
        parent_run: str | None = None,
        tags: Iterable[str] = (),
        metadata: Value = None,
    ) -> RunMetadata:
        """Register a run, Active; without ``run_id`` its id is a new UUIDv7.

        Raises ``AlreadyExistsError`` if the id is registered, ``NotFoundError`` if ``parent_run`` is not, and
        ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        return self.create_run_with_options(CreateRunOptions(run_id, parent_run, tags, metadata))

    def create_run_with_options(self, options: CreateRunOptions) -> RunMetadata:
        """``create_run`` with its keywords in one object.

        Raises ``AlreadyExistsError`` if the id is registered, ``NotFoundError`` if ``parent_run`` is not, and
        ``TypeError``, ``ValueError`` or ``LimitExceededError`` for bad options.
        """
        check_type("options", options, CreateRunOptions, "a shoal.CreateRunOptions")
        run = _new_run(options.run_id, options.parent_run, list(options.tags), options.metadata)
        raw = encode_run(run)
        self._records.must_be_new(run.run_id)
        if options.parent_run is not None:
            self._records.registered(options.parent_run)
        return self._records.register(run, raw)

    def get_run(self, run_id: str) -> RunMetadata | None:
        """A run's metadata; None if it is not registered.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        return self._records.find(run_id)

    def update_status(self, run_id: str, status: RunStatus) -> RunMetadata:
        """Give a run another status; its new metadata.

        Raises ``InvalidStatusTransitionError`` if ``RunStatus`` does not allow it, ``NotFoundError`` for a run that is
        not registered, and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        return self._change_status(run_id, check_status(status), None)

    def complete_run(self, run_id: str) -> RunMetadata:
        """Active -> Completed; the run's new metadata.

        Raises ``InvalidStatusTransitionError`` from another status, ``NotFoundError`` for a run that is not registered,
        and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        return self._change_status(run_id, RunStatus.Completed, None)

    def fail_run(self, run_id: str, error: str) -> RunMetadata:
        """Active -> Failed, with what went wrong; the run's new metadata.

        Raises ``InvalidStatusTransitionError`` from another status, ``NotFoundError`` for a run that is not registered,
        and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        check_str("error", error, ", as str(exception)")
        return self._change_status(run_id, RunStatus.Failed, error)

    def pause_run(self, run_id: str) -> RunMetadata:
        """Active -> Paused; the run's new metadata.

        Raises ``InvalidStatusTransitionError`` from another status, ``NotFoundError`` for a run that is not registered,
        and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        return self._change_status(run_id, RunStatus.Paused, None)

    def resume_run(self, run_id: str) -> RunMetadata:
        """Paused -> Active; the run's new metadata.

        Raises ``InvalidStatusTransitionError`` from another status, ``NotFoundError`` for a run that is not registered,
        and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        return self._change_status(run_id, RunStatus.Active, None)

    def cancel_run(self, run_id: str) -> RunMetadata:
        """Active or Paused -> Cancelled; the run's new metadata.

        Raises ``InvalidStatusTransitionError`` from another status, ``NotFoundError`` for a run that is not registered,
        and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        return self._change_status(run_id, RunStatus.Cancelled, None)

    def archive_run(self, run_id: str) -> RunMetadata:
        """Any other status -> Archived, for good: hidden from ``query_runs``, its data stays.

        Raises ``InvalidStatusTransitionError`` if it is archived, ``NotFoundError`` for a run that is not registered,
        and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        return self._change_status(run_id, RunStatus.Archived, None)

    def add_tags(self, run_id: str, tags: Iterable[str]) -> RunMetadata:
        """Add tags after the present ones; a tag that the run has keeps its position. The run's new metadata.

        Raises ``NotFoundError`` for a run that is not registered, and ``TypeError``, ``ValueError`` or
        ``LimitExceededError`` for a bad argument, or for more tags than a run can have.
        """
        added = check_tags(tags)
        run = self._records.registered(run_id)
        return self._records.update(run, tags=list(dict.fromkeys(run.tags + added)))

    def remove_tags(self, run_id: str, tags: Iterable[str]) -> RunMetadata:
        """Take tags away; one the run does not have is no error. The run's new metadata.

        Raises ``NotFoundError`` for a run that is not registered, and ``TypeError``, ``ValueError`` or
        ``LimitExceededError`` for a bad argument.
        """
        removed = check_tags(tags)
        run = self._records.registered(run_id)
        return self._records.update(run, tags=[tag for tag in run.tags if tag not in removed])

    def update_metadata(self, run_id: str, metadata: Value) -> RunMetadata:
        """Replace the metadata as a whole; the run's new metadata.

        Raises ``NotFoundError`` for a run that is not registered, and ``TypeError``, ``ValueError`` or
        ``LimitExceededError`` for a bad argument.
        """
        return self._records.update(self._records.registered(run_id), metadata=metadata)

    def query_runs(self, query: RunQuery = RunQuery()) -> list[RunMetadata]:  # noqa: B008 (frozen)
        """The runs that match, by created_at, then id. ``TypeError`` if ``query`` is not a ``RunQuery``."""
        check_type("query", query, RunQuery, "a shoal.RunQuery")
        runs: list[RunMetadata] = []
        if query.limit == 0:
            return runs
        for run_id in self._records.ids(_best_index(query), query.created_after, query.created_before):
            run = self._records.listed(run_id)
            if matches(query, run):
                runs.append(run)
                if len(runs) == query.limit:
                    break
        return runs

    def list_runs(self) -> list[str]:
        """The ids of all registered runs, archived ones too, by created_at, then id."""
        return list(self._records.ids(ALL))

    def get_child_runs(self, parent_run: str) -> list[RunMetadata]:
        """The runs created under or forked from one, archived ones too, by created_at, then id.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        encode_text("parent_run", parent_run, MAX_RUN_ID_BYTES)
        return [self._records.listed(run_id) for run_id in self._records.ids(by_parent(parent_run))]

    def get_stats(self) -> RunStats:
        """How many runs there are, and how many of each status."""
        counts = [sum(1 for _ in self._records.ids(by_status(status))) for status in RunStatus]
        active, completed, failed, cancelled, paused, archived = counts
        return RunStats(sum(counts), active, completed, failed, cancelled, paused, archived)

    def delete_run(self, run_id: str, *, cascade_children: bool = False) -> None:
        """Delete a run and everything in it, and with ``cascade_children`` all its descendants.

        Raises ``NotFoundError`` if it is neither registered nor holds anything, and ``TypeError``, ``ValueError`` or
        ``LimitExceededError`` for a bad argument.
        """
        check_bool("cascade_children", cascade_children)
        run_prefix = self._namespace._run_prefix(run_id)
        requests.refuse_if_read_only(self._engine)
        run = self._records.find(run_id)
        transaction = cast(EngineTransaction, self._engine)
        if run is None and not run_contents.will_hold_anything(transaction, run_prefix):
            raise NotFoundError(f"run {run_id!r} is not registered and holds nothing; there is nothing to delete")
        below = self._descendants(run_id) if cascade_children else []
        prefixes = [self._namespace._run_prefix(child.run_id) for child in below]
        run_contents.remove_children(transaction, prefixes)
        run_contents.remove(self._engine, run_prefix)
        for registered in below if run is None else [run, *below]:
            self._records.unregister(registered)

    def diff(self, run_a: str, run_b: str) -> RunDiff:
        """What two runs differ in: keys, state, events from where the logs part, and traces.

        Raises ``NotFoundError`` for a run that is not registered and holds nothing, and ``TypeError``, ``ValueError``
        or ``LimitExceededError`` for a bad run id.
        """
        for run_id in (run_a, run_b):
            self._namespace._run_prefix(run_id)  # a bad one is refused before either is looked for
        return diff(self._engine, self._namespace, run_a, run_b)

    def fork_run(self, run_id: str, *, new_run_id: str | None = None, version: int | None = None) -> RunMetadata:
        """Register a child of a run, Active, with a copy of the run's keys, state, events and traces.

        The copy is of the transaction's snapshot with its own writes; a change since is a conflict at commit. With
        ``version`` it is of the run at that past commit version: ``SnapshotExpiredError`` if that is not kept any more,
        ``ValueError`` if it is not there yet.
        Raises ``NotFoundError`` if the run is not registered and holds nothing, ``AlreadyExistsError`` if
        ``new_run_id`` is registered or holds anything, ``LimitExceededError`` if the copy is more than the 64 MiB of
        one commit, and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        if version is None:
            return fork(self, self._engine, run_id, new_run_id)
        requests.refuse_if_read_only(self._engine)
        past = cast(EngineTransaction, self._engine).at_version(check_version(version))
        return fork_past(self, past, run_id, new_run_id)

    def _change_status(self, run_id: str, status: RunStatus, error: str | None) -> RunMetadata:
        run = self._records.registered(run_id)
        if not run.status.may_become(status):
            raise InvalidStatusTransitionError(run.status, status)
        changed: dict[str, Any] = {"status": status} if error is None else {"status": status, "error": error}
        return self._records.update(run, **changed)

    def _descendants(self, run_id: str) -> list[RunMetadata]:
        """All descendants of a run, each once. An id that was created again may make descent a circle."""
        found: dict[str, RunMetadata] = {}
        waiting = [run_id]
        while waiting:
            for child in self.get_child_runs(waiting.pop()):
                if child.run_id != run_id and child.run_id not in found:
                    found[child.run_id] = child
                    waiting.append(child.run_id)
        return list(found.values())


def fork_past(view: RunsView, past: EngineTransaction, run_id: str, new_run_id: str | None) -> RunMetadata:
    """``fork_run`` of a run as it was at the snapshot ``past``, which is ended."""
    try:
        return fork(view, past, run_id, new_run_id, RunRecords(past, view._namespace._runs_prefix()))
    finally:
        past.abandon()


def fork(
    view: RunsView, source: Engine, run_id: str, new_run_id: str | None, records: RunRecords | None = None
) -> RunMetadata:
    """``fork_run`` of what one scan of ``source`` finds. ``records``, or else the view's, say if it is registered."""
    from_prefix = view._namespace._run_prefix(run_id)  # refused here, as run_id; in the fork it is the parent_run
    run = _new_run(new_run_id, run_id, [], None)
    raw, to_prefix = encode_run(run), view._namespace._run_prefix(run.run_id)
    view._records.must_be_new(run.run_id)
    if run_contents.will_hold_anything(cast(EngineTransaction, view._engine), to_prefix):
        raise AlreadyExistsError(f"run {run.run_id!r} holds something already; fork to another new_run_id")
    is_registered = (records or view._records).find(run_id) is not None
    writes = run_contents.copied(source, from_prefix, to_prefix)
    if not writes and not is_registered and not run_contents.holds_anything(source, from_prefix):  # tasks, say
        raise NotFoundError(f"run {run_id!r} is not registered and holds nothing; there is nothing to fork")
    if run.run_id == run_id:  # of the past, deleted since: it would be a child of itself
        raise ValueError(f"new_run_id is {run_id!r}, the run itself, of which the fork is a child; take another id")
    for write in writes:
        assert write.value is not None
        view._engine.put(write.key, write.value, write.expires_ms)
    return view._records.register(run, raw)


def restore(view: RunsView, run: RunMetadata) -> None:
    """Register a run of an export exactly as ``query_runs(RunQuery(include_archived=True))`` gave it, times included.

    Its parent may come later, or never. Raises ``AlreadyExistsError`` if the id is registered, ``TypeError``,
    ``ValueError`` or ``LimitExceededError`` for a bad field.
    """
    check_type("run", run, RunMetadata, "a shoal.RunMetadata")
    raw = encode_run(run)
    view._records.must_be_new(run.run_id)
    view._records.register(replace(run, tags=check_tags(run.tags)), raw)


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


def _best_index(query: RunQuery) -> bytes:
    """The index that probably lists the fewest runs that do not match. Every index is ordered by time."""
    if query.parent_run is not None:
        return by_parent(query.parent_run)
    for tag in query.tags or ():
        return by_tag(tag)
    return ALL if query.status is None else by_status(query.status)

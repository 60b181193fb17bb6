"""RunIndex: the runs of a namespace, their lifecycle, tags and descent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from shoal.primitives.facades.facade import BoundFacade
from shoal.primitives.run_types import (
    CreateRunOptions,
    RetentionPolicy,
    RunMetadata,
    RunQuery,
    RunStats,
    RunStatus,
    check_tags,
)
from shoal.primitives.transaction import Transaction
from shoal.primitives.views.changes import RunChange, run_changes
from shoal.primitives.views.run_diff import RunDiff
from shoal.primitives.views.runs import RunsView, fork
from shoal.shm.codec import Value

T = TypeVar("T")

# A transaction is begun on a run. These calls concern no single run, so they name this one and never touch it.
_NO_RUN = "runs"


class RunIndex(BoundFacade):
    """The runs of a namespace, each call a transaction of its own.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     runs = shoal.RunIndex(db)
    ...     run = runs.create_run(run_id="run-1", tags=["nightly"], metadata={"model": "m"})
    ...     shoal.KVStore(db).put("run-1", "k", 1)
    ...     fork = runs.fork_run("run-1", new_run_id="run-2")
    ...     runs.complete_run("run-1").status.name
    ...     [run.run_id for run in runs.query_runs(shoal.RunQuery(tags=["nightly"]))]
    ...     [run.run_id for run in runs.get_child_runs("run-1")]
    ...     runs.delete_run("run-1", cascade_children=True)
    ...     runs.list_runs(), shoal.KVStore(db).list("run-2")
    'Completed'
    ['run-1']
    ['run-2']
    ([], [])

    ``db``: what ``shoal.open`` returns. ``namespace``: whose runs these are.

    A run id is a str of 1 to 128 bytes of UTF-8; the other primitives work for one that is not registered here, too. A
    tag is a str of 1 to 1,024 bytes; tags keep their order, each once. ``metadata`` is any value that ``KVStore``
    stores. ``RunStatus`` says which status may follow which. Times are integer ms since the epoch (UTC). What is
    refused as ``TypeError``, ``ValueError`` or ``LimitExceededError`` is refused before anything is sent.

    Any call may also raise ``InvalidOperationError`` (the database is closed, or a write to one that only reads),
    ``CoordinatorLostError``, ``StoreMovedError`` and ``CorruptionError`` (a record is none); a write
    ``StoreFullError``; a query ``SnapshotExpiredError`` if it takes very long. A call that conflicts with others runs
    again, for 30 seconds; only then it is ``ConflictError``.
    """

    __slots__ = ()
    _views: RunsView  # for calls that read only one key or index

    def _bind(self) -> None:
        self._views = RunsView(self._db._store.auto_commit, self.namespace)

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
        return self._change(_NO_RUN, lambda runs: runs.create_run_with_options(options))

    def get_run(self, run_id: str) -> RunMetadata | None:
        """A run's metadata; None if it is not registered.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        return self._views.get_run(run_id)

    def update_status(self, run_id: str, status: RunStatus) -> RunMetadata:
        """Give a run another status; its new metadata.

        Raises ``InvalidStatusTransitionError`` if ``RunStatus`` does not allow it, ``NotFoundError`` for a run that is
        not registered, and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        return self._change(run_id, lambda runs: runs.update_status(run_id, status))

    def complete_run(self, run_id: str) -> RunMetadata:
        """Active -> Completed; the run's new metadata.

        Raises ``InvalidStatusTransitionError`` from another status, ``NotFoundError`` for a run that is not registered,
        and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        return self._change(run_id, lambda runs: runs.complete_run(run_id))

    def fail_run(self, run_id: str, error: str) -> RunMetadata:
        """Active -> Failed, with what went wrong; the run's new metadata.

        Raises ``InvalidStatusTransitionError`` from another status, ``NotFoundError`` for a run that is not registered,
        and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        return self._change(run_id, lambda runs: runs.fail_run(run_id, error))

    def pause_run(self, run_id: str) -> RunMetadata:
        """Active -> Paused; the run's new metadata.

        Raises ``InvalidStatusTransitionError`` from another status, ``NotFoundError`` for a run that is not registered,
        and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        return self._change(run_id, lambda runs: runs.pause_run(run_id))

    def resume_run(self, run_id: str) -> RunMetadata:
        """Paused -> Active; the run's new metadata.

        Raises ``InvalidStatusTransitionError`` from another status, ``NotFoundError`` for a run that is not registered,
        and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        return self._change(run_id, lambda runs: runs.resume_run(run_id))

    def cancel_run(self, run_id: str) -> RunMetadata:
        """Active or Paused -> Cancelled; the run's new metadata.

        Raises ``InvalidStatusTransitionError`` from another status, ``NotFoundError`` for a run that is not registered,
        and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        return self._change(run_id, lambda runs: runs.cancel_run(run_id))

    def archive_run(self, run_id: str) -> RunMetadata:
        """Any other status -> Archived, for good: hidden from ``query_runs``, its data stays.

        Raises ``InvalidStatusTransitionError`` if it is archived, ``NotFoundError`` for a run that is not registered,
        and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        return self._change(run_id, lambda runs: runs.archive_run(run_id))

    def add_tags(self, run_id: str, tags: Iterable[str]) -> RunMetadata:
        """Add tags after the present ones; a tag that the run has keeps its position. The run's new metadata.

        Raises ``NotFoundError`` for a run that is not registered, and ``TypeError``, ``ValueError`` or
        ``LimitExceededError`` for a bad argument, or for more tags than a run can have.
        """
        kept = check_tags(tags)
        return self._change(run_id, lambda runs: runs.add_tags(run_id, kept))

    def remove_tags(self, run_id: str, tags: Iterable[str]) -> RunMetadata:
        """Take tags away; one the run does not have is no error. The run's new metadata.

        Raises ``NotFoundError`` for a run that is not registered, and ``TypeError``, ``ValueError`` or
        ``LimitExceededError`` for a bad argument.
        """
        kept = check_tags(tags)
        return self._change(run_id, lambda runs: runs.remove_tags(run_id, kept))

    def update_metadata(self, run_id: str, metadata: Value) -> RunMetadata:
        """Replace the metadata as a whole; the run's new metadata.

        Raises ``NotFoundError`` for a run that is not registered, and ``TypeError``, ``ValueError`` or
        ``LimitExceededError`` for a bad argument.
        """
        return self._change(run_id, lambda runs: runs.update_metadata(run_id, metadata))

    def query_runs(self, query: RunQuery = RunQuery()) -> list[RunMetadata]:  # noqa: B008 (frozen)
        """The runs that match, by created_at, then id. ``TypeError`` if ``query`` is not a ``RunQuery``."""
        with self._snapshot(_NO_RUN) as txn:
            return txn.runs.query_runs(query)

    def list_runs(self) -> list[str]:
        """The ids of all registered runs, archived ones too, by created_at, then id."""
        return self._views.list_runs()

    def get_child_runs(self, parent_run: str) -> list[RunMetadata]:
        """The runs created under or forked from one, archived ones too, by created_at, then id.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        with self._snapshot(_NO_RUN) as txn:
            return txn.runs.get_child_runs(parent_run)

    def get_stats(self) -> RunStats:
        """How many runs there are, and how many of each status."""
        with self._snapshot(_NO_RUN) as txn:
            return txn.runs.get_stats()

    def delete_run(self, run_id: str, *, cascade_children: bool = False) -> None:
        """Delete a run, registered or not, and everything in it, at once and for good.

        With ``cascade_children`` its children go too, and theirs; else they stay, and still name it as their parent.
        Raises ``NotFoundError`` if it is neither registered nor holds anything, and ``TypeError``, ``ValueError`` or
        ``LimitExceededError`` for a bad argument.
        """
        self._change(run_id, lambda runs: runs.delete_run(run_id, cascade_children=cascade_children))

    def diff(self, run_a: str, run_b: str) -> RunDiff:
        """What two runs differ in, read at one snapshot: keys, state, events from where the logs part, and traces.

        Values, cells (value and version) and traces are compared by what they say, not by their times, and event logs
        by their hashes. ``txn.runs.diff`` reads at the transaction's snapshot.

        Raises ``NotFoundError`` for a run that is not registered and holds nothing, and ``TypeError``, ``ValueError``
        or ``LimitExceededError`` for a bad run id.

        >>> import shoal, tempfile
        >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
        ...     runs, kv = shoal.RunIndex(db), shoal.KVStore(db)
        ...     kv.put("run-1", "status", "running")
        ...     fork = runs.fork_run("run-1", new_run_id="run-2")
        ...     kv.put("run-2", "status", "failed")
        ...     runs.diff("run-1", "run-2").kv
        [Difference(name='status', a='running', b='failed')]
        """
        with self._snapshot(_NO_RUN) as txn:
            return txn.runs.diff(run_a, run_b)

    def fork_run(self, run_id: str, *, new_run_id: str | None = None, version: int | None = None) -> RunMetadata:
        """Register a child of a run, Active, with a copy of the run's keys, state, events and traces.

        With ``version`` it is a copy of the run as it was at that past commit version (``Database.snapshot``), also if
        the run was deleted since: ``SnapshotExpiredError`` if it is not kept any more, ``ValueError`` if it is not
        there yet.

        The copy is of one snapshot taken during the call, even if others write to the run meanwhile; in a transaction
        (``txn.runs.fork_run``) it is of the transaction's snapshot, and a change since is a conflict. Hashes of events,
        versions of cells and ttls are kept; tags and metadata are not taken over. The run need not be registered.

        Raises ``NotFoundError`` if the run is not registered and holds nothing, ``AlreadyExistsError`` if
        ``new_run_id`` is registered or holds anything, ``LimitExceededError`` if the copy is more than the 64 MiB of
        one commit, and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        # Read outside the transaction: if the copy were validated, that of a run that is always written to would fail.
        if version is None:
            source = self._db._store.auto_commit
            return self._change(run_id, lambda runs: fork(runs, source, run_id, new_run_id))
        return self._change(run_id, lambda runs: runs.fork_run(run_id, new_run_id=new_run_id, version=version))

    def set_retention(self, policy: RetentionPolicy | None, run_id: str | None = None) -> None:
        """Set what is kept of all runs of the namespace, registered or not, or of one run; None takes the policy away.

        A policy of a run holds for it in place of the namespace's, as a whole: ``RetentionPolicy()`` keeps all of it.
        The coordinator removes what is not kept, in small commits of its own, within a minute; what is removed is gone
        for good. A policy is deleted with its run, and a fork does not have it.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.

        >>> import shoal, tempfile
        >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
        ...     runs = shoal.RunIndex(db)
        ...     runs.set_retention(shoal.RetentionPolicy(events=10_000, archived_age=30 * 86_400))
        ...     runs.set_retention(shoal.RetentionPolicy(), run_id="kept")
        ...     runs.get_retention().events, runs.get_retention("kept").events, runs.get_retention("other").events
        (10000, None, 10000)
        """
        self._change(_NO_RUN, lambda runs: runs.set_retention(policy, run_id))

    def get_retention(self, run_id: str | None = None) -> RetentionPolicy | None:
        """The policy of the namespace; with a run, the one that holds for it: its own, else the namespace's, else None.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        with self._snapshot(_NO_RUN) as txn:
            return txn.runs.get_retention(run_id)

    def follow(self, since: int | None = None, timeout: float | None = None) -> Iterator[RunChange]:
        """What commits change in the runs: a ``RunChange`` for each run and commit, as it comes.

        Also of archived runs. ``since`` and ``timeout`` are those of ``KVStore.watch``, which says how they come.

        Raises ``TypeError`` or ``ValueError`` for a bad argument at the call, and ``SnapshotExpiredError`` when the
        next change is not kept any more.
        """
        return run_changes(self._views, self._db._store.auto_commit, since, timeout)

    def _change(self, run_id: str, call: Callable[[RunsView], T]) -> T:
        def change(txn: Transaction) -> T:
            return call(txn.runs)

        return self._transact(run_id, change)

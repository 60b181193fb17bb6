"""The port under the primitives: everything they, and ``shoal.Database``, ask of an engine.

An engine stores bytes under bytes, in the order of the keys. Any class with these methods can stand under the
primitives: ``workers.shared_memory`` does it over a shared segment, ``tests/contract/toy_engine.py`` and
``toy_fleet.py`` over a dict.

The five primitives need ``Engine``, ``wait_for``, ``begin`` without ``past``, and of a transaction ``version``,
``has_ended``, ``commit`` and ``abandon``. Fleets (leases, queues, budgets, consumers), watches, past
versions and pipelines need the rest.

What every engine promises:

- A transaction reads at one snapshot, sees its own writes, and commits all of them at once or none. It commits only if
  everything it read (keys, absent keys and ranges) is unchanged then; else ``commit`` raises ``ConflictError``.
- A write that read nothing never conflicts. A transaction that only reads never conflicts.
- Every commit has a version of its own, and versions only rise.
- A call of an ``AutoCommit`` commits by itself. It never conflicts: ``perform`` is decided on the newest state.
- A key whose ``expires_ms`` has come reads as absent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from shoal.shm.key_location_cache import KeyLocationCache
from shoal.shm.operation import Past, StoreStats, VersionedValue

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")

# The name of an operation and its arguments, the first of which is a key.
Operation = tuple[str, list[Any]]
# A commit version, a key that it changed, and what the key holds then: None if it was deleted.
Change = tuple[int, bytes, "bytes | None"]
# What takes a database to another process, or makes a copy of one: a function that can be pickled, and its arguments.
Recipe = tuple[Callable[..., "Store"], tuple[Any, ...]]


class Engine(Protocol):
    """Reads and writes: of one transaction, or of calls that commit one by one."""

    @property
    def read_only(self) -> bool:
        """Whether every write is refused with ``InvalidOperationError``."""
        ...

    def get_named(self, cache: KeyLocationCache, name: str, /) -> bytes | None:
        """The value of the key ``cache.prefix`` + ``name``, or None. ``cache`` is the engine's to write to."""
        ...

    def find(self, key: bytes, /) -> VersionedValue | None:
        """A key's value with version and expiry, or None. A transaction's own write has version 0."""
        ...

    def scan(self, lower: bytes, upper: bytes, /) -> Iterator[tuple[bytes, VersionedValue]]:
        """The live keys of ``[lower, upper)`` in order. Of a range read in part, only that part counts as read."""
        ...

    def put(self, key: bytes, value: bytes, expires_ms: int = 0, /) -> None:
        """Write a key, whatever is there. ``expires_ms``: ms since the epoch; 0 is never."""
        ...

    def delete(self, key: bytes, /) -> None:
        """Delete a key, present or not."""
        ...

    def clear(self, lower: bytes, upper: bytes, /) -> None:
        """Delete every key of ``[lower, upper)``, however many."""
        ...

    def perform(self, name: str, arguments: list[Any], /) -> Any:
        """Run the operation ``name`` of ``primitives.rules`` and return its result; raises what its rule raises."""
        ...


class AutoCommit(Engine, Protocol):
    """The engine outside any transaction: every call commits by itself. Threads share it."""

    def published(self) -> int:
        """The newest commit version."""
        ...

    def wait_for(
        self, look: Callable[[], T | None], ranges: list[tuple[bytes, bytes]], give_up_s: float, /
    ) -> T | None:
        """Call ``look`` now and after commits into ``ranges`` until it returns something else than None; return that.

        A range is a lower bound and an upper one, which is excluded. Nothing is polled for: the thread sleeps until the
        coordinator tells it of a commit. ``look`` may also be called without one.

        None if it still returns None at ``give_up_s`` (``time.monotonic``); the last look is made after that.
        """
        ...

    def changes(self, lower: bytes, upper: bytes, since: int | None, wait_s: float, /) -> Iterator[Change]:
        """Each key in ``[lower, upper)`` that a commit after version ``since`` wrote, deleted or cleared.

        ``since`` None is the newest version at the call, after which nothing is lost from then on.

        Once for each commit, in the order of commits, then of keys, with what it holds then, expired or not. Nothing is
        missed or comes twice, whatever becomes of a coordinator. Ends when the next one has not come within ``wait_s``
        seconds; time in which the caller does something else does not count. A commit wakes it.

        Raises ``SnapshotExpiredError`` once what a commit changed is not kept any more.
        """
        ...


class EngineTransaction(Engine, Protocol):
    """One snapshot and one atomic commit. It belongs to the thread that began it."""

    @property
    def version(self) -> int | None:
        """The commit version, None before the commit; if ``read_only``, the snapshot's from the start."""
        ...

    def at_version(self, version: int, /) -> EngineTransaction:
        """Another one that only reads, at a past version; as ``Transactions.begin`` with ``past``."""
        ...

    @property
    def has_ended(self) -> bool:
        """Whether it was committed or abandoned, or its commit has failed."""
        ...

    def require(self, name: str, arguments: list[Any], /) -> None:
        """Perform the operation ``name``, which writes nothing, on the newest state when this commits.

        If it raises, nothing is written and the commit raises the same. It is asked for also if nothing was written.
        """
        ...

    def defer(self, name: str, arguments: list[Any], committed: Callable[[], None] | None = None, /) -> None:
        """Perform the operation ``name`` on the newest state when this commits; what it writes is part of the commit.

        Its result is not known, and nothing it reads can conflict. If it raises, nothing is written and the commit
        raises the same. ``committed`` is called after the commit. A later ``clear`` of the operation's key drops it.
        """
        ...

    def defers(self, lower: bytes, upper: bytes, /) -> bool:
        """Whether an operation that ``defer`` was given is to be performed on a key of ``[lower, upper)`` at commit."""
        ...

    def decides(self, lower: bytes, upper: bytes, /) -> bool:
        """Whether an operation on a key of ``[lower, upper)`` is to be performed at commit."""
        ...

    def commit(self) -> int:
        """Commit and end; the commit version (the snapshot's, if nothing was written).

        Raises ``ConflictError`` with the key as bytes; nothing is written then. Any call after the end is
        ``InvalidOperationError``.
        """
        ...

    def abandon(self) -> None:
        """End without writing anything; a second time does nothing."""
        ...


class Holding(Protocol):
    """What an open database holds in this process, until it releases it, is closed, or its process ends.

    An operation here is its name and its arguments. It writes an entry in the index of holders (``shm.holder_index``)
    for what it gives. ``ticket`` is a random number of the caller, from 1 to 2**62, that names what was given.
    """

    @property
    def holder(self) -> int:
        """The id of this database in this process; a forked child has another."""
        ...

    @property
    def free_tickets(self) -> list[tuple[int, int]]:
        """Tickets to be used again, each with a number that the caller notes beside it; the caller's to take and put.

        It is empty in a forked child. What a ticket was used for must be held no more.
        """
        ...

    def acquire(
        self,
        ticket: int,
        operation: Operation,
        undo: Operation,
        ranges: list[tuple[bytes, bytes]],
        ttl_s: float,
        give_up_s: float,
        /,
    ) -> Any:
        """Perform ``operation`` and return its result; it is held from then on, and renewed.

        While it raises an error that ``passes``, it waits in line until ``give_up_s`` (``time.monotonic``): it is
        decided again when something in ``ranges`` was written, and served in the order of arrival. Raises what the
        operation raises; nothing is held then. If it cannot be known whether it was given, ``undo`` follows it.
        """
        ...

    def release(self, ticket: int, undo: Operation, /) -> None:
        """Perform ``undo``: it is held no longer. Does nothing once the database is closed."""
        ...

    def release_later(self, ticket: int, undo: Operation, /) -> None:
        """The same without waiting, for a caller that was interrupted: as soon as that is possible.

        ``undo`` may have been performed already, so it must do nothing, or be refused, then.
        """
        ...

    def forget(self, ticket: int, /) -> None:
        """What ``ticket`` names was released by a commit of the caller's own, or is lost: it is renewed no more."""
        ...

    def see_ends(self) -> None:
        """Return when what belonged to processes and databases that have ended by now is released, as readers see it.

        It waits for the coordinator a second at most.
        """
        ...

    def ages_ms(self, holders: list[int], /) -> list[int | None]:
        """How long ago the last sign of life of each holder was, in ms; None of one that holds nothing."""
        ...


class EnginePipeline(Protocol):
    """Commits that are sent without waiting for the one before, and decided in that order, each once.

    A commit that fails is its future's error; those behind it go on. Waiting for a future in any way of
    ``concurrent.futures`` ends when the commit is decided. Threads may share a pipeline.

    Every call raises ``InvalidOperationError`` after ``finish``, in a forked process, or if the store only reads or is
    closed. Nothing is sent then.
    """

    def put(self, key: bytes, value: bytes, expires_ms: int = 0, /) -> Future[None]:
        """``AutoCommit.put``, not waited for."""
        ...

    def perform(self, name: str, arguments: list[Any], convert: Callable[[Any], Any] | None = None, /) -> Future[Any]:
        """``AutoCommit.perform``, not waited for. The future has the result, or what ``convert`` makes of it."""
        ...

    def finish(self) -> BaseException | None:
        """Wait for all commits and end. The error of the first one that failed; None if none did."""
        ...


class Transactions(Protocol):
    """What the primitives need of a store."""

    @property
    def auto_commit(self) -> AutoCommit:
        """Reads and writes outside any transaction; always the same object."""
        ...

    @property
    def holding(self) -> Holding:
        """What this database holds; always the same object."""
        ...

    def begin(self, read_only: bool = False, past: Past | None = None) -> EngineTransaction:
        """A transaction at the newest version; ``commit`` or ``abandon`` ends it.

        With ``past`` one that only reads, at a past version: ``SnapshotExpiredError`` if that is not kept any more,
        ``ValueError`` if it is not there yet.
        """
        ...

    def pipeline(self, depth: int, /) -> EnginePipeline:
        """A pipeline with at most ``depth`` commits under way; ``finish`` ends it."""
        ...


class Store(Transactions, Protocol):
    """A store that this process has open: what ``shoal.Database`` is made of."""

    @property
    def path(self) -> str:
        """Where it lies, or the name of an engine that has no directory."""
        ...

    @property
    def durability(self) -> str:
        """What an acknowledged commit survives: ``"memory"``, ``"buffered"`` or ``"strict"``."""
        ...

    def stats(self) -> StoreStats:
        """Its figures now."""
        ...

    def check(self) -> list[str]:
        """Every damaged place in it; empty means sound. Commits go on meanwhile."""
        ...

    def backup(self, dest: str | os.PathLike[str], /) -> int:
        """Write a consistent copy to a directory that is empty or not there; how many keys it has."""
        ...

    def recipe(self) -> Recipe:
        """How to open the same store elsewhere; ``TypeError`` for an engine that lives in this process only."""
        ...

    def close(self) -> None:
        """Let go of it. Later calls raise ``InvalidOperationError``; closing twice does nothing."""
        ...

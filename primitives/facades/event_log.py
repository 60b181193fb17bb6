"""EventLog: an append-only, hash-chained log of a run, read page by page and followed as it grows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from shoal.primitives.engine import Engine
from shoal.primitives.event_types import Anchor, Appended, ChainVerification, Event, Known, verify_events
from shoal.primitives.facades.consumers import TTL_S, Consumer
from shoal.primitives.facades.facade import Facade
from shoal.primitives.facades.leases import Lease, take_key
from shoal.primitives.keys import Namespace, only
from shoal.primitives.rules.event_rules import LARGEST_SEQUENCE
from shoal.primitives.rules.hash_chain import CHAINS, DEFAULT_CHAIN, GENESIS_HASH
from shoal.primitives.transaction import Fence, Transaction
from shoal.primitives.views.events import EventView, metadata_key, page_after
from shoal.primitives.views.fleet.positions import holder_key, position_key
from shoal.shm import codec
from shoal.shm.arguments import check_int, check_str, check_wait


class EventLog(Facade[EventView]):
    """An append-only log of a run, each event chained to the one before by its hash.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     log = shoal.EventLog(db)
    ...     log.append("run-1", "task_started", {"task": 1}).sequence
    ...     log.append("run-1", "task_done", {"task": 1, "files": ["a.py"]}).sequence
    ...     [event.event_type for event in log.iter("run-1")]
    ...     log.verify_chain("run-1").is_valid
    0
    1
    ['task_started', 'task_done']
    True

    ``db``: what ``shoal.open`` returns. ``namespace``: whose runs these are. ``chain``: of logs that begin with an
    append here; a log that has begun goes on with its own. ``"xxh3"`` shows order and damage, ``"sha256"`` with an
    ``anchor`` kept elsewhere also tampering.

    An event's type is a str of 1 to 1,024 bytes of UTF-8, any character. Its payload is any value that ``KVStore``
    stores, kept in canonical form: dicts read back with their keys sorted, tuples as lists, every NaN as the same NaN.
    ``TypeError``, ``ValueError`` and ``LimitExceededError`` are raised before anything is sent.

    Any call may also raise ``InvalidOperationError`` (the database is closed, or a write to one that only reads),
    ``CoordinatorLostError``, ``StoreMovedError`` and ``CorruptionError`` (a record is none); a write
    ``StoreFullError``; a long read ``SnapshotExpiredError``. No call ever conflicts.
    """

    __slots__ = ("_chain",)

    def __init__(self, db: Any, *, chain: str = DEFAULT_CHAIN, namespace: Namespace = Namespace()) -> None:  # noqa: B008
        names = ", ".join(CHAINS)
        if check_str("chain", chain, f", one of {names}") not in CHAINS:
            raise ValueError(f"chain is {chain!r}; give one of {names}")
        self._chain = chain
        super().__init__(db, namespace=namespace)

    def _view(self, engine: Engine, namespace: Namespace, run_id: str) -> EventView:
        return EventView(engine, namespace, run_id, self._chain)

    def transaction(self, run_id: str, *, fence: Fence | None = None) -> Transaction:
        """As ``Database.transaction``, in this facade's namespace; logs that begin in it have this facade's chain.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        return super().transaction(run_id, fence=fence)._with_chain(self._chain)

    def append(self, run_id: str, event_type: str, payload: codec.Value) -> Appended:
        """Append an event; its sequence, from 0 without gaps, and its hash.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id, type or payload.
        """
        return self._views[run_id].append(event_type, payload)

    def append_many(self, run_id: str, events: Iterable[tuple[str, codec.Value]]) -> list[Appended]:
        """Append ``(type, payload)`` pairs, all or none and nothing between; their sequences and hashes.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id, pair, type or payload, or for
        more than one commit holds.
        """
        return self._views[run_id].append_many(events)

    def read(self, run_id: str, sequence: int) -> Event | None:
        """The event ``sequence``, or None if it was trimmed or is not there yet.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id, ``TypeError`` for a
        sequence that is not an int.
        """
        return self._views[run_id].read(sequence)

    def read_range(self, run_id: str, start: int, end: int) -> list[Event]:
        """The events of ``[start, end)`` that are there, in order.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id, ``TypeError`` for a
        sequence that is not an int.
        """
        return self._views[run_id].read_range(start, end)

    def head(self, run_id: str) -> Event | None:
        """The last event; None if the log is empty, or if all of it was trimmed.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        with self._snapshot(run_id) as txn:
            return txn.events.head()

    def len(self, run_id: str) -> int:
        """How many events were appended, trimmed ones too: the sequence that the next event gets.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        return self._views[run_id].len()

    def first_sequence(self, run_id: str) -> int:
        """The sequence of the oldest event that was not trimmed: 0 if none was, ``len`` if all were.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        return self._views[run_id].first_sequence()

    def trim(self, run_id: str, before: int) -> int:
        """Remove the events below the sequence ``before``, for good; how many this call removed.

        The others stay as they are, with their sequences and hashes. ``verify_chain`` verifies them, also against an
        anchor that was taken at ``before`` or later. ``len`` still counts from 0. A ``before`` beyond the end removes
        all events, one at or below ``first_sequence`` none. A long trim is several commits, between which others go on;
        in a transaction it is one. ``RunIndex.set_retention`` has it done for you.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id, ``TypeError`` for a ``before``
        that is not an int.

        >>> import shoal, tempfile
        >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
        ...     log = shoal.EventLog(db)
        ...     appended = log.append_many("run-1", [("step", number) for number in range(5)])
        ...     log.trim("run-1", 3), log.first_sequence("run-1"), log.len("run-1")
        ...     [event.sequence for event in log.iter("run-1")], log.verify_chain("run-1").is_valid
        (3, 3, 5)
        ([3, 4], True)
        """
        return self._views[run_id].trim(before)

    def is_empty(self, run_id: str) -> bool:
        """Whether no event was ever appended.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        return self._views[run_id].is_empty()

    def iter(self, run_id: str, start: int = 0) -> Iterator[Event]:
        """The events from ``start`` on that are there now, read a page at a time; no snapshot is held between pages.

        What is trimmed before its page is read is left out; the sequences show it.
        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument at the call, and
        ``NotFoundError`` with the next page if the run was deleted meanwhile, also if its log was begun again: never a
        mixture of two logs, nor the beginning of one as if it were all.
        """
        check_int("start", start)
        with self._snapshot(run_id) as txn:
            known = Known(txn.events.anchor(), txn.events._origin())
        return self._pages(run_id, start, known)

    def read_by_type(self, run_id: str, event_type: str) -> list[Event]:
        """The events of a type, in order, found by an index.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id or type.
        """
        with self._snapshot(run_id) as txn:
            return txn.events.read_by_type(event_type)

    def follow(self, run_id: str, start: int = 0, timeout: float | None = None) -> Iterator[Event]:
        """The events from ``start`` on as they come, those that are there first.

        Ends when the next one has not come within ``timeout`` seconds; None waits for ever. A log that is empty or not
        there yet is waited for. What is trimmed before it was read is left out; the sequences show it.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument at the call, and
        ``NotFoundError`` once the run was deleted, whether its log was begun again or not: events of another log never
        follow those of the first.
        """
        self.namespace._run_prefix(run_id)  # a bad run id is refused here, before the first event is asked for
        return self._follow(run_id, max(0, check_int("start", start)), check_wait("timeout", timeout))

    def consumer(self, run_id: str, name: str, *, wait: float | None = 0.0) -> Consumer:
        """Take the name of a consumer, which goes through the log from where it was done last, at first from event 0.

        One process at a time holds a name, until it closes the consumer, dies, or does not answer for 30 seconds.
        ``wait``: seconds to wait for another one that holds it, in the order of arrival; None waits for ever.

        Raises ``LeaseHeldError`` if it is held then, and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a
        bad argument.
        """
        keys = self._views[run_id]._prefix, position_key(self.namespace, run_id, name)
        store, key = self._db._store, holder_key(self.namespace, run_id, name)
        lease = take_key(store, key, name, 1, TTL_S, time.monotonic() + check_wait("wait", wait))
        try:
            return Consumer(self, run_id, name, lease, store.auto_commit, keys)
        except BaseException:  # a signal handler's: nobody has got the consumer
            lease._release_later()
            raise

    def verify_chain(self, run_id: str, anchor: Anchor | None = None) -> ChainVerification:
        """Whether events, hashes, metadata and type index fit each other; what does not fit is in the result.

        With an ``anchor`` taken earlier, also whether the log still goes on from it: whether the events up to the
        anchor are unchanged, and none is gone that was not trimmed. An anchor from before ``first_sequence`` shows
        nothing any more; that is an invalid result. Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for
        a bad run id or anchor.
        """
        with self._snapshot(run_id) as txn:
            return txn.events.verify_chain(anchor)

    @staticmethod
    def verify(events: Iterable[Event], *, prev_hash: bytes = GENESIS_HASH) -> ChainVerification:
        """``verify_chain`` for events that came from a log, without a store: all of it, or consecutive ones of it.

        ``prev_hash`` is the hash of the event before the first; the default is for a log from its beginning.
        Raises ``TypeError`` or ``ValueError`` for a bad event or hash.

        >>> EventLog.verify([])
        ChainVerification(is_valid=True, length=0, first_invalid=None, error=None)
        """
        return verify_events(events, prev_hash)

    def anchor(self, run_id: str) -> Anchor:
        """The log's length and the hash of its last event, to be kept elsewhere and given to ``verify_chain``.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        return self._views[run_id].anchor()

    def update(self, run_id: str, *_: object, **__: object) -> NoReturn:
        """Raise ``InvalidOperationError``: no event ever changes.

        ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        self._views[run_id].update()

    def delete(self, run_id: str, *_: object, **__: object) -> NoReturn:
        """Raise ``InvalidOperationError``: no event goes by itself.

        ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        self._views[run_id].delete()

    def _follow(self, run_id: str, sequence: int, wait_s: float, lease: Lease | None = None) -> Iterator[Event]:
        known = Known(Anchor(0, GENESIS_HASH))  # what the log must go on from

        def look() -> list[Event] | None:
            nonlocal known
            with self._snapshot(run_id) as txn:
                events = page_after(txn.events, known, sequence, LARGEST_SEQUENCE)
                if lease is not None:
                    lease._check_held(txn._begun())
                anchor = Anchor(events[-1].sequence + 1, events[-1].hash) if events else txn.events.anchor()
                known = Known(anchor, known.origin or txn.events._origin())
            return events or None

        ranges, engine = [only(metadata_key(self._views[run_id]))], self._db._store.auto_commit
        if lease is not None:
            ranges.append(only(lease._key))
        while (events := engine.wait_for(look, ranges, time.monotonic() + wait_s)) is not None:
            for event in events:
                if lease is not None:  # the caller may have lost it over an event of the same page
                    lease._check_held(engine)
                yield event
            sequence = events[-1].sequence + 1

    def _pages(self, run_id: str, sequence: int, known: Known) -> Iterator[Event]:
        length = known.anchor.length
        while sequence < length:
            with self._snapshot(run_id) as txn:
                events = page_after(txn.events, known, sequence, length)
            if not events:
                return
            yield from events
            sequence = events[-1].sequence + 1

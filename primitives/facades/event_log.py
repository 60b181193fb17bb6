"""EventLog: an append-only, hash-chained log of a run (``event_view``), page by page and as it grows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from shoal.primitives.event_types import Anchor, Appended, ChainVerification, Event, verify_events
from shoal.primitives.facades.facade import Facade
from shoal.primitives.keys import Namespace
from shoal.primitives.rules.event_rules import LARGEST_SEQUENCE
from shoal.primitives.rules.hash_chain import CHAINS, DEFAULT_CHAIN, GENESIS_HASH
from shoal.primitives.views.events import EventView, whole
from shoal.shm import codec
from shoal.shm.arguments import check_wait
from shoal.workers.shared_memory.autocommit import AutoCommit

if TYPE_CHECKING:
    from shoal.primitives.transaction import Transaction

# While others commit and this log stands still, a follower looks at growing intervals.
_SHORTEST_PAUSE_S = 0.0002
_LONGEST_PAUSE_S = 0.005


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

    ``chain`` is that of logs that begin with an append here: ``"xxh3"`` shows order and damage, ``"sha256"`` with an
    ``anchor`` kept elsewhere also tampering. A log that has begun goes on with its own.

    An event's type is a string of 1 to 1,024 bytes of UTF-8, any character; its payload any value shoal stores, kept in
    canonical form: dicts read back with their keys sorted, tuples as lists, every NaN as the same NaN.

    Raises ``TypeError`` or ``ValueError`` for a bad argument and ``LimitExceededError`` for one too large, before
    anything is sent; ``StoreFullError`` if there is no room; ``CorruptionError`` for a record that is none.
    """

    __slots__ = ("_chain",)

    def __init__(self, db: Any, *, chain: str = DEFAULT_CHAIN, namespace: Namespace = Namespace()) -> None:  # noqa: B008
        if not isinstance(chain, str):
            raise TypeError(f"chain has type {type(chain).__name__}; give one of {', '.join(CHAINS)}")
        if chain not in CHAINS:
            raise ValueError(f"chain is {chain!r}; give one of {', '.join(CHAINS)}")
        self._chain = chain
        super().__init__(db, namespace=namespace)

    def view(self, engine: AutoCommit, namespace: Namespace, run_id: str) -> EventView:
        """The methods for one run, with this facade's chain."""
        return EventView(engine, namespace, run_id, self._chain)

    def transaction(self, run_id: str) -> Transaction:
        """As ``db.transaction``, in this facade's namespace; logs that begin in it have this facade's chain."""
        return super().transaction(run_id).with_chain(self._chain)

    def append(self, run_id: str, event_type: str, payload: codec.Value) -> Appended:
        """Append an event; its sequence, from 0 without gaps, and its hash. Never conflicts."""
        return self._views[run_id].append(event_type, payload)

    def append_many(self, run_id: str, events: Iterable[tuple[str, codec.Value]]) -> list[Appended]:
        """Append ``(type, payload)`` pairs, all or none and nothing between; their sequences and hashes."""
        return self._views[run_id].append_many(events)

    def read(self, run_id: str, sequence: int) -> Event | None:
        """The event ``sequence``, or None if there is none."""
        return self._views[run_id].read(sequence)

    def read_range(self, run_id: str, start: int, end: int) -> list[Event]:
        """The events of ``[start, end)`` that are there, in order."""
        return self._views[run_id].read_range(start, end)

    def head(self, run_id: str) -> Event | None:
        """The last event, or None of an empty log."""
        with self._snapshot(run_id) as txn:
            return txn.events.head()

    def len(self, run_id: str) -> int:
        """How many events there are."""
        return self._views[run_id].len()

    def is_empty(self, run_id: str) -> bool:
        """Whether there are none."""
        return self._views[run_id].is_empty()

    def iter(self, run_id: str, start: int = 0) -> Iterator[Event]:
        """The events from ``start`` on that are there now, read a page at a time; no snapshot is held between pages.

        ``NotFoundError`` with the next page if the run was deleted meanwhile, also if its log was begun anew: never a
        mixture of two logs, nor the beginning of one as if it were all.
        """
        return self._pages(run_id, whole("start", start), self.anchor(run_id))

    def read_by_type(self, run_id: str, event_type: str) -> list[Event]:
        """The events of a type, in order, found by an index."""
        with self._snapshot(run_id) as txn:
            return txn.events.read_by_type(event_type)

    def follow(self, run_id: str, start: int = 0, timeout: float | None = None) -> Iterator[Event]:
        """The events from ``start`` on as they come, those that are there first.

        Ends when the next one has not come within ``timeout`` seconds; None waits for ever. ``NotFoundError`` once the
        run was deleted, whether its log was begun anew or not: events of another log never follow those of the first.
        A log that is not there yet, or is empty, is waited for.
        """
        self.namespace.run_prefix(run_id)  # a bad run id is refused here, before the first event is asked for
        return self._follow(run_id, max(0, whole("start", start)), check_wait("timeout", timeout))

    def verify_chain(self, run_id: str, anchor: Anchor | None = None) -> ChainVerification:
        """Whether events, hashes, metadata and type index fit each other; nothing is raised for what does not.

        With an ``anchor`` taken earlier: and nothing of what was there then has been cut or rewritten.
        """
        with self._snapshot(run_id) as txn:
            return txn.events.verify_chain(anchor)

    @staticmethod
    def verify(events: Iterable[Event], *, prev_hash: bytes = GENESIS_HASH) -> ChainVerification:
        """The same for events that came from a log, needing no store: all of it, or consecutive ones of it.

        ``prev_hash`` is the hash of the event before the first; the default is for a log from its beginning.

        >>> EventLog.verify([])
        ChainVerification(is_valid=True, length=0, first_invalid=None, error=None)
        """
        return verify_events(events, prev_hash)

    def anchor(self, run_id: str) -> Anchor:
        """The log's length and the hash of its last event, to be kept elsewhere and given to ``verify_chain``."""
        return self._views[run_id].anchor()

    def update(self, run_id: str, *_: object, **__: object) -> NoReturn:
        """No event ever changes: ``InvalidOperationError``."""
        self._views[run_id].update()

    def delete(self, run_id: str, *_: object, **__: object) -> NoReturn:
        """No event goes by itself: ``InvalidOperationError``."""
        self._views[run_id].delete()

    def _follow(self, run_id: str, sequence: int, wait_s: float) -> Iterator[Event]:
        engine = self._db.engine
        known = Anchor(0, GENESIS_HASH)  # what the log must go on from
        while True:
            give_up_s = time.monotonic() + wait_s
            pause_s = 0.0
            while True:
                version = engine.published()
                events, known = self._look(run_id, known, sequence)
                left_s = give_up_s - time.monotonic()
                if events:
                    break
                if left_s <= 0:
                    return
                time.sleep(min(pause_s, left_s))
                if not engine.wait_beyond(version, give_up_s):
                    return
                pause_s = min(max(pause_s * 2, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S)
            yield from events
            sequence = events[-1].sequence + 1

    def _look(self, run_id: str, known: Anchor, sequence: int) -> tuple[list[Event], Anchor]:
        """The next events of a followed log, if there are any, and what is known of the log with them."""
        with self._snapshot(run_id) as txn:
            events = txn.events.page_behind(known, sequence, LARGEST_SEQUENCE)
            return events, Anchor(events[-1].sequence + 1, events[-1].hash) if events else txn.events.anchor()

    def _pages(self, run_id: str, sequence: int, known: Anchor) -> Iterator[Event]:
        while sequence < known.length:
            with self._snapshot(run_id) as txn:
                events = txn.events.page_behind(known, sequence, known.length)
            if not events:
                return
            yield from events
            sequence = events[-1].sequence + 1

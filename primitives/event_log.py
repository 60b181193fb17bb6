"""EventLog: an append-only, hash-chained log of a run.

Keys, records and the rule of appending are in ``shm.event_operations``, hashes in ``shm.hash_chain``. What holds:
events have the sequences 0, 1, 2 and so on without a gap, never change, and the log's metadata repeats the last one.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, NoReturn

from shoal.primitives.event_chain import (
    Anchor,
    Appended,
    ChainVerification,
    Event,
    event_of,
    fields_to_restore,
    sequence_of,
    stored_events,
    verify_events,
    verify_log,
)
from shoal.primitives.facade import Facade, wait_s
from shoal.primitives.key_space import Namespace, Tag, encode_text
from shoal.shm import codec, operations
from shoal.shm.errors import CorruptionError, InvalidOperationError
from shoal.shm.event_operations import (
    LARGEST_SEQUENCE,
    METADATA,
    TYPE,
    Metadata,
    Record,
    decode_events,
    decode_head,
    decode_metadata,
    event_key,
    type_key,
)
from shoal.shm.hash_chain import CHAINS, DEFAULT_CHAIN, GENESIS_HASH, canonical
from shoal.workers.transaction import AutoCommit, Engine

if TYPE_CHECKING:
    from shoal.primitives.transaction import Transaction

_TAG = bytes((Tag.EVENT,))
# A page of a long read ends with the event that reaches either.
_PAGE_EVENTS = 256
_PAGE_BYTES = 1024 * 1024
# While others commit and this log stands still, a follower looks at growing intervals.
_SHORTEST_PAUSE_S = 0.0002
_LONGEST_PAUSE_S = 0.005


class EventView:
    """The methods of ``EventLog`` for one run, over one engine: ``txn.events``, and the facade's calls.

    ``chain`` is that of a log that begins here.
    """

    __slots__ = ("_chain", "_engine", "_prefix")

    def __init__(self, engine: Engine, namespace: Namespace, run_id: str, chain: str = DEFAULT_CHAIN) -> None:
        self._engine = engine
        self._prefix = namespace.run_prefix(run_id) + _TAG
        self._chain = chain

    def append(self, event_type: str, payload: codec.Value) -> Appended:
        """Append an event; its sequence and hash."""
        arguments = [self._prefix + METADATA, self._chain, [_entry(event_type, payload)]]
        return Appended(*self._engine.perform(operations.EVENT_APPEND, arguments)[0])

    def append_many(self, events: Iterable[tuple[str, codec.Value]]) -> list[Appended]:
        """Append ``(type, payload)`` pairs, all or none, one after the other; their sequences and hashes."""
        entries = _entries(events)
        if not entries:
            return []
        results = self._engine.perform(operations.EVENT_APPEND, [self._prefix + METADATA, self._chain, entries])
        return [Appended(sequence, event_hash) for sequence, event_hash in results]

    def read(self, sequence: int) -> Event | None:
        """The event ``sequence``, or None if there is none."""
        if not 0 <= _whole("sequence", sequence) <= LARGEST_SEQUENCE:
            return None
        record = self._together(sequence).get(sequence)
        return None if record is None else event_of(sequence, record)

    def read_range(self, start: int, end: int) -> list[Event]:
        """The events of ``[start, end)`` that are there, in order."""
        return [event_of(*stored) for stored in self._stored(_whole("start", start), _whole("end", end))]

    def head(self) -> Event | None:
        """The last event, or None of an empty log."""
        length = self.len()
        return self.read(length - 1) if length else None

    def len(self) -> int:
        """How many events there are."""
        return self._metadata().next_sequence

    def is_empty(self) -> bool:
        """Whether there are none."""
        return self.len() == 0

    def iter(self, start: int = 0) -> Iterator[Event]:
        """The events from ``start`` on, each read when it is asked for."""
        return (event_of(*stored) for stored in self._stored(_whole("start", start), LARGEST_SEQUENCE))

    def page(self, start: int, end: int) -> list[Event]:
        """The first events of ``[start, end)``, as many as are read at a time; empty only if none are there."""
        events = []
        size = 0
        with closing(self._stored(start, end)) as all_stored:
            for sequence, record in all_stored:
                events.append(event_of(sequence, record))
                size += len(record.payload)
                if len(events) == _PAGE_EVENTS or size >= _PAGE_BYTES:
                    break
        return events

    def read_by_type(self, event_type: str) -> list[Event]:
        """The events of a type, in order, found from the newest backward."""
        key = type_key(self._prefix, encode_text("event_type", event_type))
        found = self._engine.find(key)
        head = decode_head(None if found is None else found.value)
        events = []
        together: dict[int, Record] = {}
        before = head.newest
        while before:
            sequence = before - 1
            if sequence not in together:
                together = self._together(sequence)
            record = together.get(sequence)
            if record is None:
                raise CorruptionError("the type index of the event log", 0, f"an event {sequence}", "none")
            before = record.before
            events.append(event_of(sequence, record))
        events.reverse()
        return events

    def verify_chain(self, anchor: Anchor | None = None) -> ChainVerification:
        """Whether events, metadata and type index fit each other, and the log goes on from ``anchor``."""
        return verify_log(self._engine, self._prefix, anchor)

    def anchor(self) -> Anchor:
        """The log's length and the hash of its last event (of an empty log ``GENESIS_HASH``)."""
        metadata = self._metadata()
        return Anchor(metadata.next_sequence, metadata.head_hash)

    def restore(self, events: Iterable[Event]) -> None:
        """Write consecutive events, hashes, timestamps and all, as ``iter`` once gave them: how an export comes back.

        All or none, never conflicts. ``ValueError`` unless they fit each other and go on where the log ends.
        """
        fields = fields_to_restore(events)
        if fields:
            self._engine.perform(operations.EVENT_RESTORE, [self._prefix + METADATA, fields])

    def update(self, *_: object, **__: object) -> NoReturn:
        """No event ever changes: ``InvalidOperationError``."""
        raise InvalidOperationError("an event cannot be changed, as its log is append-only; append another event")

    def delete(self, *_: object, **__: object) -> NoReturn:
        """No event goes by itself: ``InvalidOperationError``."""
        raise InvalidOperationError("an event cannot be deleted, as its log is append-only; only a whole run can")

    def _metadata(self) -> Metadata:
        found = self._engine.find(self._prefix + METADATA)
        return decode_metadata(None if found is None else found.value)

    def _together(self, sequence: int) -> dict[int, Record]:
        """The events stored in one record with event ``sequence``, by sequence; without it, if it is not there."""
        found = self._engine.find(event_key(self._prefix, sequence))
        if found is not None:  # appended alone, or last of a record
            return decode_events(sequence, found.value)
        following = self._engine.scan(event_key(self._prefix, sequence), self._prefix + TYPE)
        return next((decode_events(sequence_of(key), found.value) for key, found in following), {})

    def _stored(self, start: int, end: int) -> Generator[tuple[int, Record], None, None]:
        """The events of ``[start, end)``. What lies beyond the last of them is not read: no conflict with it."""
        if max(start, 0) < end:
            with closing(stored_events(self._engine, self._prefix, start)) as stored:
                for sequence, record in stored:
                    if sequence < end:
                        yield sequence, record
                    if sequence + 1 >= end:
                        break


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
        """The events from ``start`` on that are there now, read a page at a time; no snapshot is held between pages."""
        view = self._views[run_id]
        return _pages(view, _whole("start", start), view.len())

    def read_by_type(self, run_id: str, event_type: str) -> list[Event]:
        """The events of a type, in order, found by an index."""
        with self._snapshot(run_id) as txn:
            return txn.events.read_by_type(event_type)

    def follow(self, run_id: str, start: int = 0, timeout: float | None = None) -> Iterator[Event]:
        """The events from ``start`` on as they come, those that are there first.

        Ends when the next one has not come within ``timeout`` seconds; None waits for ever.
        """
        return self._follow(self._views[run_id], max(0, _whole("start", start)), wait_s(timeout))

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

    def _follow(self, view: EventView, sequence: int, wait_s: float) -> Iterator[Event]:
        engine = self._db.engine
        while True:
            give_up_s = time.monotonic() + wait_s
            pause_s = 0.0
            while True:
                version = engine.published()
                events = view.page(sequence, LARGEST_SEQUENCE)
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


def _pages(view: EventView, sequence: int, end: int) -> Iterator[Event]:
    while events := view.page(sequence, end):
        yield from events
        sequence = events[-1].sequence + 1


def _entry(event_type: object, payload: codec.Value) -> list[Any]:
    encode_text("event_type", event_type)
    return [event_type, canonical(payload)]


def _entries(events: object) -> list[list[Any]]:
    if not isinstance(events, Iterable) or isinstance(events, (str, bytes, dict)):
        raise TypeError(f"events has type {type(events).__name__}; give a list of (event_type, payload) pairs")
    entries = []
    for i, pair in enumerate(events):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"events[{i}] is {pair!r:.100}; give a pair (event_type, payload)")
        entries.append(_entry(*pair))
    return entries


def _whole(what: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what} has type {type(value).__name__}; give an int")
    return value

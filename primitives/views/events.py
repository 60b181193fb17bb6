"""The events of one run over one engine.

``rules.event_rules`` has the keys, the records and the rule of appending, ``rules.hash_chain`` the hashes. Invariants:
events have sequences without a gap, from 0 on or from where the log was trimmed (``rules.trim_rules``), they never
change, and the log's metadata repeats the last.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import Any, NoReturn, TypeVar, cast

from shoal.primitives.engine import Engine, EngineTransaction
from shoal.primitives.event_types import (
    Anchor,
    Appended,
    ChainVerification,
    Event,
    Known,
    beginning_of,
    event_of,
    events_of,
    fields_to_restore,
    sequence_of,
    stored_events,
    verify_log,
)
from shoal.primitives.keys import Namespace, encode_text
from shoal.primitives.rules import requests
from shoal.primitives.rules.event_rules import (
    LARGEST_SEQUENCE,
    METADATA,
    TYPE,
    EventRecord,
    Metadata,
    decode_events,
    decode_head,
    decode_metadata,
    event_key,
    type_key,
)
from shoal.primitives.rules.hash_chain import DEFAULT_CHAIN, canonical
from shoal.primitives.rules.tags import Tag
from shoal.primitives.rules.trim_rules import BEGINNING, Beginning
from shoal.primitives.views.fleet.positions import Consuming, check_commit
from shoal.primitives.views.view import View
from shoal.shm import codec
from shoal.shm.arguments import check_int
from shoal.shm.errors import CorruptionError, InvalidOperationError, NotFoundError, shown_value

T = TypeVar("T")

_new_tuple = tuple.__new__  # a named tuple without its Python frame
_TAG = bytes((Tag.EVENT,))
# A page of a long read ends with the event that reaches either.
_PAGE_EVENTS, _PAGE_BYTES = 256, 1024 * 1024
_TRIMMED_RECORDS = 64  # records of events that a trim removes in one commit: few, as other commits wait for it


def metadata_key(view: EventView) -> bytes:
    """The key that every append writes."""
    return view._prefix + METADATA


class EventView(View):
    """The methods of ``EventLog`` for one run, without ``run_id``: ``txn.events``.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     with db.transaction("run-1") as txn:
    ...         appended = txn.events.append("started", {"task": 1})
    ...         appended.sequence, txn.events.len(), txn.events.head().payload
    (0, 1, {'task': 1})

    What a method returns is known at once and validated at commit: another process that appends to the log meanwhile is
    a conflict. Any call may also raise ``InvalidOperationError`` (the transaction has ended, or only reads),
    ``SnapshotExpiredError`` (its snapshot was revoked) and ``CorruptionError`` (a record is none). ``Transaction`` says
    what the commit may raise.
    """

    __slots__ = ("_chain", "_prefix")

    def __init__(self, engine: Engine, namespace: Namespace, run_id: str, chain: str = DEFAULT_CHAIN) -> None:
        self._engine = engine
        self._prefix = namespace._run_prefix(run_id) + _TAG
        self._chain = chain  # of a log that begins with an append here

    def append(self, event_type: str, payload: codec.Value) -> Appended:
        """Append an event; its sequence and hash.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad type or payload.
        """
        return self._append([_entry(event_type, payload)], _first)

    def append_many(self, events: Iterable[tuple[str, codec.Value]]) -> list[Appended]:
        """Append ``(type, payload)`` pairs, all or none, one after the other; their sequences and hashes.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad pair, type or payload, or for more than
        one commit holds.
        """
        return self._append(_entries(events), _all)

    def read(self, sequence: int) -> Event | None:
        """The event ``sequence``, or None if it was trimmed or is not there yet. ``TypeError`` for no int."""
        return self._event(int.__int__(sequence)) if 0 <= check_int("sequence", sequence) <= LARGEST_SEQUENCE else None

    def read_range(self, start: int, end: int) -> list[Event]:
        """The events of ``[start, end)`` that are there, in order. ``TypeError`` for anything but an int."""
        return [event_of(*stored) for stored in self._stored(check_int("start", start), check_int("end", end))]

    def head(self) -> Event | None:
        """The last event; None if the log is empty, or if all of it was trimmed."""
        length = self.len()
        return self._event(length - 1) if length else None

    def len(self) -> int:
        """How many events were appended, trimmed ones too: the sequence that the next event gets."""
        return self._metadata().next_sequence

    def first_sequence(self) -> int:
        """The sequence of the oldest event that was not trimmed: 0 if none was, ``len`` if all were."""
        return beginning_of(self._engine, self._prefix).sequence

    def trim(self, before: int) -> int:
        """Remove the events below the sequence ``before``; how many went. ``TypeError`` for anything but an int.

        The others stay as they are, with their sequences and hashes, and ``verify_chain`` verifies them. ``len`` still
        counts from 0. A ``before`` beyond the end removes all, one at or below ``first_sequence`` nothing.
        """
        before = min(check_int("before", before), LARGEST_SEQUENCE)
        requests.refuse_if_read_only(self._engine)
        first = self.first_sequence()
        removed = 0
        while first < before and (lasts := self._oldest_records(first, before)):
            begins = requests.trim_events(self._engine, self._prefix + BEGINNING, first, before, lasts)
            if begins is None:  # somebody else has trimmed, or deleted the run
                first = self.first_sequence()
            else:
                removed += begins - first
                first = begins
        return removed

    def is_empty(self) -> bool:
        """Whether no event was ever appended."""
        return self.len() == 0

    def iter(self, start: int = 0) -> Iterator[Event]:
        """The events from ``start`` on, each read when it is asked for. ``TypeError`` for anything but an int."""
        return events_of(self._engine, self._stored(check_int("start", start), LARGEST_SEQUENCE))

    def read_by_type(self, event_type: str) -> list[Event]:
        """The events of a type, in order, found from the newest backward.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad type.
        """
        key = type_key(self._prefix, encode_text("event_type", event_type))
        found = self._engine.find(key)
        head = decode_head(None if found is None else found.value)
        events = []
        together: dict[int, EventRecord] = {}
        before = head.newest
        while before:
            sequence = before - 1
            if sequence not in together:
                together = self._together(sequence)
            record = together.get(sequence)
            if record is None and sequence < self.first_sequence():
                break
            if record is None:
                raise CorruptionError("the type index of the event log", 0, f"an event {sequence}", "none")
            before = record.before
            events.append(event_of(sequence, record))
        events.reverse()
        return events

    def verify_chain(self, anchor: Anchor | None = None) -> ChainVerification:
        """Whether events, hashes, metadata and type index fit each other, and the log goes on from ``anchor``.

        What does not fit is in the result. Raises ``TypeError`` or ``ValueError`` for a bad anchor.
        """
        return verify_log(self._engine, self._prefix, anchor)

    def anchor(self) -> Anchor:
        """The log's length and the hash of its last event; of an empty log ``GENESIS_HASH``."""
        metadata = self._metadata()
        return Anchor(metadata.next_sequence, metadata.head_hash)

    def update(self, *_: object, **__: object) -> NoReturn:
        """Raise ``InvalidOperationError``: no event ever changes."""
        raise InvalidOperationError("an event cannot be changed, as its log is append-only; append another event")

    def delete(self, *_: object, **__: object) -> NoReturn:
        """Raise ``InvalidOperationError``: no event goes by itself."""
        raise InvalidOperationError(
            "an event cannot be deleted, as its log is append-only; trim removes the oldest ones, delete_run all"
        )

    def commit(self, consumer: Consuming, sequence: int) -> None:
        """Note, with this transaction, that a consumer of this log is done with the event ``sequence``.

        Raises ``NotFoundError`` if there never was one, ``ValueError`` for a consumer of another log, ``TypeError`` for
        anything but a consumer and an int. The commit raises ``FencedError`` if its name is held no longer.
        """
        position = check_commit(consumer, self._prefix, sequence) + 1
        requests.refuse_if_read_only(self._engine)
        if self.read(sequence) is None and not 0 <= sequence < self.first_sequence():  # it may be trimmed by now
            raise NotFoundError(f"event {sequence} is not in the log; commit the sequence of an event that was read")
        consumer._commit_in(cast(EngineTransaction, self._engine), position)

    def _metadata(self) -> Metadata:
        found = self._engine.find(metadata_key(self))
        return decode_metadata(None if found is None else found.value)

    def _event(self, sequence: int) -> Event | None:
        record = self._together(sequence).get(sequence)
        return None if record is None else event_of(sequence, record)

    def _goes_on_from(self, known: Known) -> bool:
        """Whether what is known is of this log: hashes are chained, so all before the anchor is the same, too.

        If the log was trimmed beyond the anchor since, its first event tells.
        """
        (length, head_hash), origin = known
        metadata = self._metadata()
        if length == 0 or metadata.next_sequence <= length:
            return length == 0 or (metadata.next_sequence, metadata.head_hash) == (length, head_hash)
        beginning = beginning_of(self._engine, self._prefix)
        if length < beginning.sequence:
            return origin in (b"", beginning.origin)
        if length == beginning.sequence:
            return beginning.prev_hash == head_hash
        record = self._together(length - 1).get(length - 1)
        return record is not None and record.hash == head_hash

    def _origin(self) -> bytes:
        """The hash of event 0, also if it was trimmed; b"" of an empty log."""
        beginning = beginning_of(self._engine, self._prefix)
        record = None if beginning.sequence else self._together(0).get(0)
        return beginning.origin if record is None else record.hash

    def _oldest_records(self, first: int, before: int) -> list[int]:
        """The records with events of ``[first, before)``, each given by its last event; some of them if it is many."""
        lasts: list[int] = []
        for key, _ in self._engine.scan(event_key(self._prefix, first), self._prefix + TYPE):
            lasts.append(sequence_of(key))
            if lasts[-1] + 1 >= before or len(lasts) == _TRIMMED_RECORDS:
                break
        return lasts

    def _append(self, entries: list[list[Any]], convert: Callable[[list[list[Any]]], T]) -> T:
        """Append; what ``convert`` makes of [sequence, hash] of each."""
        if not entries:
            requests.refuse_if_read_only(self._engine)
            return convert([])
        return convert(requests.append_events(self._engine, self._prefix + METADATA, self._chain, entries))

    def _together(self, sequence: int) -> dict[int, EventRecord]:
        """The events stored in one record with event ``sequence``, by sequence; without it, if it is not there."""
        found = self._engine.find(event_key(self._prefix, sequence))
        if found is not None:  # appended alone, or last of a record
            return decode_events(sequence, found.value)
        following = self._engine.scan(event_key(self._prefix, sequence), self._prefix + TYPE)
        return next((decode_events(sequence_of(key), found.value) for key, found in following), {})

    def _stored(self, start: int, end: int) -> Generator[tuple[int, EventRecord], None, None]:
        """The events of ``[start, end)``. What lies beyond the last of them is not read: no conflict with it."""
        if max(start, 0) < end:
            with closing(stored_events(self._engine, self._prefix, start)) as stored:
                for sequence, record in stored:
                    if sequence < end:
                        yield sequence, record
                    if sequence + 1 >= end:
                        break


def page(view: EventView, start: int, end: int) -> list[Event]:
    """The first events of ``[start, end)``, as many as are read at a time; empty only if none are there."""
    events = []
    size = 0
    with closing(view._stored(start, end)) as all_stored:
        for sequence, record in all_stored:
            events.append(event_of(sequence, record))
            size += len(record.payload)
            if len(events) == _PAGE_EVENTS or size >= _PAGE_BYTES:
                break
    return events


def page_after(view: EventView, known: Known, start: int, end: int) -> list[Event]:
    """``page`` of a log that still goes on from what is ``known`` of it; ``NotFoundError`` if that log was deleted.

    What was trimmed before it was read is left out. On a snapshot, so that a log that was deleted and begun again is
    never taken for the one the anchor is of.
    """
    if not view._goes_on_from(known):
        raise NotFoundError(
            f"the log of {known.anchor.length} events that was being read is gone, as its run was deleted; "
            "read the run from event 0 to see what it holds now"
        )
    return page(view, start, end)


def restore(view: EventView, events: Iterable[Event]) -> None:
    """Write consecutive events of an export, hashes and timestamps included, as ``iter`` gave them.

    All or none; it never conflicts. Raises ``ValueError`` unless they fit each other and go on where the log ends.
    """
    fields = fields_to_restore(events)
    if fields:
        requests.restore_events(view._engine, view._prefix + METADATA, fields)


def trimmed(view: EventView) -> tuple[Beginning, Metadata]:
    """Where a log begins and ends, for ``begin_trimmed``."""
    return beginning_of(view._engine, view._prefix), view._metadata()


def begin_trimmed(view: EventView, beginning: list[Any], chain: str, timestamp: int) -> None:
    """Begin a log of an export as the trimmed one that it was; ``restore`` brings the events that were left.

    ``beginning``: the fields of ``Beginning``. ``timestamp``: that of the event before the first, or an earlier one.
    Raises ``ValueError`` if the log has begun.
    """
    requests.begin_log(view._engine, view._prefix + BEGINNING, beginning, chain, timestamp)


def _first(results: list[list[Any]]) -> Appended:
    return _new_tuple(Appended, results[0])


def _all(results: list[list[Any]]) -> list[Appended]:
    return [Appended(sequence, event_hash) for sequence, event_hash in results]


def _entry(event_type: object, payload: codec.Value) -> list[Any]:
    encode_text("event_type", event_type)
    return [event_type, canonical(payload)]


def _entries(events: object) -> list[list[Any]]:
    if not isinstance(events, Iterable) or isinstance(events, (str, bytes, dict)):
        raise TypeError(f"events has type {type(events).__name__}; give a list of (event_type, payload) pairs")
    entries = []
    for i, pair in enumerate(events):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"events[{i}] is {shown_value(pair, 100)}; give a pair (event_type, payload)")
        entries.append(_entry(*pair))
    return entries

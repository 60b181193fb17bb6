"""The types of ``EventLog``, and the verification of events: of exported ones, and of a stored log."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from shoal.primitives.engine import Engine
from shoal.primitives.keys import bound, encode_text
from shoal.primitives.rules.event_rules import (
    EVENT,
    METADATA,
    SEQUENCE_BYTES,
    TYPE,
    EventRecord,
    Metadata,
    TypeHead,
    decode_events,
    decode_head,
    decode_metadata,
)
from shoal.primitives.rules.hash_chain import DEFAULT_CHAIN, GENESIS_HASH, HASH_BYTES, ChainCheck, canonical, chain_of
from shoal.primitives.rules.trim_rules import BEGINNING, Beginning, decode_beginning
from shoal.shm import codec
from shoal.shm.arguments import check_int, check_type
from shoal.shm.errors import CorruptionError, LimitExceededError


@dataclass(frozen=True)
class Event:
    """An event of a log.

    ``sequence``: from 0. ``payload``: in canonical form, dicts with their keys sorted and lists for tuples.
    ``timestamp``: integer ms since the epoch (UTC), never before the last event's. ``prev_hash``, ``hash``: 32 bytes.

    >>> Event(0, "started", {"task": 1}, 1_700_000_000_000, bytes(32), bytes(31) + b"x").payload
    {'task': 1}
    """

    sequence: int
    event_type: str
    payload: Any
    timestamp: int
    prev_hash: bytes
    hash: bytes


class Appended(NamedTuple):
    """The result of an append: the event's sequence, from 0, and its hash, 32 bytes.

    >>> Appended(0, bytes(32)).sequence
    0
    """

    sequence: int
    hash: bytes


class Anchor(NamedTuple):
    """How long a log was, and the hash of its last event then, 32 bytes. Kept elsewhere it proves the log up to there.

    >>> Anchor(2, bytes(32)).length
    2
    """

    length: int
    head_hash: bytes


class Known(NamedTuple):
    """What a reader knows of a log: an anchor it must go on from, and the hash of event 0, b"" if that is not known."""

    anchor: Anchor
    origin: bytes = b""


@dataclass(frozen=True)
class ChainVerification:
    """The result of a verification; its truth value is ``is_valid``.

    ``length``: the log's length by its metadata, which counts trimmed events, or how many events were given.
    ``first_invalid``: the sequence of the first event that is missing or wrong; None if none is, or if it cannot be
    told. ``error``: what is wrong, else None.

    >>> bool(ChainVerification(False, 3, 1, "event 1 is missing"))
    False
    """

    is_valid: bool
    length: int
    first_invalid: int | None = None
    error: str | None = None

    def __bool__(self) -> bool:
        return self.is_valid


class _BrokenError(Exception):
    """The first fault that was found: sequence, text."""


def verify_events(events: Iterable[Event], prev_hash: bytes) -> ChainVerification:
    """Whether consecutive events follow each other, and the first of them follows ``prev_hash``."""
    _check_hash("prev_hash", prev_hash)
    check: ChainCheck | None = None
    length = 0
    fault: tuple[int | None, str] | None = None
    for event in events:
        if not isinstance(event, Event):
            raise TypeError(f"event {length} has type {type(event).__name__}; give Event objects")
        length += 1
        if fault is None:
            check = check or _check_from(event, prev_hash)
            problem = _problem(check, event)
            if problem:
                fault = check.sequence, problem
    return ChainVerification(True, length) if fault is None else ChainVerification(False, length, *fault)


def verify_log(engine: Engine, prefix: bytes, anchor: Anchor | None) -> ChainVerification:
    """Whether the events, metadata and type index of the log at ``prefix`` fit each other, and ``anchor``."""
    if anchor is not None:
        _check_anchor(anchor)
    found = engine.find(prefix + METADATA)
    try:
        metadata = decode_metadata(None if found is None else found.value)
    except CorruptionError as error:
        last = -1
        for key, _ in engine.scan(prefix + EVENT, prefix + TYPE):
            last = sequence_of(key)
        return ChainVerification(False, last + 1, None, str(error))
    try:
        beginning = beginning_of(engine, prefix)
        _check_beginning(beginning, metadata, anchor)
        heads = _check_records(engine, prefix, metadata, beginning, anchor)
        _check_heads(engine, prefix, heads, beginning.sequence > 0)
    except CorruptionError as error:
        return ChainVerification(False, metadata.next_sequence, None, str(error))
    except _BrokenError as broken:
        return ChainVerification(False, metadata.next_sequence, *broken.args)
    return ChainVerification(True, metadata.next_sequence)


def beginning_of(engine: Engine, prefix: bytes) -> Beginning:
    """Where the log at ``prefix`` begins. Raises ``CorruptionError`` for a bad record."""
    found = engine.find(prefix + BEGINNING)
    return decode_beginning(None if found is None else found.value)


def stored_events(engine: Engine, prefix: bytes, start: int) -> Generator[tuple[int, EventRecord], None, None]:
    """The events from ``start`` on of the log at ``prefix``, in order. Raises ``CorruptionError`` for a bad record."""
    for key, found in engine.scan(prefix + EVENT + bound(start), prefix + TYPE):
        for sequence, record in decode_events(sequence_of(key), found.value).items():
            if sequence >= start:
                yield sequence, record


def event_of(sequence: int, record: EventRecord) -> Event:
    """A stored event as users get it. Raises ``CorruptionError`` if its payload is no value."""
    event_type, payload, timestamp, prev_hash, event_hash, _ = record
    try:
        value = codec.decode(payload)
    except ValueError as error:
        found = f"{len(payload)} bytes of something else"
        raise CorruptionError(f"the payload of event {sequence}", 0, "a value", found) from error
    return Event(sequence, event_type, value, timestamp, prev_hash, event_hash)


def events_of(engine: Engine, stored: Iterable[tuple[int, EventRecord]]) -> Iterator[Event]:
    """Stored events as users get them, each when it is asked for.

    Raises ``InvalidOperationError`` once ``engine`` is a transaction that has ended. Many events are read at a time:
    those that are left then are of a snapshot that is held no longer, and nothing validates that they were read.
    """
    for sequence, record in stored:
        yield event_of(sequence, record)
        if getattr(engine, "has_ended", False):  # only transactions have it
            engine.find(EVENT)  # refuses, and says what became of the transaction


def fields_to_restore(events: Iterable[Event]) -> list[list[Any]]:
    """The argument of ``restore_events`` for consecutive events; ``ValueError`` unless they follow each other."""
    given = list(events)
    if not given:
        return []
    first = given[0]
    found = verify_events(given, first.prev_hash if isinstance(first, Event) else GENESIS_HASH)
    if not found.is_valid:
        raise ValueError(f"{found.error}; restore the events of a log as they were, all and in order")
    fields = []
    for event in given:
        encode_text("event_type", event.event_type)
        payload = canonical(event.payload)
        fields.append([event.sequence, event.event_type, payload, event.timestamp, event.prev_hash, event.hash])
    return fields


def sequence_of(key: bytes) -> int:
    """The sequence at the end of the key of an event record: that of its last event."""
    return int.from_bytes(key[-SEQUENCE_BYTES:], "big")


def _check_hash(what: str, value: object) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless it is a hash."""
    size = len(check_type(what, value, bytes, "bytes"))
    if size != HASH_BYTES:
        raise ValueError(f"{what} has {size} bytes; a hash has {HASH_BYTES}")


def _check_anchor(anchor: object) -> None:
    length, head_hash = check_type("anchor", anchor, Anchor, "the Anchor that anchor() returned")
    if check_int("length of the anchor", length) < 0:
        raise ValueError(f"length of the anchor is {length}; give 0 or more")
    _check_hash("head_hash of the anchor", head_hash)


def _check_from(event: Event, prev_hash: bytes) -> ChainCheck:
    """The check of a chain, or of a slice of one, that begins with ``event``. A hash shows its chain."""
    if prev_hash == GENESIS_HASH:
        known = isinstance(event.hash, bytes) and len(event.hash) == HASH_BYTES
        return ChainCheck(chain_of(event.hash) if known else DEFAULT_CHAIN)
    # Only the first event of a log follows the zero hash, so this one is not the first, whatever its sequence says.
    first = event.sequence if type(event.sequence) is int and event.sequence > 0 else 1
    return ChainCheck(chain_of(prev_hash), first, prev_hash)


def _problem(check: ChainCheck, event: Event) -> str:
    try:
        payload = canonical(event.payload)
    except (TypeError, ValueError, LimitExceededError) as error:
        return f"event {check.sequence} has a payload no event has: {error}"
    return check.problem(event.sequence, event.event_type, payload, event.timestamp, event.prev_hash, event.hash)


def _check_beginning(beginning: Beginning, metadata: Metadata, anchor: Anchor | None) -> None:
    """Check that a log can begin there, and that ``anchor`` is of this log, as far as metadata and beginning tell."""
    first, length = beginning.sequence, metadata.next_sequence
    if first > length:
        raise _BrokenError(length, f"the log begins with event {first}, but the metadata counts {length} events")
    if anchor is None:
        return
    if anchor.length > length:
        raise _BrokenError(length, f"the log has {length} events and the anchor {anchor.length}: the log was cut")
    if anchor.length == 0:
        if anchor.head_hash != GENESIS_HASH:
            told = "the anchor of an empty log has a hash other than the zero hash"
            raise _BrokenError(None, f"{told}: it is not of this log")
        return
    if anchor.length < first:
        told = f"the anchor is of the first {anchor.length} events, and the log was trimmed up to event {first}"
        raise _BrokenError(None, f"{told}, so the anchor shows nothing any more; take a newer one")
    if anchor.length == first and anchor.head_hash != beginning.prev_hash:
        raise _BrokenError(first - 1, _rewritten(first - 1, beginning.prev_hash, anchor))


def _rewritten(sequence: int, found: bytes, anchor: Anchor) -> str:
    told = f"event {sequence} has hash {found.hex()} and the anchor {anchor.head_hash.hex()}"
    return f"{told}: the log was rewritten, here or before"


def _check_records(
    engine: Engine, prefix: bytes, metadata: Metadata, beginning: Beginning, anchor: Anchor | None
) -> dict[str, TypeHead]:
    """Check every event record; return the head each type must have. Raises ``_BrokenError`` at the first fault."""
    length, head_hash, chain, timestamp = metadata
    first = beginning.sequence
    check = ChainCheck(chain, first, beginning.prev_hash)
    heads: dict[str, TypeHead] = {}
    for key, found in engine.scan(prefix + EVENT, prefix + TYPE):
        try:
            together = decode_events(sequence_of(key), found.value)
        except CorruptionError as error:
            raise _BrokenError(check.sequence, str(error)) from error
        for sequence, record in together.items():
            expected = check.sequence
            if expected == length:
                raise _BrokenError(expected, f"event {sequence} is there, but the metadata counts {length} events")
            problem = check.problem(sequence, *record[:-1])
            if problem:
                raise _BrokenError(expected, problem)
            head = heads.get(record.event_type, TypeHead())
            if record.before != head.newest and not (head.newest == 0 and record.before <= first):
                told = f"event {expected} goes on after {_shown(record.before)} in the index of its type"
                raise _BrokenError(expected, f"{told}, the last one before it is {_shown(head.newest)}")
            heads[record.event_type] = TypeHead(head.events + 1, expected + 1)
            if anchor is not None and anchor.length == check.sequence and anchor.head_hash != check.head_hash:
                raise _BrokenError(expected, _rewritten(expected, check.head_hash, anchor))
    if check.sequence < length:
        raise _BrokenError(check.sequence, f"event {check.sequence} is missing: the metadata counts {length} events")
    if check.head_hash != head_hash:
        told = f"the metadata has head hash {head_hash.hex()}, the last event {check.head_hash.hex()}"
        raise _BrokenError(max(length - 1, 0), told)
    if length > first and check.timestamp != timestamp:
        raise _BrokenError(length - 1, f"the metadata has timestamp {timestamp}, the last event {check.timestamp}")
    return heads


def _check_heads(engine: Engine, prefix: bytes, heads: dict[str, TypeHead], is_trimmed: bool) -> None:
    """Raise ``_BrokenError`` unless exactly the types in ``heads`` have a head, and each the one given there.

    A head of a log that was trimmed may count more events: those that are gone.
    """
    missing = dict(heads)
    for key, found in engine.scan(prefix + TYPE, prefix + bytes((TYPE[0] + 1,))):
        event_type = key[len(prefix) + 1 :].decode(errors="backslashreplace")
        expected = missing.pop(event_type, TypeHead())
        try:
            head = decode_head(found.value)
        except CorruptionError as error:
            raise _BrokenError(_newest(expected), f"{error}, of {event_type!r}") from error
        if head != expected and not (is_trimmed and expected.newest == head.newest and head.events > expected.events):
            told = f"the type index has {head.events} events {event_type!r}, the last {_shown(head.newest)}"
            raise _BrokenError(
                _newest(expected), f"{told}; the log has {expected.events}, the last {_shown(expected.newest)}"
            )
    for event_type, head in missing.items():
        told = f"the type index has no events {event_type!r}"
        raise _BrokenError(_newest(head), f"{told}; the log has {head.events}, the last {_shown(head.newest)}")


def _shown(before: int) -> str:
    return f"event {before - 1}" if before else "none"


def _newest(head: TypeHead) -> int | None:
    return head.newest - 1 if head.newest else None

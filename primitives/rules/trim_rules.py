"""Trimming an event log: its oldest events go, all else stays as it was.

    prefix + 3              beginning   msgpack [first sequence, hash before it, hash of event 0]; of a log that was
                                        never trimmed there is none

Invariants: the sequences from the first one on are there without a gap, those before it are not. A record that is
trimmed in part is written again without the events that go, under the same key. A type whose newest event goes has no
head any more; another one's head still counts the events that are gone, and the oldest events of a type may point to
one that is gone. So a trim neither reads nor writes what an append writes, but for such heads. The hash before the
first event makes the log verify from there on; the hash of event 0 says which log it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from shoal.primitives.rules.event_rules import (
    METADATA,
    EventRecord,
    Metadata,
    decode_events,
    decode_head,
    event_key,
    type_key,
)
from shoal.primitives.rules.hash_chain import CHAINS, GENESIS_HASH, HASH_BYTES
from shoal.shm import codec
from shoal.shm.errors import CorruptionError
from shoal.shm.operation import Decision, Read, Write

BEGINNING = b"\3"


class Beginning(NamedTuple):
    """Where a log begins. The defaults are those of a log that was never trimmed."""

    sequence: int = 0
    prev_hash: bytes = GENESIS_HASH  # of the event before
    origin: bytes = b""  # the hash of event 0


def decode_beginning(raw: bytes | None) -> Beginning:
    """Where a log begins; None is one that was never trimmed. ``CorruptionError`` for other bytes."""
    if raw is None:
        return Beginning()
    try:
        beginning = Beginning(*codec.unpackb(raw))
    except (ValueError, TypeError):  # no msgpack, or not as many fields
        beginning = Beginning()
    sequence, *hashes = beginning
    if type(sequence) is int and sequence > 0 and all(type(it) is bytes and len(it) == HASH_BYTES for it in hashes):
        return beginning
    expected = "first sequence, hash before it, hash of event 0"
    raise CorruptionError("the beginning of the event log", 0, expected, f"{len(raw)} bytes of something else")


class Trimming:
    """Takes events off the beginning of the log at ``prefix``, record by record; ``writes`` is what changes then."""

    def __init__(self, read: Read, prefix: bytes) -> None:
        found = read(prefix + BEGINNING)
        self.beginning = decode_beginning(None if found is None else found.value)
        self._read = read
        self._prefix = prefix
        self._types: set[str] = set()
        self._writes: list[Write] = []

    def add(self, last: int, events: dict[int, EventRecord], before: int) -> None:
        """Remove the events below ``before`` of the next record, which ends with ``last`` and holds ``events``.

        Raises ``CorruptionError`` if it is not the next one.
        """
        sequence, prev_hash, origin = self.beginning
        if sequence not in events or next(iter(events)) != sequence:
            raise CorruptionError("the event log", 0, f"event {sequence}", f"a record that ends with event {last}")
        for event in events.values():
            if sequence >= before:
                break
            self._types.add(event.event_type)
            prev_hash, origin = event.hash, origin or event.hash
            sequence += 1
        self.beginning = Beginning(sequence, prev_hash, origin)
        left = [event for at, event in events.items() if at >= sequence]
        self._writes.append(Write(event_key(self._prefix, last), codec.pack(left) if left else None, 0))

    def writes(self) -> list[Write]:
        """All writes of it; none if no event goes."""
        if not self._writes:
            return []
        first = self.beginning.sequence
        writes = [*self._writes, Write(self._prefix + BEGINNING, codec.pack(self.beginning), 0)]
        for event_type in sorted(self._types):
            key = type_key(self._prefix, event_type.encode())
            found = self._read(key)
            if found is not None and decode_head(found.value).newest <= first:
                writes.append(Write(key, None, 0))
        return writes


def trim(read: Read, now_ms: int, beginning_key: bytes, first: int, before: int, lasts: list[int]) -> Decision:
    """Remove the events below ``before`` of the records that end with ``lasts``, which are the oldest, in order.

    The result is the sequence with which the log begins then; None if nothing is done, because the log does not begin
    with ``first`` any more, or a record is gone: look again.
    """
    prefix = beginning_key[:-1]
    trimming = Trimming(read, prefix)
    if trimming.beginning.sequence != first:
        return Decision([], None)
    for last in lasts:
        found = read(event_key(prefix, last))
        if found is None:
            return Decision([], None)
        trimming.add(last, decode_events(last, found.value), before)
    return Decision(trimming.writes(), trimming.beginning.sequence)


def begin(read: Read, now_ms: int, beginning_key: bytes, beginning: list[Any], chain: str, timestamp: int) -> Decision:
    """Begin an empty log as one that was trimmed: ``beginning`` is [first sequence, hash before it, hash of event 0].

    ``timestamp`` is that of the last event before it, or an earlier time. ``ValueError`` if the log is not empty.
    """
    prefix = beginning_key[:-1]
    if read(prefix + METADATA) is not None or read(beginning_key) is not None:
        raise ValueError("the log has begun already; restore a trimmed log into a run that holds none")
    first = decode_beginning(codec.pack(beginning))
    if chain not in CHAINS or type(timestamp) is not int:
        raise ValueError(f"there is no chain {chain!r}, or the timestamp is none")
    metadata = Metadata(first.sequence, first.prev_hash, chain, timestamp)
    return Decision(
        [Write(beginning_key, codec.pack(first), 0), Write(prefix + METADATA, codec.pack(metadata), 0)], None
    )

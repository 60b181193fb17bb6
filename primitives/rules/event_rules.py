"""The keys and records of event logs, and the rules by which events are appended.

    prefix + 0              metadata  msgpack [next sequence, head hash, chain, last timestamp in ms]
    prefix + 1 + sequence   events    msgpack [event, ...], consecutive events, the last of which is ``sequence``:
                                      [type, canonical payload, timestamp in ms, hash before, hash, before]
    prefix + 2 + type       head      msgpack [events, newest]: how many events of the type there are, and the newest
        prefix      the run's prefix and the tag EVENT
        sequence    8 bytes, big-endian
        type        UTF-8
        before      the event of the same type before this one. Like ``newest`` it is a sequence + 1; 0 is none

Invariants: sequences have no gaps. The metadata repeats the last event. An event is written once, in the commit that
writes its log's metadata and its type's head, and never again. An append reads and writes the metadata, so two appends
to a log never happen at once.

Events that are appended together share a record, up to ``RECORD_BYTES``: one more key costs a commit as much as
everything else about an event. The key of a record names its last event, so the first key at or after an event's own is
that of its record. Each event points to the one of its type before it, so an append adds one key, however many types
there are. ``trim_rules`` removes the oldest events of a log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from shoal.primitives.rules.hash_chain import CHAINS, GENESIS_HASH, HASH_BYTES, ChainCheck, chain_of, event_hash
from shoal.shm import codec
from shoal.shm.errors import CorruptionError, LimitExceededError
from shoal.shm.limits import (
    ADVICE_FOR_COMMITS,
    KIB,
    MAX_COMMIT_BYTES,
    MAX_ENGINE_KEY_BYTES,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
)
from shoal.shm.operation import Decision, Read, Write

T = TypeVar("T")

_new_tuple = tuple.__new__

METADATA = b"\0"
EVENT = b"\1"
TYPE = b"\2"
SEQUENCE_BYTES = 8
LARGEST_SEQUENCE = 2**64 - 1
# No log has come so far. What says that it has is damaged, and what counts on from it may fit no number of msgpack.
_UNREACHED = 2**63

# A record holds no more, unless it is a single larger event: to read one event is to read its whole record.
RECORD_BYTES = 4 * KIB

# Bounds for the size of a commit: an event in its record beside type and payload; a key with a small value beside its
# prefix.
_FIELDS_BYTES = 100
_KEY_BYTES = 60
# Type heads that are cached from one commit to the next.
_CACHED_HEADS = 256

_LONGEST_PAYLOAD = MAX_VALUE_BYTES + 16  # a text of 16 MiB has a header of msgpack's before it
_LONGEST_METADATA_KEY = MAX_ENGINE_KEY_BYTES - 2 - MAX_KEY_BYTES - SEQUENCE_BYTES


class Metadata(NamedTuple):
    """The state of a log. The defaults are those of an empty log."""

    next_sequence: int = 0
    head_hash: bytes = GENESIS_HASH
    chain: str = ""
    timestamp: int = 0


class EventRecord(NamedTuple):
    """An event as it is stored. Its sequence follows from the key of the record it is in."""

    event_type: str
    payload: bytes
    timestamp: int
    prev_hash: bytes
    hash: bytes
    before: int  # the sequence of the event of the same type before it, plus 1; 0 of the first


class TypeHead(NamedTuple):
    """Where the events of a type begin, from the newest backward. The defaults are those of a type without events."""

    events: int = 0
    newest: int = 0  # its sequence, plus 1


def event_key(prefix: bytes, sequence: int) -> bytes:
    """The key of the record whose last event is ``sequence``, from 0 to 2**64 - 1."""
    return prefix + EVENT + sequence.to_bytes(SEQUENCE_BYTES, "big")


def type_key(prefix: bytes, event_type: bytes) -> bytes:
    """The key of the head of a type, given as UTF-8."""
    return prefix + TYPE + event_type


def decode_metadata(raw: bytes | None) -> Metadata:
    """A log's metadata; None is an empty log. ``CorruptionError`` for other bytes."""
    if raw is None:
        return Metadata()
    metadata = _fields(Metadata, raw)
    if metadata is not None:
        sequence, head_hash, chain, timestamp = metadata
        in_numbers = type(sequence) is int and sequence > 0 and type(timestamp) is int
        is_hash = type(head_hash) is bytes and len(head_hash) == HASH_BYTES
        if in_numbers and is_hash and type(chain) is str and chain in CHAINS:
            return metadata
    expected = "next sequence, head hash, chain, timestamp"
    raise CorruptionError("the metadata of the event log", 0, expected, f"{len(raw)} bytes of something else")


def decode_events(last: int, raw: bytes) -> dict[int, EventRecord]:
    """The events of the record that ends with ``last``, by sequence, in order. Raises ``CorruptionError``."""
    try:
        events = [EventRecord(*fields) for fields in codec.unpackb(raw)]
    except (ValueError, TypeError):  # no msgpack, no list, or not as many fields
        events = []
    sequences = range(last - len(events) + 1, last + 1)
    if events and sequences[0] >= 0 and all(map(_is_whole, events, sequences)):
        return dict(zip(sequences, events, strict=True))
    expected = "events of type, payload, timestamp, prev_hash, hash, event before"
    raise CorruptionError(f"the record of event {last}", 0, expected, f"{len(raw)} bytes of something else")


def decode_head(raw: bytes | None) -> TypeHead:
    """The head of a type; None is a type without events. ``CorruptionError`` for other bytes."""
    if raw is None:
        return TypeHead()
    head = _fields(TypeHead, raw)
    if head is not None and type(head.events) is type(head.newest) is int:  # noqa: SIM102 (a line each)
        if 0 < head.events <= head.newest < _UNREACHED:
            return head
    raise CorruptionError("the head of an event type", 0, "events, newest", f"{len(raw)} bytes of something else")


def _is_whole(event: EventRecord, sequence: int) -> bool:
    event_type, payload, timestamp, prev_hash, found_hash, before = event
    in_bytes = type(payload) is type(prev_hash) is type(found_hash) is bytes
    in_numbers = type(timestamp) is type(before) is int and 0 <= before <= sequence
    return in_bytes and in_numbers and type(event_type) is str


def _fields(kind: Callable[..., T], raw: bytes) -> T | None:
    try:
        return kind(*codec.unpackb(raw))
    except (ValueError, TypeError):  # no msgpack, or not as many fields
        return None


class Appending:
    """A batch of appends to one log: each goes on where the one before ended, metadata and heads are written once.

    It is used for one commit after another, as long as nothing else writes to the log; so it caches what it has read.
    After an error in ``put`` or ``end`` it must be thrown away, with what it would have written.
    """

    __slots__ = (
        "_bytes",
        "_changed",
        "_heads",
        "_metadata",
        "_metadata_key",
        "_open",
        "_open_bytes",
        "_prefix",
        "_read",
        "_writes",
        "timestamp",
    )

    def __init__(self, read: Read, metadata_key: bytes) -> None:
        if len(metadata_key) > _LONGEST_METADATA_KEY:
            raise ValueError("the key of an event log's metadata is too long")
        self._read = read
        self._metadata_key = metadata_key
        self._prefix = metadata_key[:-1]
        found = read(metadata_key)
        self._metadata = decode_metadata(None if found is None else found.value)
        if self._metadata.next_sequence >= _UNREACHED:
            sequence = self._metadata.next_sequence
            raise CorruptionError("the metadata of the event log", 0, f"a sequence below {_UNREACHED}", f"{sequence}")
        self.timestamp = 0
        # Type heads by UTF-8 type name, as lists of their fields: cached ones, and those that this commit changes.
        self._heads: dict[bytes, list[int]] = {}
        self._changed: dict[bytes, list[int]] = {}
        self._writes: list[Any] = []  # key, value and expiry of each, flat
        self._bytes = 0  # of everything this commit writes
        self._open: list[tuple[Any, ...]] = []  # events of the record that is not complete yet
        self._open_bytes = 0

    def begin(self, now_ms: int) -> None:
        """Begin a commit."""
        self.timestamp = max(now_ms, self._metadata.timestamp)
        self._bytes = 0
        self._changed = {}
        if len(self._heads) > _CACHED_HEADS:
            self._heads = {}

    @property
    def metadata(self) -> Metadata:
        """The state of the log after what was appended so far."""
        return self._metadata

    def decide(self, _name: str, arguments: list[Any]) -> list[list[Any]]:
        """Decide an operation, of which the metadata's key is the first argument: there is one kind."""
        _, chain, entries = arguments
        return self.add(chain, entries)

    def add(self, chain: str, entries: list[Any]) -> list[list[Any]]:
        """Append ``entries``, each [type, canonical payload]; return [sequence, hash] of each.

        ``chain`` is for a log that begins here; a log that has begun goes on with its own.
        """
        if chain not in CHAINS:
            raise ValueError(f"there is no chain {chain!r}")
        sequence, head_hash, own_chain, _ = self._metadata
        chain, timestamp = own_chain or chain, self.timestamp
        if len(entries) > 1:  # before their hashes are computed, as every client waits meanwhile
            self._check_size(sum([_FIELDS_BYTES + len(event_type) + len(payload) for event_type, payload in entries]))
        results = []
        for event_type, payload in entries:
            prev_hash = head_hash
            head_hash = event_hash(chain, sequence, event_type, payload, timestamp, prev_hash)
            self.put(sequence, event_type, payload, timestamp, prev_hash, head_hash)
            results.append([sequence, head_hash])
            sequence += 1
        self.end(sequence, head_hash, chain)
        return results

    def put(
        self, sequence: int, event_type: str, payload: bytes, timestamp: int, prev_hash: bytes, own_hash: bytes
    ) -> None:
        """Add the next event. Type and payload came through a pipe, so they are checked."""
        raw_type = event_type.encode()
        size = _FIELDS_BYTES + len(raw_type) + len(payload)
        if not 0 < len(raw_type) <= MAX_KEY_BYTES or type(payload) is not bytes or len(payload) > _LONGEST_PAYLOAD:
            raise ValueError("an entry of an append is not a type and a payload")
        self._bytes += size
        head = self._heads.get(raw_type)
        if head is None:
            found = self._read(type_key(self._prefix, raw_type))
            self._heads[raw_type] = head = list(decode_head(None if found is None else found.value))
        if self._open_bytes + size > RECORD_BYTES and self._open:
            self._close_record(sequence - 1)
        self._open.append((event_type, payload, timestamp, prev_hash, own_hash, head[1]))
        self._open_bytes += size
        head[0] += 1
        head[1] = sequence + 1
        if raw_type not in self._changed:
            self._changed[raw_type] = head
            self._bytes += _KEY_BYTES + len(self._metadata_key) + len(raw_type)

    def _close_record(self, last: int) -> None:
        self._bytes += _KEY_BYTES + len(self._metadata_key)
        self._writes += (event_key(self._prefix, last), codec.pack(self._open), 0)
        self._open, self._open_bytes = [], 0

    def end(self, sequence: int, head_hash: bytes, chain: str) -> None:
        """Set the state of the log after what was put: ``sequence`` is that of the next event.

        Raises ``LimitExceededError`` if this commit writes more than a commit may hold: small events take more room
        stored than in the request.
        """
        self._check_size(0)
        if self._open:
            self._metadata = _new_tuple(Metadata, (sequence, head_hash, chain, self.timestamp))

    def _check_size(self, more_bytes: int) -> None:
        if self._bytes + more_bytes > MAX_COMMIT_BYTES:
            size = self._bytes + more_bytes
            raise LimitExceededError("size of the commit in bytes", MAX_COMMIT_BYTES, size, ADVICE_FOR_COMMITS)

    def writes(self) -> list[Any]:
        """What the batch writes, to be taken once, at its end: key, value and expiry of each write, flat."""
        if self._open:
            self._close_record(self._metadata.next_sequence - 1)
        writes, prefix = self._writes, self._prefix
        self._writes = []
        if writes:
            for raw_type, head in self._changed.items():
                writes += (type_key(prefix, raw_type), codec.pack(head), 0)
            writes += (self._metadata_key, codec.pack(self._metadata), 0)
        return writes

    def decision(self, result: Any) -> Decision:
        """``writes`` with ``result``, as the decision of one operation."""
        parts = iter(self.writes())
        return Decision([Write(*write) for write in zip(parts, parts, parts, strict=False)], result)


def append(read: Read, now_ms: int, metadata_key: bytes, chain: str, entries: list[Any]) -> Decision:
    """Append ``entries``; the result is [sequence, hash] of each, as of ``Appending.add``."""
    appending = Appending(read, metadata_key)
    appending.begin(now_ms)
    results = appending.add(chain, entries)
    return appending.decision(results)


def restore(read: Read, now_ms: int, metadata_key: bytes, events: list[Any]) -> Decision:
    """Write events of an export, each [sequence, type, canonical payload, timestamp, hash before, hash], as they were.

    Raises ``ValueError`` unless they go on where the log ends. A log that begins here gets the chain of its hashes.
    """
    restoring = Appending(read, metadata_key)
    sequence, head_hash, chain, last_ms = restoring.metadata
    chain = chain or chain_of(events[0][5])
    check = ChainCheck(chain, sequence, head_hash, last_ms if sequence else None)
    for event in events:
        problem = check.problem(*event)
        if problem:
            raise ValueError(f"{problem}; restore the events of a log as they were, all and in order")
        restoring.put(*event)
        restoring.timestamp = event[3]
    restoring.end(check.sequence, check.head_hash, chain)
    return restoring.decision(None)

"""The keys and records of event logs, and the rules by which the coordinator writes to one.

    prefix + 0              metadata  msgpack [next sequence, head hash, chain, last timestamp in ms]
    prefix + 1 + sequence   events    msgpack [event, ...], one after the other, the last of them being ``sequence``:
                                      [type, canonical payload, timestamp in ms, hash before, hash, before]
    prefix + 2 + type       head      msgpack [events, newest]: how many there are of the type, and the newest of them
        prefix      the run's, with the tag EVENT
        sequence    8 bytes, big-endian
        type        UTF-8
        before      the event of the same type before this one; like newest as its sequence + 1, 0 for none

The metadata says the same as the last event; sequences have no gaps; an event is written once, together with its log's
metadata and its type's head, and never again. Who appends reads and writes the metadata, so no two append at once.

What is appended together stands together, up to ``RECORD_BYTES`` a record: a key more costs a commit as much as all
else of an event does. A record is called by its last event, so the first key from an event's on has the event in it.
The events of a type hang together backward from the head, so an append adds one key however many types there are.
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

METADATA = b"\0"
EVENT = b"\1"
TYPE = b"\2"
SEQUENCE_BYTES = 8
LARGEST_SEQUENCE = 2**64 - 1

# A record holds no more, unless it is a single event that is larger: who reads one event reads the others with it.
RECORD_BYTES = 4 * KIB

# What an event takes in its record beside its type and its payload, and a key with a small value beside its prefix.
_FIELDS_BYTES = 100
_KEY_BYTES = 60
# Types whose heads are kept in mind from one commit to the next.
_KNOWN_HEADS = 256

_LONGEST_PAYLOAD = MAX_VALUE_BYTES + 16  # with what stands before a text of 16 MiB
_LONGEST_METADATA_KEY = MAX_ENGINE_KEY_BYTES - 2 - MAX_KEY_BYTES - SEQUENCE_BYTES


class Metadata(NamedTuple):
    """The state of a log; as it stands here, of an empty one."""

    next_sequence: int = 0
    head_hash: bytes = GENESIS_HASH
    chain: str = ""
    timestamp: int = 0


class EventRecord(NamedTuple):
    """An event as it is stored; its sequence follows from the key it stands under."""

    event_type: str
    payload: bytes
    timestamp: int
    prev_hash: bytes
    hash: bytes
    before: int  # the sequence of the event of the same type before it, plus 1; 0 of the first


class TypeHead(NamedTuple):
    """Where the events of one type are found: from the newest backward. As it stands here, of a type without any."""

    events: int = 0
    newest: int = 0  # its sequence, plus 1


def event_key(prefix: bytes, sequence: int) -> bytes:
    """Where the events that end with ``sequence``, from 0 to 2**64 - 1, are."""
    return prefix + EVENT + sequence.to_bytes(SEQUENCE_BYTES, "big")


def type_key(prefix: bytes, event_type: bytes) -> bytes:
    """Where the head of a type, as UTF-8, is."""
    return prefix + TYPE + event_type


def decode_metadata(raw: bytes | None) -> Metadata:
    """A log's metadata, None being an empty log's; CorruptionError for what is none."""
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
    """The events stored together up to ``last``, by sequence and in order; CorruptionError for what is none."""
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
    """The head of a type, None being that of a type without events; CorruptionError for what is none."""
    if raw is None:
        return TypeHead()
    head = _fields(TypeHead, raw)
    if head is not None and type(head.events) is type(head.newest) is int and 0 < head.events <= head.newest:
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
    """Appends to one log, each going on where the one before ended; what they share is read and written once.

    One commit after another, as long as nobody else writes to the log. After an error nothing of it may be written.
    """

    __slots__ = (
        "_bytes",
        "_heads",
        "_metadata",
        "_metadata_key",
        "_open",
        "_open_bytes",
        "_prefix",
        "_read",
        "_touched",
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
        self.timestamp = 0
        # Of a type as UTF-8, the fields of its TypeHead: those that are known, and those of this commit's events.
        self._heads: dict[bytes, list[int]] = {}
        self._touched: dict[bytes, list[int]] = {}
        self._writes: list[Any] = []  # key, value and expiry of each, flat
        self._bytes = 0  # of all that is to be written
        self._open: list[tuple[Any, ...]] = []  # events of the record to be written next
        self._open_bytes = 0

    def begin(self, now_ms: int) -> None:
        """Begin a commit."""
        self.timestamp = max(now_ms, self._metadata.timestamp)
        self._bytes = 0
        self._touched = {}
        if len(self._heads) > _KNOWN_HEADS:
            self._heads = {}

    @property
    def metadata(self) -> Metadata:
        """Where the log ends by now."""
        return self._metadata

    def add(self, chain: str, entries: list[Any]) -> list[list[Any]]:
        """Append ``entries`` ([type, canonical payload] each); [sequence, hash] of each.

        ``chain`` is that of a log that begins here; a log that has one goes on with its own.
        """
        if chain not in CHAINS:
            raise ValueError(f"there is no chain {chain!r}")
        sequence, head_hash, own_chain, _ = self._metadata
        chain, timestamp = own_chain or chain, self.timestamp
        if len(entries) > 1:  # before their hashes are computed, while everybody waits
            self._check_size(sum(_FIELDS_BYTES + len(event_type) + len(payload) for event_type, payload in entries))
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
        """Take in the next event. Type and payload came through a pipe."""
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
        if raw_type not in self._touched:
            self._touched[raw_type] = head
            self._bytes += _KEY_BYTES + len(self._metadata_key) + len(raw_type)

    def _close_record(self, last: int) -> None:
        self._bytes += _KEY_BYTES + len(self._metadata_key)
        self._writes += (event_key(self._prefix, last), codec.pack(self._open), 0)
        self._open, self._open_bytes = [], 0

    def end(self, sequence: int, head_hash: bytes, chain: str) -> None:
        """Note where the log ends: at what was put last, which has the newest timestamp.

        LimitExceededError if it is more by now than a commit holds: small events take more room here than as requests.
        """
        self._check_size(0)
        if self._open:
            self._metadata = Metadata(sequence, head_hash, chain, self.timestamp)

    def _check_size(self, more_bytes: int) -> None:
        if self._bytes + more_bytes > MAX_COMMIT_BYTES:
            size = self._bytes + more_bytes
            raise LimitExceededError("size of the commit in bytes", MAX_COMMIT_BYTES, size, ADVICE_FOR_COMMITS)

    def writes(self) -> list[Any]:
        """What all of them write, after the last and once: key, value and expiry of each, flat. It is not kept."""
        if self._open:
            self._close_record(self._metadata.next_sequence - 1)
        writes, prefix = self._writes, self._prefix
        self._writes = []
        if writes:
            for raw_type, head in self._touched.items():
                writes += (type_key(prefix, raw_type), codec.pack(head), 0)
            writes += (self._metadata_key, codec.pack(self._metadata), 0)
        return writes

    def outcome(self, result: Any) -> Decision:
        """The same, with ``result``, as the outcome of one operation."""
        parts = iter(self.writes())
        return Decision([Write(*write) for write in zip(parts, parts, parts, strict=False)], result)


def append(read: Read, now_ms: int, metadata_key: bytes, chain: str, entries: list[Any]) -> Decision:
    """Append ``entries`` and answer [sequence, hash] of each, as ``Appending.add`` does."""
    appending = Appending(read, metadata_key)
    appending.begin(now_ms)
    results = appending.add(chain, entries)
    return appending.outcome(results)


def restore(read: Read, now_ms: int, metadata_key: bytes, events: list[Any]) -> Decision:
    """Write events ([sequence, type, canonical payload, timestamp, hash before, hash] each) as they once were.

    ValueError unless they go on where the log ends; a log that begins here gets the chain its hashes show.
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
    return restoring.outcome(None)

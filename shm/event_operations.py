"""The keys and records of event logs, and the rules by which the coordinator writes to one.

    prefix + 0                      metadata  msgpack [next sequence, head hash, chain, last timestamp in ms]
    prefix + 1 + sequence           event     msgpack [type, canonical payload, timestamp in ms, hash before, hash]
    prefix + 2 + type + sequence    index     empty
        prefix      the run's, with the tag EVENT
        sequence    8 bytes, big-endian
        type        2 bytes length, then UTF-8

The metadata says the same as the last event; sequences have no gaps; an event and its index key are written together
and never again. All of it goes through the metadata key: who appends reads and writes it, so no two append at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from shoal.shm import codec
from shoal.shm.errors import CorruptionError, LimitExceededError
from shoal.shm.hash_chain import CHAINS, GENESIS_HASH, HASH_BYTES, ChainCheck, chain_of, event_hash
from shoal.shm.limits import MAX_COMMIT_BYTES, MAX_ENGINE_KEY_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES
from shoal.shm.outcome import Outcome, Read, Write

T = TypeVar("T")

METADATA = b"\0"
EVENT = b"\1"
TYPE = b"\2"
SEQUENCE_BYTES = 8
LARGEST_SEQUENCE = 2**64 - 1

# What the records of one event take beside its type, its payload and the prefixes of its two keys.
_EVENT_BYTES = 160
_LONGEST_PAYLOAD = MAX_VALUE_BYTES + 16  # with what stands before a text of 16 MiB
_LONGEST_METADATA_KEY = MAX_ENGINE_KEY_BYTES - 2 - MAX_KEY_BYTES - SEQUENCE_BYTES


class Metadata(NamedTuple):
    """The state of a log; as it stands here, of an empty one."""

    next_sequence: int = 0
    head_hash: bytes = GENESIS_HASH
    chain: str = ""
    timestamp: int = 0


class Record(NamedTuple):
    """An event as it is stored; its sequence is in its key."""

    event_type: str
    payload: bytes
    timestamp: int
    prev_hash: bytes
    hash: bytes


def event_key(prefix: bytes, sequence: int) -> bytes:
    """Where the event ``sequence``, from 0 to 2**64 - 1, is."""
    return prefix + EVENT + sequence.to_bytes(SEQUENCE_BYTES, "big")


def type_prefix(prefix: bytes, event_type: bytes) -> bytes:
    """What the index keys of a type begin with; the sequence follows."""
    return prefix + TYPE + len(event_type).to_bytes(2, "big") + event_type


def event_writes(prefix: bytes, sequence: int, event_type: bytes, record: Record) -> list[Write]:
    """The event's record and its index key; ``event_type`` as UTF-8."""
    number = sequence.to_bytes(SEQUENCE_BYTES, "big")
    return [
        Write(prefix + EVENT + number, codec.pack(record), 0),
        Write(type_prefix(prefix, event_type) + number, b"", 0),
    ]


def metadata_write(prefix: bytes, metadata: Metadata) -> Write:
    """The log's metadata."""
    return Write(prefix + METADATA, codec.pack(metadata), 0)


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


def decode_record(sequence: int, raw: bytes) -> Record:
    """The record of event ``sequence``; CorruptionError for what is none."""
    record = _fields(Record, raw)
    if record is not None:
        event_type, payload, timestamp, prev_hash, found_hash = record
        in_bytes = type(payload) is type(prev_hash) is type(found_hash) is bytes
        if in_bytes and type(event_type) is str and type(timestamp) is int:
            return record
    expected = "type, payload, timestamp, prev_hash, hash"
    raise CorruptionError(f"the record of event {sequence}", 0, expected, f"{len(raw)} bytes of something else")


def _fields(kind: Callable[..., T], raw: bytes) -> T | None:
    try:
        return kind(*codec.unpackb(raw))
    except (ValueError, TypeError):  # no msgpack, or not as many fields
        return None


def append(read: Read, now_ms: int, metadata_key: bytes, chain: str, entries: list[Any]) -> Outcome:
    """Append ``entries`` ([type, canonical payload] each) and answer [sequence, hash] of each.

    ``chain`` is that of a log that begins here; a log that has one goes on with its own.
    """
    prefix = metadata_key[:-1]
    found = read(metadata_key)
    sequence, head_hash, own_chain, last_ms = decode_metadata(None if found is None else found.value)
    chain = own_chain or chain
    timestamp = max(now_ms, last_ms)
    writes: list[Write] = []
    results = []
    for event_type, raw_type, payload in _checked(metadata_key, entries):
        prev_hash = head_hash
        head_hash = event_hash(chain, sequence, event_type, payload, timestamp, prev_hash)
        writes += event_writes(prefix, sequence, raw_type, Record(event_type, payload, timestamp, prev_hash, head_hash))
        results.append([sequence, head_hash])
        sequence += 1
    if results:
        writes.append(metadata_write(prefix, Metadata(sequence, head_hash, chain, timestamp)))
    return Outcome(writes, results)


def restore(read: Read, now_ms: int, metadata_key: bytes, events: list[Any]) -> Outcome:
    """Write events ([sequence, type, canonical payload, timestamp, hash before, hash] each) as they once were.

    ValueError unless they go on where the log ends; a log that begins here gets the chain its hashes show.
    """
    prefix = metadata_key[:-1]
    found = read(metadata_key)
    sequence, head_hash, chain, last_ms = decode_metadata(None if found is None else found.value)
    chain = chain or chain_of(events[0][5])
    check = ChainCheck(chain, sequence, head_hash, last_ms if sequence else None)
    checked = _checked(metadata_key, [event[1:3] for event in events])
    writes: list[Write] = []
    timestamp = last_ms
    for (number, *fields), (_, raw_type, _) in zip(events, checked, strict=True):
        record = Record(*fields)
        problem = check.problem(number, *record)
        if problem:
            raise ValueError(f"{problem}; restore the events of a log as they were, all and in order")
        writes += event_writes(prefix, number, raw_type, record)
        timestamp = record.timestamp
    writes.append(metadata_write(prefix, Metadata(check.sequence, check.head_hash, chain, timestamp)))
    return Outcome(writes, None)


def _checked(metadata_key: bytes, entries: list[Any]) -> list[tuple[str, bytes, bytes]]:
    """Type, type as UTF-8 and payload of each entry, before anything is hashed: entries come through a pipe."""
    if len(metadata_key) > _LONGEST_METADATA_KEY:
        raise ValueError("the key of an event log's metadata is too long")
    checked = []
    size = (_EVENT_BYTES + 2 * len(metadata_key)) * len(entries)
    for event_type, payload in entries:
        raw_type = event_type.encode()
        if not 0 < len(raw_type) <= MAX_KEY_BYTES or type(payload) is not bytes or len(payload) > _LONGEST_PAYLOAD:
            raise ValueError("an entry of an append is not a type and a payload")
        size += 2 * len(raw_type) + len(payload)
        checked.append((event_type, raw_type, payload))
    if size > MAX_COMMIT_BYTES:
        # Small events take far more as records than on their way here.
        raise LimitExceededError("size of the commit in bytes", MAX_COMMIT_BYTES, size)
    return checked

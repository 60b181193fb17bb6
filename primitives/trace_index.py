"""The records of traces, and which index answers a query. ``rules.layouts.trace_keys`` has the keys.

    record      msgpack [parent id or nil, kind of trace, fields, timestamp in ms, tags, metadata or nil]; fields and
                metadata as ``codec`` encodes them

Invariants: a record never changes, and its index entries are written and deleted with it. A parent is recorded before
its children and deleted after them, so no trace is its own ancestor. Every index is ordered by time, then id, as every
result is.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from typing import NamedTuple

from shoal.primitives.keys import after, bound, decode_text, encode_text, sized
from shoal.primitives.rules.layouts.trace_keys import BY_PARENT, BY_TAG, BY_TIME, BY_TYPE, RECORD, index_keys
from shoal.primitives.trace_types import KINDS, Trace, TraceOptions, TraceType
from shoal.shm.arguments import check_int
from shoal.shm.codec import decode, encode, pack, unpackb
from shoal.shm.errors import CorruptionError, LimitExceededError
from shoal.shm.limits import ADVICE_FOR_VALUES, MAX_ENCODED_VALUE_BYTES, MAX_VALUE_BYTES

_FIELDS = {kind: tuple(kind.__dataclass_fields__) for kind in KINDS.values()}  # type: ignore[attr-defined]


def encode_trace(
    prefix: bytes, trace_id: str, trace_type: TraceType, options: TraceOptions, timestamp: int
) -> list[bytes]:
    """What a trace is stored as: key and value of each write, flat, its record first. Everything is checked here.

    Raises ``TypeError``, ``ValueError`` or ``LimitExceededError``.
    """
    kind = type(trace_type)
    if kind not in _FIELDS:
        raise TypeError(f"trace_type has type {kind.__name__}; make one of {_names()}")
    trace_type._check()
    raw_id = encode_text("id", trace_id)
    parent = None if options.parent_id is None else encode_text("parent_id", options.parent_id)
    tags = _encode_tags(options.tags)
    fields = encode({name: getattr(trace_type, name) for name in _FIELDS[kind]})
    metadata = None if options.metadata is None else encode(options.metadata)
    record = pack([options.parent_id, kind.__name__, fields, timestamp, list(tags), metadata])
    if len(record) > MAX_ENCODED_VALUE_BYTES:
        raise LimitExceededError("size of the trace in bytes", MAX_VALUE_BYTES, len(record), ADVICE_FOR_VALUES)
    type_name = trace_type.type_name().encode()
    writes = [prefix + RECORD + raw_id, record]
    for key in index_keys(prefix, raw_id, timestamp, type_name, tags.values(), parent):
        writes += (key, b"")
    return writes


def decode_trace(trace_id: str, record: bytes) -> Trace:
    """The trace in a record; ``CorruptionError`` for other bytes."""
    try:
        parent_id, kind, fields, timestamp, tags, metadata = unpackb(record)
        trace_type = KINDS[kind](**decode(fields))
        said = None if metadata is None else decode(metadata)
        has_parent = parent_id is None or type(parent_id) is str
        if has_parent and type(timestamp) is int and type(tags) is list and all(type(tag) is str for tag in tags):
            return Trace(trace_id, parent_id, trace_type, timestamp, tags, said)
    except (ValueError, TypeError, KeyError, LimitExceededError):
        pass
    expected = "parent, kind, fields, timestamp, tags, metadata"
    raise CorruptionError(f"the record of trace {trace_id!r}", 0, expected, f"{len(record)} bytes of something else")


class Query(NamedTuple):
    """What is looked for, checked; None is anything."""

    type_name: str | None
    kind: type[TraceType] | None
    tag: str | None
    start: int | None
    end: int | None
    parent_id: str | None
    limit: int | None

    def nothing(self) -> bool:
        """Whether no trace can match, so that nothing need be read."""
        return self.limit == 0 or (self.start is not None and self.end is not None and self.start >= self.end)

    def index_prefix(self, prefix: bytes) -> bytes:
        """What the keys of the index with the fewest traces to look at begin with; time and id follow."""
        if self.parent_id is not None:
            return prefix + BY_PARENT + sized(self.parent_id.encode())
        if self.tag is not None:
            return prefix + BY_TAG + sized(self.tag.encode())
        if self.type_name is not None:
            return prefix + BY_TYPE + sized(self.type_name.encode())
        return prefix + BY_TIME

    def bounds(self, index: bytes) -> tuple[bytes, bytes]:
        """The keys of ``index`` within the query's time."""
        lower = index if self.start is None else index + bound(self.start)
        return lower, after(index) if self.end is None else index + bound(self.end)

    def matches(self, trace: Trace) -> bool:
        """Whether a trace from within the bounds is one that is looked for."""
        return (
            (self.type_name is None or trace.trace_type.type_name() == self.type_name)
            and (self.kind is None or type(trace.trace_type) is self.kind)
            and (self.tag is None or self.tag in trace.tags)
            and (self.parent_id is None or trace.parent_id == self.parent_id)
        )


def make_query(
    type: str | type[TraceType] | None = None,  # noqa: A002
    tag: str | None = None,
    start: int | None = None,
    end: int | None = None,
    parent_id: str | None = None,
    limit: int | None = None,
) -> Query:
    """The query for a user's arguments; ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad one."""
    type_name, kind = (None, None) if type is None else _encode_type(type)
    for what, text in (("tag", tag), ("parent_id", parent_id)):
        if text is not None:
            encode_text(what, text)
    for what, time_ms in (("start", start), ("end", end)):
        if time_ms is not None:
            check_time(what, time_ms)
    if limit is not None and check_int("limit", limit) < 0:
        raise ValueError(f"limit is {limit}; give 0 or more, or leave it out for all")
    return Query(type_name, kind, tag, start, end, parent_id, limit)


def check_time(what: str, value: object) -> int:
    """``value`` if it is a time as shoal has it, else ``TypeError``."""
    return check_int(what, value, "integer milliseconds since the epoch")


def _encode_type(wanted: object) -> tuple[str | None, type[TraceType] | None]:
    """Type name and kind to look for. A name finds all traces with that ``type_name()``, a class its own only."""
    if isinstance(wanted, builtins.type):
        if wanted not in _FIELDS:
            raise TypeError(f"type is the class {wanted.__name__}; give a type's name or one of {_names()}")
        return None if wanted is TraceType.Custom else wanted.__name__, wanted
    return decode_text(encode_text("type", wanted)), None  # not ``str``: a member of a str enum would give its own name


def _encode_tags(tags: Iterable[str]) -> dict[str, bytes]:
    """Tags in the order given, each once."""
    encoded: dict[str, bytes] = {}
    for tag in tags:
        raw = encode_text("a tag", tag)
        encoded[tag] = raw
    return encoded


def _names() -> str:
    return ", ".join(f"TraceType.{name}" for name in KINDS)

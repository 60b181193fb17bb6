"""The keys of traces. ``primitives.trace_index`` has the records, and which index answers a query.

    key     run prefix, tag TRACE, kind, ...
    kind 0  id                                the record
    kind 1  sized type name │ time │ id       empty values from here on
    kind 2  sized tag │ time │ id             one for each tag
    kind 3  sized parent id │ time │ id       if there is a parent
    kind 4  time │ id

Invariant: the index entries of a trace are written and deleted with its record. Every index is ordered by time, then
id.
"""

from __future__ import annotations

from collections.abc import Iterable

from shoal.primitives.rules.layouts.parts import number, sized

RECORD = b"\0"
BY_TYPE = b"\1"
BY_TAG = b"\2"
BY_PARENT = b"\3"
BY_TIME = b"\4"


def index_keys(
    prefix: bytes, trace_id: bytes, timestamp: int, type_name: bytes, tags: Iterable[bytes], parent_id: bytes | None
) -> list[bytes]:
    """The index entries of a trace; texts as UTF-8. ``prefix`` ends with the tag."""
    ending = number(timestamp) + trace_id
    keys = [prefix + BY_TIME + ending, prefix + BY_TYPE + sized(type_name) + ending]
    keys += [prefix + BY_TAG + sized(tag) + ending for tag in tags]
    if parent_id is not None:
        keys.append(prefix + BY_PARENT + sized(parent_id) + ending)
    return keys

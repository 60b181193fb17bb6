"""Which traces a policy does not keep: those as old as ``trace_age``, unless something below them is younger.

So a parent is there as long as any of its children is: a trace goes when it is old enough and nothing is below it. With
its last child goes the parent that stayed for it.
"""

from __future__ import annotations

from shoal.primitives.rules.layouts.parts import NUMBER_BYTES, after, bound, sized
from shoal.primitives.rules.layouts.trace_keys import BY_PARENT, BY_TIME, RECORD, index_keys
from shoal.primitives.rules.retention.policies import Policy
from shoal.primitives.rules.retention.removal import Removal
from shoal.shm import codec

_CUSTOM = "Custom"  # the kind of trace whose type's name is a field


def remove_traces(
    removal: Removal, prefix: bytes, policy: Policy, position: bytes, rest: bytes
) -> tuple[bytes, bytes] | None:
    """A rule of ``upkeep.RULES``; ``rest`` is the id of a parent that may be next to go."""
    if policy.trace_age_s is None:
        return None
    latest_ms = removal.latest_ms(policy.trace_age_s)
    index = prefix + BY_TIME
    rest = _remove_upward(removal, prefix, rest, latest_ms) if rest else b""
    if rest:
        return position, rest
    for key, raw in removal.look(max(position, index), index + bound(latest_ms + 1)):
        if removal.left < 0:
            return key, b""
        if raw is not None:
            rest = _remove_upward(removal, prefix, key[len(index) + NUMBER_BYTES :], latest_ms)
            if rest:
                return key, rest
    return None


def _remove_upward(removal: Removal, prefix: bytes, trace_id: bytes, latest_ms: int) -> bytes:
    """Remove a trace and the parents that stayed for it; the id of the next one, b"" unless the slice ends before."""
    while trace_id:
        found = removal.read(prefix + RECORD + trace_id)
        if found is None:
            return b""
        parent_id, kind, fields, timestamp, tags, _ = codec.unpackb(found.value)
        if timestamp > latest_ms or _has_children(removal, prefix, trace_id):
            return b""
        name = codec.decode(fields)["trace_type"] if kind == _CUSTOM else kind
        parent = None if parent_id is None else parent_id.encode()
        raw_tags = [tag.encode() for tag in tags]
        for key in index_keys(prefix, trace_id, timestamp, name.encode(), raw_tags, parent):
            removal.delete(key)
        removal.delete(prefix + RECORD + trace_id)
        removal.removed["traces"] += 1
        trace_id = parent or b""
        if removal.left < 0:
            return trace_id
    return b""


def _has_children(removal: Removal, prefix: bytes, trace_id: bytes) -> bool:
    """Whether anything is below a trace. If so many are gone there that the slice ends: yes, until the next pass."""
    index = prefix + BY_PARENT + sized(trace_id)
    looked_at = 0
    for key, raw in removal.look(removal.seen_children.get(index, index), after(index)):
        looked_at += 1
        if raw is not None or looked_at > removal.most:
            removal.seen_children[index] = key
            return True
    return False

"""Which events of a log a policy does not keep: all but the newest ``events``, and those as old as ``event_age``.

Timestamps of a log never go back, so what goes is the beginning of the log: it is trimmed (``trim_rules``).
"""

from __future__ import annotations

from shoal.primitives.rules.event_rules import (
    METADATA,
    SEQUENCE_BYTES,
    TYPE,
    EventRecord,
    decode_events,
    decode_metadata,
    event_key,
)
from shoal.primitives.rules.retention.policies import Policy
from shoal.primitives.rules.retention.removal import Removal
from shoal.primitives.rules.trim_rules import Trimming


def remove_events(
    removal: Removal, prefix: bytes, policy: Policy, position: bytes, rest: bytes
) -> tuple[bytes, bytes] | None:
    """A rule of ``upkeep.RULES``."""
    if policy.events is None and policy.event_age_s is None:
        return None
    found = removal.read(prefix + METADATA)
    length = decode_metadata(None if found is None else found.value).next_sequence
    before = 0 if policy.events is None else length - policy.events
    latest_ms = -1 if policy.event_age_s is None else removal.latest_ms(policy.event_age_s)
    trimming = Trimming(removal.read, prefix)
    first = trimming.beginning.sequence
    if first == length or (first >= before and latest_ms < 0):
        return None
    is_done = True
    for key, raw in removal.look(event_key(prefix, first), prefix + TYPE):
        if removal.left < 0:
            is_done = False
            break
        if raw is None:
            continue
        last = int.from_bytes(key[-SEQUENCE_BYTES:], "big")
        events = decode_events(last, raw)
        upto = max(before, _first_kept(events, latest_ms))
        if upto > next(iter(events)):
            trimming.add(last, events, upto)
        if upto <= last:
            break
    removal.add(trimming.writes())
    removal.removed["events"] += trimming.beginning.sequence - first
    return None if is_done else (prefix, b"")


def _first_kept(events: dict[int, EventRecord], latest_ms: int) -> int:
    """The first event that is younger than ``latest_ms``; behind the last one if none is."""
    return next((at for at, event in events.items() if event.timestamp > latest_ms), max(events) + 1)

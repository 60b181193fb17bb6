"""How retention policies are stored.

    owner       what they are for: ``Namespace._runs_prefix`` of a namespace, or the prefix of a run
    policy      owner + the tag RETENTION: msgpack [events, event age, trace age, archived age, task age]: how many
                events of a log are kept, and ages in seconds; nil keeps all
    index       of the store: the key 0x00 0x03 + owner, empty: where there are policies

Invariants: a policy is written together with its index entry. A run is deleted with its policy and without the entry;
the next pass (``upkeep``) deletes that. A policy of a run holds for it in place of its namespace's, as a whole.
"""

from __future__ import annotations

from typing import NamedTuple

from shoal.primitives.rules.tags import Tag
from shoal.shm import codec
from shoal.shm.errors import CorruptionError

INDEX = b"\0\3"
BEHIND_INDEX = b"\0\4"
_TAG = bytes((Tag.RETENTION,))


class Policy(NamedTuple):
    """A policy as it is stored; None keeps all."""

    events: int | None
    event_age_s: float | None
    trace_age_s: float | None
    archived_age_s: float | None
    task_age_s: float | None


def policy_key(owner: bytes) -> bytes:
    """The key of the policy of a namespace or run."""
    return owner + _TAG


def index_key(owner: bytes) -> bytes:
    """The key of its index entry."""
    return INDEX + owner


def encode_policy(policy: Policy) -> bytes:
    """The stored form of a policy."""
    return codec.pack(policy)


def decode_policy(raw: bytes) -> Policy:
    """The policy whose stored form is ``raw``; ``CorruptionError`` for other bytes."""
    try:
        policy = Policy(*codec.unpackb(raw))
    except (ValueError, TypeError):  # no msgpack, or not as many fields
        policy = Policy(-1, None, None, None, None)
    events, *ages = policy
    in_count = events is None or (type(events) is int and events >= 0)
    if in_count and all(age is None or (type(age) in (int, float) and age >= 0) for age in ages):
        return policy
    expected = "a count and four ages"
    raise CorruptionError("a retention policy", 0, expected, f"{len(raw)} bytes of something else")

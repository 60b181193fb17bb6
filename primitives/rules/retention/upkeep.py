"""A pass over all retention policies, in slices: what the coordinator removes between commits (``operation.Upkeep``).

The pass goes along the index of policies (``policies``). For a namespace it goes along its archived runs, then along
all runs that hold anything and have no policy of their own; for a run it looks at that run. In a run each of ``RULES``
looks at what stands under its tag. Where there is no policy, nothing is looked at.

    cursor      msgpack [index entry, position, rest]: the key in the policy's range to go on from, and what a rule
                asked to be given there

A slice removes what can be removed with about ``most`` keys looked at, and is one commit: it leaves whole logs, traces
with all their index entries, whole runs. A record that is damaged is left as it is (``check`` and ``verify_chain``
report it), with what stands under the same tag of its run.
"""

from __future__ import annotations

from collections.abc import Callable

from shoal.primitives.rules.layouts.parts import after, namespace_of, run_of
from shoal.primitives.rules.retention.archived_runs import remove_archived, remove_if_archived
from shoal.primitives.rules.retention.old_events import remove_events
from shoal.primitives.rules.retention.old_tasks import remove_tasks
from shoal.primitives.rules.retention.old_traces import remove_traces
from shoal.primitives.rules.retention.policies import (
    BEHIND_INDEX,
    INDEX,
    Policy,
    decode_policy,
    policy_key,
)
from shoal.primitives.rules.retention.removal import Removal
from shoal.primitives.rules.tags import Tag
from shoal.shm import codec
from shoal.shm.errors import ShoalError
from shoal.shm.operation import Look, Read, Upkeep

# Where to go on: a key, and what the rule asked to be given. None: there is no more.
Place = tuple[bytes, bytes]
# (removal, prefix of the run with the tag, policy, position, rest) -> where to go on. A rule that is given a position
# of its own goes on there. It ends when ``removal.left`` is below 0; what it has added by then must be whole.
Rule = Callable[[Removal, bytes, Policy, bytes, bytes], Place | None]

# What a policy removes inside a run, by tag, in the order of the tags. Another primitive whose records age adds its
# rule here.
RULES: dict[Tag, Rule] = {Tag.EVENT: remove_events, Tag.TRACE: remove_traces, Tag.QUEUE: remove_tasks}

_DAMAGE = (ShoalError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)


def upkeep(read: Read, look: Look, cursor: bytes, now_ms: int, most: int) -> Upkeep:
    """One slice of a pass, from ``cursor`` on (``OperationTable.upkeep``)."""
    removal = Removal(read, look, now_ms, most)
    entry, position, rest = codec.unpackb(cursor) if cursor else (INDEX, b"", b"")
    following: bytes | None = None
    for key, raw in removal.look(entry, BEHIND_INDEX):
        if key != entry:
            position, rest = b"", b""
        if removal.left < 0:
            following = codec.pack([key, position, rest])
            break
        place = _by_entry(removal, key, position, rest) if raw is not None else None
        if place is not None:
            following = codec.pack([key, *place])
            break
    return Upkeep(list(removal.writes.values()), removal.clears, following, removal.removed)


def _by_entry(removal: Removal, entry: bytes, position: bytes, rest: bytes) -> Place | None:
    """Go on with one policy."""
    owner = entry[len(INDEX) :]
    try:
        namespace = namespace_of(owner)
        is_namespace = owner == namespace + b"\0"
        found = removal.read(policy_key(owner)) if is_namespace or owner == run_of(owner) else None
        policy = None if found is None else decode_policy(found.value)
    except _DAMAGE:
        return None
    if policy is None:  # the run was deleted
        removal.delete(entry)
        return None
    if is_namespace:
        return _in_namespace(removal, namespace, policy, position, rest)
    if _archived(removal, namespace, owner, policy):
        return None
    return _in_run(removal, owner, policy, max(position, owner), rest)


def _in_namespace(removal: Removal, namespace: bytes, policy: Policy, position: bytes, rest: bytes) -> Place | None:
    first_run = namespace + b"\1"  # length 0 is what belongs to no run
    if policy.archived_age_s is not None and position < first_run:
        try:
            following = remove_archived(removal, namespace, policy, position)
        except _DAMAGE:
            following = None
        if following is not None:
            return following, b""
    position = max(position, first_run)
    while True:
        run = run_of(position) if rest else None
        if run is None:
            key = removal.first_there(position, after(namespace))
            if key is None:
                return None
            if removal.left < 0:
                return key, b""
            try:
                run = run_of(key)
            except ValueError:  # no primitive writes such a key
                position = key + b"\0"
                continue
        if run not in removal.runs and removal.read(policy_key(run)) is None:
            place = _in_run(removal, run, policy, max(position, run), rest)
            if place is not None:
                return place
        position, rest = after(run), b""


def _archived(removal: Removal, namespace: bytes, run: bytes, policy: Policy) -> bool:
    try:
        return remove_if_archived(removal, namespace, run, policy)
    except _DAMAGE:
        return False


def _in_run(removal: Removal, run: bytes, policy: Policy, position: bytes, rest: bytes) -> Place | None:
    """Go on in one run, whose prefix is ``run``."""
    for tag, rule in RULES.items():
        prefix = run + bytes((tag,))
        if position >= after(prefix):
            continue
        try:
            place = rule(removal, prefix, policy, max(position, prefix), rest)
        except _DAMAGE:
            place = None
        if place is not None:
            return place
        rest = b""
    return None

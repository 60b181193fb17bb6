"""Which runs a policy does not keep: those that were archived, and last changed, as long ago as ``archived_age``.

A run goes in one commit, with everything in it, as with ``delete_run``: key by key if it is small, else as a range.
"""

from __future__ import annotations

from shoal.primitives.rules.layouts import run_keys
from shoal.primitives.rules.layouts.parts import NUMBER_BYTES, after, bound
from shoal.primitives.rules.retention.policies import Policy, index_key, policy_key
from shoal.primitives.rules.retention.removal import Removal
from shoal.shm import codec

ARCHIVED = 6  # the number of the status (``run_types``), durable


def remove_archived(removal: Removal, namespace: bytes, policy: Policy, position: bytes) -> bytes | None:
    """Remove archived runs of a namespace that have no policy of their own; the key to go on from, None at the end."""
    assert policy.archived_age_s is not None
    latest_ms = removal.latest_ms(policy.archived_age_s)
    index = namespace + b"\0" + run_keys.by_status(ARCHIVED)
    for key, raw in removal.look(max(position, index), index + bound(latest_ms + 1)):
        if removal.left < 0:
            return key
        if raw is not None:
            run_id = key[len(index) + NUMBER_BYTES :]
            run = namespace + bytes((len(run_id),)) + run_id
            if removal.read(policy_key(run)) is None:
                remove_if_archived(removal, namespace, run, policy)
    return None


def remove_if_archived(removal: Removal, namespace: bytes, run: bytes, policy: Policy) -> bool:
    """Remove a run, given its prefix, if it was archived long enough ago; whether it was."""
    if policy.archived_age_s is None:
        return False
    runs, run_id = namespace + b"\0", run[len(namespace) + 1 :]
    record_key = runs + run_keys.RECORD + run_id
    found = removal.read(record_key)
    if found is None:
        return False
    parent_run, status, created_at, updated_at, _, tags, *_ = codec.unpackb(found.value)
    if status != ARCHIVED or updated_at > removal.latest_ms(policy.archived_age_s):
        return False
    parent = None if parent_run is None else parent_run.encode()
    raw_tags = [tag.encode() for tag in tags]
    keys = [record_key, *run_keys.index_keys(runs, run_id, created_at, status, raw_tags, parent)]
    if removal.read(policy_key(run)) is not None:
        keys.append(index_key(run))
    contents = _few_keys(removal, run)
    if contents is None:
        removal.clears.append((run, after(run)))
        removal.left = -1  # a range costs readers a comparison: one in a slice
    for key in [*keys, *(contents or ())]:
        removal.delete(key)
    removal.runs.add(run)
    removal.removed["runs"] += 1
    return True


def _few_keys(removal: Removal, run: bytes) -> list[bytes] | None:
    """Every key of a run, or None if there are too many to delete them one by one."""
    keys = []
    for looked_at, (key, raw) in enumerate(removal.look(run, after(run))):
        if looked_at >= removal.most:
            return None
        if raw is not None:
            keys.append(key)
    return keys

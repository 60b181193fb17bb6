"""The keys under a run's prefix, whichever primitive wrote them: to look for any, to remove all, to copy all.

A run is one contiguous range, and no key or record in it names its run. So a copy has the same keys under another
prefix, with the same values and expiries: event hashes, cell versions and ttls stay what they were.
"""

from __future__ import annotations

from shoal.primitives.engine import Engine, EngineTransaction
from shoal.primitives.keys import after
from shoal.primitives.rules.tags import Tag
from shoal.shm.errors import LimitExceededError
from shoal.shm.limits import MAX_COMMIT_BYTES
from shoal.shm.operation import Write

# A child run of at most so many keys is deleted key by key when its parent is deleted. A range tombstone costs every
# reader a comparison until it is swept: little for one run, much for the thousands of small ones a cascade may delete.
_FEW_KEYS = 256
# And so are no more children than whose keys take so much of the commit: beside them it has the index keys of all.
_MOST_KEYS_BYTES = MAX_COMMIT_BYTES // 4
# What each write takes in a commit beside its key and value: three headers and an expiry.
_WRITE_OVERHEAD_BYTES = 16


def holds_anything(engine: Engine, run_prefix: bytes) -> bool:
    """Whether a run has any key. Only the first one found is validated at commit, not the whole range."""
    return any(True for _ in engine.scan(run_prefix, after(run_prefix)))


def will_hold_anything(engine: EngineTransaction, run_prefix: bytes) -> bool:
    """Whether a run has any key, or will have one by an operation of this transaction, such as a task that it puts."""
    return engine.defers(run_prefix, after(run_prefix)) or holds_anything(engine, run_prefix)


def remove(engine: Engine, run_prefix: bytes) -> None:
    """Delete every key of a run, however many, as one write that reads nothing."""
    engine.clear(run_prefix, after(run_prefix))


def remove_children(engine: EngineTransaction, run_prefixes: list[bytes]) -> None:
    """Delete every key of runs that a cascade deletes: key by key of those that are small, as long as that is little.

    All are looked through before the first key is deleted: a scan takes longer the more the transaction has written.
    """
    cleared: list[bytes] = []
    deleted: list[bytes] = []
    left_bytes = _MOST_KEYS_BYTES
    for run_prefix in run_prefixes:
        keys = _few_keys(engine, run_prefix, left_bytes)
        if keys is None:
            cleared.append(run_prefix)
        else:
            deleted += keys
            left_bytes -= sum(map(_size_of, keys))
    for run_prefix in cleared:
        remove(engine, run_prefix)
    for key in deleted:
        engine.delete(key)


def _few_keys(engine: EngineTransaction, run_prefix: bytes, most_bytes: int) -> list[bytes] | None:
    """Every key of a run, or None if they cannot be deleted one by one.

    They are too many or take more than ``most_bytes``, or the commit is to perform an operation on one: that would see
    the key deleted, or write it.
    """
    if engine.decides(run_prefix, after(run_prefix)):
        return None
    keys = []
    for key, _ in engine.scan(run_prefix, after(run_prefix)):
        keys.append(key)
        most_bytes -= _size_of(key)
        if len(keys) > _FEW_KEYS or most_bytes < 0:
            return None
    return keys


def _size_of(key: bytes) -> int:
    """What the deletion of a key takes in a commit."""
    return len(key) + _WRITE_OVERHEAD_BYTES


def copied(source: Engine, from_prefix: bytes, to_prefix: bytes) -> list[Write]:
    """The writes that copy a run's keys, events, cells and traces to another prefix.

    Keys of other tags (leases, say) belong to the run itself and are not copied. Raises ``LimitExceededError`` as soon
    as the copy is more than one commit may hold.
    """
    writes: list[Write] = []
    size = 0
    for key, found in source.scan(from_prefix + bytes((Tag.KV,)), from_prefix + bytes((Tag.TRACE + 1,))):
        write = Write(to_prefix + key[len(from_prefix) :], found.value, found.expires_ms)
        size += len(write.key) + len(found.value) + _WRITE_OVERHEAD_BYTES
        if size > MAX_COMMIT_BYTES:
            what, advice = "size of the run, as far as it was read, in bytes", "fork it before it is so large"
            raise LimitExceededError(what, MAX_COMMIT_BYTES, size, advice)
        writes.append(write)
    return writes

"""Which tasks a policy does not keep: those that ended, Done, Dead or Cancelled, as long ago as ``task_age``.

They go as with ``purge``: with payload and result, out of the counts, and their keys are free. Who waits for a result
is woken when the task ends and reads it then, so it stays for ``LEAST_AGE_MS`` at least.

Tasks are looked at in the order of their ids, which begin with the time of the put. Those put later than any that is
old enough are not looked at: a pass over a queue costs nothing for the many that are young. A task whose id was made by
a clock that is ahead goes that much later.
"""

from __future__ import annotations

from shoal.primitives.rules.layouts.parts import after
from shoal.primitives.rules.queues.records import QUEUE, TASK, Queue
from shoal.primitives.rules.queues.task_record import CANCELLED, DEAD, DONE, decode_task
from shoal.primitives.rules.queues.transitions import FIRST_STATUS, remove
from shoal.primitives.rules.retention.policies import Policy
from shoal.primitives.rules.retention.removal import Removal
from shoal.shm.errors import CorruptionError

LEAST_AGE_MS = 2_000
_TIME_BYTES = 6  # of a UUIDv7: ms since the epoch
_LATEST_MS = (1 << 8 * _TIME_BYTES) - 1
_LENGTH_BYTES = 2  # of a queue's name
_WRITES = 4  # of one task at most: record, payload, result, key


def remove_tasks(
    removal: Removal, prefix: bytes, policy: Policy, position: bytes, rest: bytes
) -> tuple[bytes, bytes] | None:
    """A rule of ``upkeep.RULES``."""
    if policy.task_age_s is None:
        return None
    latest_ms = min(removal.latest_ms(policy.task_age_s), removal.now_ms - LEAST_AGE_MS, _LATEST_MS - 1)
    if latest_ms < 0:
        return None
    while (key := removal.first_there(position, after(prefix))) is not None:
        if removal.left < 0:
            return key, b""
        name_at = len(prefix) + _LENGTH_BYTES
        base = key[: name_at + int.from_bytes(key[len(prefix) : name_at], "big")]
        following = _remove_from(removal, base, position, latest_ms)
        if following is not None:
            return following, b""
        position = after(base)
    return None


def _remove_from(removal: Removal, base: bytes, position: bytes, latest_ms: int) -> bytes | None:
    """Remove what ended by ``latest_ms`` from one queue; the key to go on from, None at the end."""
    queue = Queue(removal.read, base + QUEUE)
    tasks = base + TASK
    behind = tasks + (latest_ms + 1).to_bytes(_TIME_BYTES, "big")
    removed, following = 0, None
    for key, raw in removal.look(max(position, tasks), behind):
        if removal.left < removed * _WRITES:
            following = key
            break
        task = None if raw is None else decode_task(raw)
        if task is not None and task.status in (DONE, DEAD, CANCELLED) and task.due_ms <= latest_ms:
            if not queue.counts[FIRST_STATUS + task.status]:
                raise CorruptionError("the record of a queue", 0, "as many tasks as it has", "fewer")
            queue.counts[FIRST_STATUS + task.status] -= 1
            remove(queue, key[len(tasks) :], task)
            removed += 1
    if removed:
        removal.add(queue.writes())
        removal.removed["tasks"] += removed
    return following

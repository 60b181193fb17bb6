"""One valid call of every operation of queues, in an order in which each is done."""

from __future__ import annotations

from typing import Any

from shoal.primitives.keys import Namespace
from shoal.primitives.rules import registry
from shoal.primitives.rules.queues import records, task_record
from shoal.primitives.views.fleet.tasks import base_of

_KEY = base_of(Namespace(), "r", "q") + records.QUEUE
_IDS = [bytes((number,)) * task_record.ID_BYTES for number in range(1, 9)]
_HOLDER = 4711
_TOKEN = 3  # the first one of the claim: two leases were taken before


def _put(priority: int, delay_ms: int, user_key: bytes | None, *ids: bytes) -> tuple[str, list[Any]]:
    tasks = [part for task_id in ids for part in (task_id, b"\xc0" * 2000)]
    return registry.TASK_PUT, [_KEY, priority, delay_ms, 1, user_key, False, tasks]


QUEUE_OPERATIONS: list[tuple[str, list[Any]]] = [
    _put(1, 0, None, *_IDS[:5]),
    _put(0, 10, b"k", _IDS[5]),
    (registry.TASK_RESTORE, [_KEY, "q/8", _IDS[7], [9, 1, 0, 1, 2, 1000, 0, b"\xc0", None, None, b"l"]]),
    (registry.TASK_CLAIM, [_KEY, "q", _HOLDER, 1, 30_000, 9, 0, 4]),
    (registry.TASK_FENCE, [_KEY, "q/1", _IDS[0], _HOLDER, _TOKEN]),
    (registry.TASK_COMPLETE, [_KEY, "q/1", _IDS[0], _HOLDER, _TOKEN, b"\xc0" * 2000]),
    (registry.TASK_FAIL, [_KEY, "q/2", _IDS[1], _HOLDER, _TOKEN + 1, "error", 50]),
    (registry.TASK_RETRY, [_KEY, "q/2", _IDS[1]]),
    (registry.TASK_RELEASE, [_KEY, "q/3", _IDS[2], _HOLDER, _TOKEN + 2]),
    (registry.TASK_UNCLAIM, [_KEY, _HOLDER, 9]),
    (registry.TASK_CANCEL, [_KEY, _IDS[5]]),
    (registry.TASK_PURGE, [_KEY, [_IDS[0], _IDS[5]], task_record.DONE, False]),
    (registry.TASK_CLAIM, [_KEY, "q", _HOLDER + 1, 1, 30_000, 8, 0, 2]),
]

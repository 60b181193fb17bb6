"""What tests of task queues share."""

from __future__ import annotations

from typing import Any

import shoal
from shoal import TaskStatus

Q = "q"


def claimed(queue: shoal.TaskQueue, run: str, **options: Any) -> shoal.Task:
    task = queue.claim(run, Q, **options)
    assert task is not None
    return task


def status_of(queue: shoal.TaskQueue, run: str, task_id: str) -> TaskStatus:
    info = queue.get(run, task_id)
    assert info is not None
    return info.status

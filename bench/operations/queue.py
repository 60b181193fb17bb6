"""A queue of tasks that all workers put into and claim from."""

from __future__ import annotations

from collections.abc import Sequence

from ..peers import BenchError, Session
from .base import BySeed, Operation, Step

_QUEUE = "work"
_PAYLOAD = {"url": "https://example.org/page", "depth": 2}


class Queue(Operation):
    """A task put, one claimed and that one completed: three commits."""

    name = "queue"
    title = "queue: put a task, claim the first one, complete it; one queue for all processes, no task done twice"
    competes = True

    def targets(self) -> list[str]:
        """The one queue."""
        return [_QUEUE]

    def step(self, session: Session, targets: Sequence[str], worker: int, seed: int) -> Step:
        """All workers do the same. Each puts before it claims, so none finds the queue empty."""
        queue, name = session.queue, targets[0]
        return lambda: queue(name, _PAYLOAD)

    def check(self, session: Session, targets: Sequence[str], operations: int, by_seed: BySeed = ()) -> None:
        """As many tasks are done as were completed, and no other is there."""
        found = session.tasks(targets[0])
        if found != (operations, 0):
            raise BenchError(f"{operations} tasks were completed; the queue has (done, others) {found}")

"""What the threads of a pool share: the tasks that wait, the supervisors, and how far the pool's end has come.

- No lock is held while a user's code runs (callbacks, pickling). The one lock is reentrant: a signal handler or a
  finalizer may call the pool while its thread holds it.
- A supervisor sleeps only after it has put itself among the idle and has seen no task: so a task is never overlooked.
- Nothing here refers to the pool's object, so that it can be collected, which ends the pool.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Protocol

from shoal.shm.errors import WorkerLostError
from shoal.workers.pool import worker_process
from shoal.workers.pool.fork_template import ForkTemplate
from shoal.workers.pool.outcome import RemoteTraceback
from shoal.workers.pool.task import Task, log
from shoal.workers.pool.worker_process import Recipe

# So many workers in a row dying before they were ready: something is wrong with all of them.
_MOST_STILLBORN = 10


class BrokenWorkerPoolError(WorkerLostError, BrokenProcessPool):
    """The pool's workers cannot be started, so it does no more tasks."""


class Supervisor(Protocol):
    """What the state asks of a supervisor: a thread and its worker (``supervisor.py``)."""

    thread: threading.Thread

    @property
    def pid(self) -> int | None:
        """The worker's process."""
        ...

    @property
    def is_held_up(self) -> bool:
        """Whether its thread waits for a process that starts, or runs a callback. Neither can be hurried."""
        ...

    def wake(self) -> None:
        """Have it look at the state."""
        ...

    def kill_worker(self) -> None:
        """End its worker at once."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class PoolState:
    """The state of one pool, in the process that made it."""

    def __init__(
        self,
        recipe: Recipe,
        workers: int,
        *,
        retries: int,
        timeout_s: float | None,
        max_tasks_per_child: int | None,
        at_end: Callable[[], None],
    ) -> None:
        self.recipe = recipe
        self.workers = workers
        self.retries = retries
        self.timeout_s = timeout_s
        self.max_tasks_per_child = max_tasks_per_child
        self.pid = os.getpid()
        self.pending: deque[Task] = deque()
        self.idle: deque[Supervisor] = deque()
        self.supervisors: list[Supervisor] = []  # all there were
        self.lock = threading.RLock()
        self.is_closing = False
        self.is_killed = False
        self.life: Connection | None = None
        self.template: ForkTemplate | None = None
        self._life_write: Connection | None = None
        self._at_end = at_end
        self._running = 0
        self._broken: Callable[[], BaseException] | None = None
        self._stillborn = 0
        self._is_short = False
        self._is_starting = False

    def check_not_broken(self) -> None:
        """Raise why the pool does no more tasks, if that is so; each time a new exception, in no variable here."""
        if self._broken is not None:
            raise self._broken()

    def must_end(self) -> bool:
        """Whether a supervisor without a task has nothing more to wait for."""
        return self.is_killed or self._broken is not None or (self.is_closing and not self.pending)

    def take(self) -> Task | None:
        """The next task to run."""
        while True:
            try:
                task = self.pending.popleft()
            except IndexError:
                return None
            if task.begin():
                return task

    def wake_one(self) -> None:
        """Have one idle supervisor look for tasks."""
        try:
            self.idle.pop().wake()
        except IndexError:  # all are busy: each looks before it becomes idle
            return

    def wake_all(self) -> None:
        """Have all supervisors look at the state."""
        for supervisor in list(self.supervisors):
            supervisor.wake()

    def close(self) -> None:
        """Take no more tasks; the supervisors end when all are done."""
        with self.lock:
            self.is_closing = True
        self.wake_all()

    def kill(self) -> None:
        """End the workers now; what waits is cancelled."""
        with self.lock:
            self.is_closing = self.is_killed = True
        for supervisor in list(self.supervisors):
            supervisor.kill_worker()
        self.wake_all()
        self.drop_pending()

    def drop_pending(self) -> None:
        """Cancel what has not begun. Each is told, even if Ctrl-C or a callback's exit comes in between."""
        raised: BaseException | None = None
        while True:
            try:
                task = self.pending.popleft()
            except IndexError:
                break
            try:
                task.drop(WorkerLostError(f"the pool was ended before {task.name} was done"))
            except BaseException as error:
                raised = error
        if raised is not None:
            raise raised

    def remove(self, task: Task) -> bool:
        """Take this task out of those that wait; False if it is not among them any more."""
        try:
            self.pending.remove(task)
        except ValueError:
            return False
        return True

    def requeue(self, task: Task) -> None:
        """Have a task run again, before all others."""
        self.pending.appendleft(task)
        if self.is_killed or self._broken is not None:  # and who emptied the queue then has not seen it
            self.drop_pending()

    def break_down(self, error: Callable[[], BaseException]) -> None:
        """Do no more tasks, because of ``error``."""
        with self.lock:
            if self._broken is None:
                self._broken = error
        while True:
            try:
                task = self.pending.popleft()
            except IndexError:
                break
            if task.begin():
                task.fail(error())
        self.wake_all()

    def count_stillborn(self, why: str) -> None:
        """A worker died before it was ready; too many of them in a row break the pool."""
        with self.lock:
            self._stillborn += 1
            count = self._stillborn
        if count >= _MOST_STILLBORN:
            self.break_with(
                f"{count} workers in a row died before they were ready, the last {why}; see what they printed"
            )

    def break_with(self, text: str, remote: str | None = None) -> None:
        """Do no more tasks; their futures and ``submit`` raise ``BrokenProcessPool`` with ``text``."""

        def error() -> BaseException:
            made = BrokenWorkerPoolError(text)
            if remote is not None:
                made.__cause__ = RemoteTraceback(remote)
            return made

        self.break_down(error)

    def note_shortage(self, error: BaseException) -> None:
        """The machine lacks what a worker needs to start: say so once, until one has started."""
        with self.lock:
            is_new, self._is_short = not self._is_short, True
        if is_new:
            log.warning("a worker of the pool cannot be started now (%s); it is tried again, tasks wait", error)

    def note_ready(self) -> None:
        """A worker has started."""
        self._stillborn = 0
        self._is_short = False

    def ensure_started(self, make: Callable[[PoolState, Connection], Supervisor]) -> None:
        """Start what is not started yet. A signal handler may come here again in the middle of it, and goes on."""
        with self.lock:
            if self._is_starting or len(self.supervisors) == self.workers:
                return
            self._is_starting = True
            try:
                if self.life is None:
                    self.life, self._life_write = worker_process.open_life()
                if self.recipe.forks and self.template is None:
                    self.template = worker_process.start_template(self.recipe, self.life)
                while len(self.supervisors) < self.workers:
                    self._start(make(self, self.life))
            except (OSError, RuntimeError) as error:  # no more descriptors, processes or threads
                if not self.supervisors:
                    raise
                self.note_shortage(error)  # the next submit tries again
            finally:
                self._is_starting = False

    def _start(self, supervisor: Supervisor) -> None:
        self.supervisors.append(supervisor)
        self._running += 1
        try:
            supervisor.thread.start()
        except BaseException:
            if supervisor.thread.ident is None:
                self.supervisors.remove(supervisor)
                self._running -= 1
                supervisor.close()
            raise

    def leave(self) -> None:
        """A supervisor ends; the last one puts everything away."""
        with self.lock:
            self._running -= 1
            is_last = self._running == 0 and (self.is_closing or self._broken is not None)
        if is_last:
            self.put_away()

    def put_away(self) -> None:
        """Close what the pool holds. Nothing happens while supervisors are at work, and the second time."""
        with self.lock:
            if self._running:
                return
            template, self.template = self.template, None
            life, self.life = self.life, None
            life_write, self._life_write = self._life_write, None
            # Semaphores and the like are given back now, not when these objects are collected.
            self.recipe = replace(self.recipe, initializer=None, initargs=())
        if template is not None:
            if self.is_killed:
                template.kill()
            template.end()
        for connection in (life, life_write):
            if connection is not None:
                connection.close()
        self._at_end()

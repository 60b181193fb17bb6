"""What the threads of a pool share: the waiting tasks, the supervisors, and the progress of the pool's end.

- No lock is held while a user's code runs (callbacks, pickling). The lock is reentrant: a signal handler or a finalizer
  may call the pool while its thread holds the lock.
- A supervisor sleeps only after it has added itself to the idle ones and has seen no task: so no task is overlooked.
- Supervisors are made, recorded and started in a thread of their own, which no signal handler interrupts
  (``uninterrupted``). So a supervisor is in the list exactly if its thread was started.
- Nothing here refers to the pool's object, so that it can be collected, which ends the pool.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Protocol

from shoal.shm.errors import WorkerLostError
from shoal.shm.host.unpatched import threads_are_patched, threads_lock
from shoal.workers.pool import worker_process
from shoal.workers.pool.fork_template import ForkTemplate
from shoal.workers.pool.life import Life
from shoal.workers.pool.outcome import RemoteTraceback
from shoal.workers.pool.task import Task, log, release_left_locked
from shoal.workers.pool.worker_process import Recipe
from shoal.workers.uninterrupted import uninterrupted

# If this many workers in a row die before they are ready, all of them have the same fault.
_MOST_FAILED_STARTS = 10


class BrokenWorkerPoolError(WorkerLostError, BrokenProcessPool):
    """The pool's workers cannot be started, so it does no more tasks."""


@dataclass(frozen=True)
class PoolOptions:
    """How a pool treats its tasks and workers.

    ``ttl_s``: how long a worker may be suspended before its task runs again, if it may. ``at_end`` is called when the
    pool's last thread has ended.
    """

    workers: int
    retries: int
    ttl_s: float
    timeout_s: float | None
    max_tasks_per_child: int | None
    at_end: Callable[[], None]


class SupervisorPort(Protocol):
    """What the state asks of a supervisor: a thread and its worker (``supervisor.py``)."""

    thread: threading.Thread

    @property
    def pid(self) -> int | None:
        """The worker's process."""
        ...

    @property
    def is_starting(self) -> bool:
        """Whether its thread waits for a process that starts."""
        ...

    @property
    def is_suspended(self) -> bool:
        """Whether its worker is suspended, and will be dead a moment after the pool was killed."""
        ...

    @property
    def is_in_callback(self) -> bool:
        """Whether its thread runs a callback of a future."""
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

    def __init__(self, recipe: Recipe, options: PoolOptions) -> None:
        self.recipe = recipe
        self.options = options
        self.pid = os.getpid()
        self.pending: deque[Task] = deque()
        self.idle: deque[SupervisorPort] = deque()
        self.supervisors: list[SupervisorPort] = []  # those that have ended, too
        self.lock = threads_lock()
        self.is_closing = False
        self.is_killed = False
        self.life: Life | None = None
        self.template: ForkTemplate | None = None
        self._starting_lock = threads_lock()  # makes and starts supervisors
        self._ended = 0  # supervisors
        self._broken: Callable[[], BaseException] | None = None
        self._failed_starts = 0
        self._is_waiting_to_start = False

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
        """End the template and the workers now; waiting tasks are cancelled.

        All of it, even if an exception interrupts this: a second Ctrl-C follows within milliseconds where a program
        that started this one passes on what the terminal has sent to both.
        """
        try:
            self._kill()
        except BaseException:
            self._kill()
            raise

    def _kill(self) -> None:
        release_left_locked()
        with self.lock:
            self.is_closing = self.is_killed = True
            template = self.template
        with self._starting_lock:  # after this no supervisor is added
            supervisors = list(self.supervisors)
        if template is not None:  # first, so that it forks no more workers
            template.kill()
        for supervisor in supervisors:
            supervisor.kill_worker()
        self.wake_all()
        self.drop_pending()

    def drop_pending(self) -> None:
        """Cancel the tasks that have not begun; all of them, even if Ctrl-C or a callback's exit interrupts this."""
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
        """Remove a task from the waiting ones; False if it is not among them any more."""
        try:
            self.pending.remove(task)
        except ValueError:
            return False
        return True

    def requeue(self, task: Task) -> None:
        """Have a task run again, before all others."""
        self.pending.appendleft(task)
        if self.is_killed or self._broken is not None:  # the queue was emptied before the task was in it
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

    def count_failed_start(self, why: str) -> None:
        """A worker died before it was ready; too many of them in a row break the pool."""
        with self.lock:
            self._failed_starts += 1
            count = self._failed_starts
        if count >= _MOST_FAILED_STARTS:
            self.break_with(
                f"{count} workers in a row died before they were ready, the last {why}; "
                "see what they printed, and make a new pool"
            )

    def break_with(self, text: str, remote: str | None = None) -> None:
        """Do no more tasks; their futures and ``submit`` raise ``BrokenProcessPool`` with ``text``."""

        def error() -> BaseException:
            made = BrokenWorkerPoolError(text)
            if remote is not None:
                made.__cause__ = RemoteTraceback(remote)
            return made

        self.break_down(error)

    def note_waiting_to_start(self, error: BaseException | str) -> None:
        """A worker cannot be started for a while: log that once, until a worker has started."""
        with self.lock:
            is_new, self._is_waiting_to_start = not self._is_waiting_to_start, True
        if is_new:
            log.warning("a worker of the pool cannot be started now (%s); it is tried again, tasks wait", error)

    def note_ready(self) -> None:
        """A worker has started."""
        self._failed_starts = 0
        self._is_waiting_to_start = False

    def ensure_started(self, make: Callable[[PoolState, Life], SupervisorPort]) -> None:
        """Start what is not started yet.

        A signal handler may call this again while it runs, or end it by an exception; then the next call completes it.
        """
        with self.lock:
            if self.must_end() or self.is_closing or len(self.supervisors) == self.options.workers:
                return
            # A thread of Python's own could start no task of a patched ``threading`` that outlives it.
            call: Callable[[Callable[[], None]], None] = _directly if threads_are_patched() else uninterrupted
            try:
                call(self._open_life)
                if self.recipe.forks and self.life is not None and self.pid == os.getpid():
                    # In this thread: ``threading`` takes the thread that forks for the child's main thread.
                    if self.template is None:
                        self.template = worker_process.make_template(self.recipe, self.life)
                    self.template.start()
                call(lambda: self._start_supervisors(make))
            except (OSError, RuntimeError) as error:  # no more descriptors, processes or threads
                if not self.supervisors:
                    raise
                self.note_waiting_to_start(error)  # the next submit tries again

    def _open_life(self) -> None:
        if self.pid != os.getpid():  # a signal handler has forked, and the child has come back into ``submit``
            return
        with self._starting_lock:
            if self.life is None:
                self.life = Life()

    def _start_supervisors(self, make: Callable[[PoolState, Life], SupervisorPort]) -> None:
        if self.pid != os.getpid():
            return
        with self._starting_lock:
            self._start_missing_supervisors(make)

    def _start_missing_supervisors(self, make: Callable[[PoolState, Life], SupervisorPort]) -> None:
        while len(self.supervisors) < self.options.workers and not self.is_killed and self.life is not None:
            supervisor = make(self, self.life)
            self.supervisors.append(supervisor)
            try:
                supervisor.thread.start()
            except BaseException:
                self.supervisors.remove(supervisor)
                supervisor.close()
                raise

    def leave(self) -> None:
        """A supervisor ends; the last one puts everything away."""
        with self.lock:
            self._ended += 1
            is_last = self._ended == len(self.supervisors) and (self.is_closing or self._broken is not None)
        if is_last:
            self.put_away()

    def _is_any_at_work(self) -> bool:
        return any(one.thread.is_alive() and not one.is_starting for one in self.supervisors)

    def put_away(self) -> None:
        """Close what the pool holds; a second call does nothing.

        While supervisors are at work, nothing happens. If they all only start workers of a killed pool, and hang in
        that, ``at_end`` is called, and the last of them closes the rest.
        """
        with self.lock, self._starting_lock:
            if self._ended < len(self.supervisors):
                template = life = None
                if not self.is_killed or self._is_any_at_work():
                    return
            else:
                template, self.template = self.template, None
                life, self.life = self.life, None
                # Semaphores and the like are given back now, not when these objects are collected.
                self.recipe = replace(self.recipe, initializer=None, initargs=())
        if template is not None:
            if self.is_killed:
                template.kill()
            template.end()
        if life is not None:
            life.close()
        self.options.at_end()


def _directly(call: Callable[[], None]) -> None:
    call()

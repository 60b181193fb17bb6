"""Processes as greenlets, one clock, and a scheduler that a seed drives.

Every simulated system call is a step: there the scheduler may let another process run, kill one, stop one, or cut the
power. Between two steps nothing else happens, so a history follows from its seed and from nothing else.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import greenlet

_FIRST_MOMENT_S = 1_000.0


class Killed(BaseException):
    """Unwinds a process that was killed. Its system calls raise this, too, so nothing it still does has an effect."""


class StuckError(Exception):
    """Nothing will ever happen any more, or it goes on for ever."""


class Task:
    """One thread of a simulated process."""

    __slots__ = ("condition", "deadline_s", "done", "greenlet", "name", "process")

    def __init__(self, process: Process, name: str, run: Callable[[], None], parent: greenlet.greenlet) -> None:
        self.process = process
        self.name = name
        self.done = False
        self.condition: Callable[[], Any] | None = None
        self.deadline_s = 0.0  # with a condition: infinite for ever; without: runnable from then on
        self.greenlet = greenlet.greenlet(run, parent)


class Process:
    """One simulated process: its threads, its descriptors, and how it ended."""

    def __init__(self, name: str, pid: int, kind: str) -> None:
        self.name = name
        self.pid = pid
        self.kind = kind  # "coordinator", "client", "checkpoint"
        self.alive = True
        self.tasks: list[Task] = []
        self.on_end: list[Callable[[], None]] = []
        self.stopped_until_s = 0.0
        self.status: int | None = None


class Scheduler:
    """The machine's processors and its clock."""

    def __init__(self, rng: random.Random, switch_rate: float, step_s: float) -> None:
        self.rng = rng
        self.now_s = _FIRST_MOMENT_S
        self.steps = 0
        self.current: Task | None = None
        self.processes: list[Process] = []
        self.problems: list[tuple[str, str]] = []
        self.trace: list[str] | None = None
        self.faults: dict[int, Callable[[], None]] = {}  # by step
        self._tasks: list[Task] = []
        self._main = greenlet.getcurrent()
        self._switch_rate = switch_rate
        self._step_s = step_s
        self._next_pid = 100
        self._fault_steps: list[int] = []
        self._next_fault = -1
        self.limit = 0  # steps until it is taken for an endless loop

    def plan(self, faults: dict[int, Callable[[], None]]) -> None:
        """Faults to happen, each when that many steps are done."""
        self.faults = faults
        self._fault_steps = sorted(faults, reverse=True)
        self._next_fault = self._fault_steps[-1] if self._fault_steps else 1 << 62

    def spawn(self, name: str, kind: str, run: Callable[[], None]) -> Process:
        """A new process."""
        self._next_pid += 1
        process = Process(name, self._next_pid, kind)
        self.processes.append(process)
        self.thread(process, "main", run)
        return process

    def thread(self, process: Process, name: str, run: Callable[[], None]) -> Task:
        """One more thread of a process; the process ends with its main thread."""

        def body() -> None:
            status = 1
            try:
                run()
                status = 0
            except Killed:
                return
            except BaseException as error:
                self.died(process, name, error)
            finally:
                task.done = True
            if name == "main" and process.alive:
                self.end(process, status)

        task = Task(process, name, body, self._main)
        process.tasks.append(task)
        self._tasks.append(task)
        return task

    def died(self, process: Process, name: str, error: BaseException) -> None:
        """A thread ended with an error: an oracle's affair (``machine`` says which errors are expected)."""
        self.problems.append(("no such error", f"{process.name}/{name} ended with {type(error).__name__}: {error}"))

    def end(self, process: Process, status: int) -> None:
        """A process is gone, however it went; its other threads stop where they are."""
        if not process.alive:
            return
        process.alive = False
        process.status = status
        self.say(f"{process.name} ends with status {status}")
        for hook in process.on_end:
            hook()
        mine = self.current
        for task in process.tasks:
            if task is not mine and not task.done:
                task.done = True
                if task.greenlet:  # it has begun
                    task.greenlet.parent = greenlet.getcurrent()
                    self.current = task  # what it still does on its way out is its own doing, and refused
                    task.greenlet.throw(Killed)
                    self.current = mine
        self._tasks = [task for task in self._tasks if not task.done or task is mine]

    def kill(self, process: Process) -> None:
        """SIGKILL."""
        self.end(process, -9)
        if self.current is not None and self.current.process is process:
            self.current.done = True
            raise Killed

    def say(self, text: str) -> None:
        """Note what happened, if somebody wants to read it."""
        if self.trace is not None:
            who = "" if self.current is None else self.current.process.name
            self.trace.append(f"{self.steps:6} {(self.now_s - _FIRST_MOMENT_S) * 1000:10.3f} ms {who:14} {text}")

    def step(self) -> None:
        """A system call: others may run now, and the caller may be killed."""
        task = self.current
        if task is None:
            return
        if not task.process.alive:
            raise Killed
        self.steps += 1
        self.now_s += self._step_s
        if self.steps >= self._next_fault or self.rng.random() < self._switch_rate:
            self._leave(task)

    def wait(self, condition: Callable[[], Any], timeout_s: float = float("inf")) -> bool:
        """Wait until ``condition`` holds; False if it did not within the time."""
        task = self.current
        assert task is not None
        if not task.process.alive:
            raise Killed
        self.steps += 1
        task.condition = condition
        # Not now: a wait that is shorter than the clock can show ends when time has passed, as on any machine.
        task.deadline_s = max(self.now_s + timeout_s, math.nextafter(self.now_s, math.inf)) if timeout_s else self.now_s
        self._leave(task)
        task.condition = None
        return bool(condition())

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        task = self.current
        if task is None:
            return
        if not task.process.alive:
            raise Killed
        self.steps += 1
        task.deadline_s = self.now_s + seconds
        self._leave(task)

    def _leave(self, task: Task) -> None:
        self._main.switch()
        if not task.process.alive:
            raise Killed

    def run(self) -> None:
        """Run until no process is left."""
        rng = self.rng
        while self._tasks:
            if self.steps >= self._next_fault:
                self._fault_steps.pop()
                fault = self.faults[self._next_fault]
                self._next_fault = self._fault_steps[-1] if self._fault_steps else 1 << 62
                fault()
                continue
            if self.steps > self.limit:
                raise StuckError(f"{self.steps} steps and no end: {self._waiting()}")
            task = self._pick(rng)
            if task is None:
                continue
            self.current = task
            task.deadline_s = 0.0
            task.greenlet.switch()
            self.current = None
            if task.done:
                self._tasks = [other for other in self._tasks if not other.done]

    def _pick(self, rng: random.Random) -> Task | None:
        """A task that can go on; None if time had to pass first."""
        tasks, now_s = self._tasks, self.now_s
        start = int(rng.random() * len(tasks))
        earliest_s = float("inf")
        for i in range(len(tasks)):
            task = tasks[start - i]
            stopped_s = task.process.stopped_until_s
            if stopped_s > now_s:
                earliest_s = min(earliest_s, stopped_s)
            elif task.deadline_s <= now_s or (task.condition is not None and task.condition()):
                return task
            else:
                earliest_s = min(earliest_s, task.deadline_s)
        if earliest_s == float("inf"):
            raise StuckError(f"everybody waits for something that will not come: {self._waiting()}")
        self.now_s = earliest_s
        return None

    def _waiting(self) -> str:
        return ", ".join(f"{task.process.name}/{task.name}" for task in self._tasks)

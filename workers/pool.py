"""A pool of worker processes that survives them: a ``concurrent.futures.Executor``.

One thread of the pool starts workers, hands out tasks and collects results; nothing else touches a process. A worker
that dies takes only its task along and is replaced. Unlike ``ProcessPoolExecutor``, a death breaks nothing else.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import pickle
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any

from shoal.shm.errors import WorkerLostError
from shoal.workers import worker as worker_process

# So many workers in a row dying before they were ready: something is wrong with all of them.
_MOST_STILLBORN = 20


class _Task:
    __slots__ = ("future", "name", "raw", "retries")

    def __init__(self, raw: bytes, name: str, retries: int) -> None:
        self.raw = raw
        self.name = name
        self.retries = retries
        self.future: Future[Any] = Future()


class _Worker:
    __slots__ = ("connection", "process", "ready", "task")

    def __init__(self, process: Any, connection: Connection) -> None:
        self.process = process
        self.connection = connection
        self.ready = False
        self.task: _Task | None = None


class ProcessPool(Executor):
    """Runs functions in ``workers`` processes, each of which unpickles ``database`` as its current database."""

    def __init__(self, database: Any, workers: int, retries: int, context: BaseContext | None) -> None:
        if type(workers) is not int or workers < 1:
            raise ValueError(f"workers is {workers!r}; give a whole number from 1")
        if type(retries) is not int or retries < 0:
            raise ValueError(f"retries is {retries!r}; give a whole number from 0")
        self._database = pickle.dumps(database)
        self._wanted = workers
        self._retries = retries
        self._context: Any = context or multiprocessing.get_context()
        self._pending: deque[_Task] = deque()
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()  # guards _pending, _closing, _killed
        self._closing = False
        self._killed = False
        self._broken: BaseException | None = None
        self._stillborn = 0
        self._wake_read, self._wake_write = os.pipe()
        self._life_read, self._life_write = self._context.Pipe(duplex=False)
        self._thread = threading.Thread(target=self._run, name="shoal-pool", daemon=True)
        self._thread.start()
        _pools.add(self)

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers there are now."""
        return [worker.process.pid for worker in list(self._workers)]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a worker call ``fn(*args, **kwargs)``; a future of what it returns or raises.

        The future gets ``WorkerLostError`` if the worker dies on it more than ``retries`` times.
        """
        task = _Task(b"", getattr(fn, "__qualname__", repr(fn)), self._retries)
        try:
            task.raw = pickle.dumps((fn, args, kwargs))
        except Exception as error:
            task.future.set_exception(error)
            return task.future
        with self._lock:
            if self._closing:
                raise RuntimeError("the pool is shut down; make a new one")
            if self._broken is not None:
                raise self._broken
            self._pending.append(task)
        self._wake()
        return task.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks and end the workers when all tasks are done."""
        with self._lock:
            self._closing = True
            if cancel_futures:
                for task in self._pending:
                    task.future.cancel()
        self._wake()
        if wait:
            try:
                self._thread.join()
            except BaseException:
                self.kill()
                raise

    def kill(self) -> None:
        """End the workers now, whatever they are doing; tasks not done are cancelled or lost."""
        with self._lock:
            self._closing = self._killed = True
        self._wake()
        self._thread.join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if kind is not None and not issubclass(kind, Exception):
            self.kill()  # Ctrl-C: nobody waits for what is still to be done
        else:
            self.shutdown(wait=True)
        return None

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # the thread has ended and closed it: there is nobody to wake
            os.write(self._wake_write, b"x")

    def _run(self) -> None:
        try:
            while True:
                self._hire()
                self._hand_out()
                if not self._go_on():  # asked last: only now are cancelled tasks gone from the queue
                    break
                self._collect()
        finally:
            self._dismiss()

    def _go_on(self) -> bool:
        with self._lock:
            if self._killed:
                return False
            busy = self._pending or any(worker.task for worker in self._workers)
            return bool(busy) or not self._closing

    def _hire(self) -> None:
        with self._lock:
            wanted = self._wanted if not self._closing else min(self._wanted, len(self._pending) + self._busy())
            if self._killed:
                return
        while len(self._workers) < wanted and self._broken is None:
            mine, theirs = self._context.Pipe()
            inherited = [self._life_write, mine] if self._context.get_start_method() == "fork" else []
            process = self._context.Process(
                target=worker_process.work,
                args=(theirs, self._life_read, inherited, self._database),
                name="shoal-worker",
            )
            process.start()
            theirs.close()
            self._workers.append(_Worker(process, mine))

    def _busy(self) -> int:
        return sum(worker.task is not None for worker in self._workers)

    def _hand_out(self) -> None:
        for worker in self._workers:
            if not worker.ready or worker.task is not None:
                continue
            task = self._next_task()
            if task is None:
                return
            worker.task = task
            try:
                worker.connection.send_bytes(task.raw)
            except OSError:  # it died just now: _collect sees that and gives the task to another
                continue

    def _next_task(self) -> _Task | None:
        with self._lock:
            while self._pending:
                task = self._pending.popleft()
                if task.future.running() or task.future.set_running_or_notify_cancel():
                    return task
        return None

    def _collect(self) -> None:
        by_handle: dict[Any, _Worker] = {}
        for worker in self._workers:
            by_handle[worker.connection] = worker
            by_handle[worker.process.sentinel] = worker
        for handle in wait([self._wake_read, *by_handle]):
            if handle == self._wake_read:
                os.read(self._wake_read, 65536)
                continue
            worker = by_handle[handle]
            if worker not in self._workers:
                continue
            # A result that was sent before its worker died counts.
            if worker.connection.poll() and self._receive(worker):
                continue
            if not worker.process.is_alive() or handle == worker.process.sentinel:
                self._bury(worker)

    def _receive(self, worker: _Worker) -> bool:
        """Take what a worker sent; False if there is nothing more to come."""
        try:
            raw = worker.connection.recv_bytes()
        except (EOFError, OSError):
            worker.process.join()
            self._bury(worker)
            return True
        if raw == worker_process.READY:
            worker.ready = True
            self._stillborn = 0
            return True
        try:
            succeeded, outcome = pickle.loads(raw)
        except Exception as error:
            succeeded, outcome = False, error
        if worker.task is None:  # it could not attach: no other will
            self._break(outcome)
            return True
        future, worker.task = worker.task.future, None
        if succeeded:
            future.set_result(outcome)
        else:
            future.set_exception(outcome)
        return True

    def _bury(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.process.join()
        worker.connection.close()
        if not worker.ready:
            self._stillborn += 1
            if self._stillborn >= _MOST_STILLBORN:
                text = f"{self._stillborn} workers in a row died while starting; see what they printed"
                self._break(WorkerLostError(text))
        task = worker.task
        if task is None:
            return
        if task.retries > 0:
            task.retries -= 1
            with self._lock:
                self._pending.appendleft(task)
            return
        code = worker.process.exitcode
        task.future.set_exception(
            WorkerLostError(
                f"the worker running {task.name} died with exit code {code}; "
                "submit the task again, or give the pool retries"
            )
        )

    def _break(self, error: BaseException) -> None:
        with self._lock:
            self._broken = error
            pending, self._pending = list(self._pending), deque()
        for task in pending:
            if task.future.running() or task.future.set_running_or_notify_cancel():
                task.future.set_exception(error)

    def _dismiss(self) -> None:
        with self._lock:
            self._closing = True
            pending, self._pending = list(self._pending), deque()
        for task in pending:
            if not task.future.cancel():
                task.future.set_exception(WorkerLostError(f"the pool was ended before {task.name} was done"))
        for worker in self._workers:
            if self._killed:
                worker.process.kill()
            else:
                with contextlib.suppress(OSError):  # dead already
                    worker.connection.send_bytes(b"")
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
            if worker.task is not None:
                worker.task.future.set_exception(WorkerLostError(f"the pool was ended while {worker.task.name} ran"))
            worker.process.close()
        self._workers.clear()
        self._life_write.close()
        self._life_read.close()
        os.close(self._wake_read)
        wake_write, self._wake_write = self._wake_write, -1
        os.close(wake_write)


_pools: weakref.WeakSet[ProcessPool] = weakref.WeakSet()


@atexit.register
def _shut_down_pools() -> None:
    for pool in list(_pools):
        pool.shutdown()

"""``ProcessPool``: what a caller of the pool uses. It behaves as ``ProcessPoolExecutor``, but survives its workers."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from types import TracebackType
from typing import Any, NoReturn

from shoal.shm.arguments import check_count, check_plain_function, name_of
from shoal.shm.errors import InvalidOperationError
from shoal.workers.pool import helper_processes
from shoal.workers.pool.outcome import pickled
from shoal.workers.pool.pool_state import PoolOptions, PoolState, SupervisorPort
from shoal.workers.pool.supervisor import Supervisor
from shoal.workers.pool.task import Task, TaskFuture, bounded, release_left_locked
from shoal.workers.pool.worker_process import Recipe

# The longest that ``kill`` waits for the pool's threads, and for those in a callback or in the start of a worker.
_AFTER_KILL_S = 5.0
_HELD_UP_S = 0.5
# When all tasks are done, a worker that still starts is waited for this long, looking this often.
_START_S = 5.0
_LOOK_S = 0.5


class ProcessPool(Executor):
    """Runs functions in processes. Each process unpickles the recipe's ``database`` as its current database."""

    def __init__(self, recipe: Recipe, options: PoolOptions) -> None:
        self._state = PoolState(recipe, options)
        if recipe.method == "forkserver":
            helper_processes.preload()
        _states.add(self._state)
        weakref.finalize(self, _abandon, self._state).atexit = False

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a WorkerPool belongs to the process that made it and cannot be copied or pickled; hand on the path of its "
            "store, or in a task use shoal.current_database()"
        )

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers there are now. They are started by the first ``submit``."""
        return [pid for supervisor in list(self._state.supervisors) if (pid := supervisor.pid) is not None]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a worker call ``fn(*args, **kwargs)``; a future of what it returns or raises.

        The future gets ``WorkerLostError`` if the worker dies on it more than ``retries`` times, ``TaskTimeoutError``
        if it runs for longer than ``timeout``, and whatever pickling raises if the call cannot be pickled.
        ``TypeError`` if ``fn`` cannot be called, or is a coroutine or generator function; ``RuntimeError`` after
        ``shutdown``.
        """
        self._check_usable()
        check_plain_function("fn", fn)
        return self._submit(fn, args, kwargs, name_of(fn))

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """Results of ``fn`` over ``iterables``, in order, as ``Executor.map``.

        ``timeout``: seconds from this call after which waiting for a result raises ``TimeoutError``. ``chunksize``: how
        many calls make one task. ``buffersize``: how many tasks are submitted before their results are asked for; None
        submits all at once.
        """
        check_count("chunksize", chunksize, 1)
        if buffersize is not None:
            check_count("buffersize", buffersize, 1, ", or None")
        self._check_usable()
        check_plain_function("fn", fn)
        timeout = bounded(timeout)
        until = None if timeout is None else time.monotonic() + timeout
        calls = zip(*iterables)  # noqa: B905 (as the built-in map: the shortest ends it)
        chunks = iter(lambda: tuple(itertools.islice(calls, min(chunksize, sys.maxsize))), ())
        name = name_of(fn)
        pool = weakref.ref(self)  # an unfinished iterator does not keep the pool

        def submit_next() -> Future[list[Any]] | None:
            chunk, alive = next(chunks, None), pool()
            if chunk is None or alive is None:
                return None
            return alive._submit(_call_each, (fn, chunk), {}, name)

        futures: deque[Future[list[Any]]] = deque()
        try:
            for _ in itertools.count() if buffersize is None else range(buffersize):
                future = submit_next()
                if future is None:
                    break
                futures.append(future)
        except BaseException:
            _cancel_all(futures)
            raise
        return _results(futures, submit_next if buffersize is not None else None, until)

    def cancel(self, future: Future[Any], kill: bool = False) -> bool:
        """Cancel a task of this pool; whether it is cancelled now.

        A task that runs is cancelled with ``kill=True`` only: its worker is killed and replaced.
        """
        if not isinstance(future, TaskFuture):
            raise TypeError(f"future has type {type(future).__name__}; give a future of this pool")
        if self._is_elsewhere():
            raise InvalidOperationError(_ELSEWHERE)
        task = future.task
        if future.cancel():
            if task is not None and self._state.remove(task):
                task.begin()  # wakes the threads that wait for it
            return True
        if future.cancelled():
            return True
        if not kill or task is None or not future.end_as_cancelled():
            return False
        supervisor = task.supervisor
        if supervisor is not None:
            supervisor.wake()
        return True

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks and end the workers when all tasks are done, or those that run if ``cancel_futures``.

        In a callback of a future it does not wait. Ctrl-C while it waits ends the workers at once. When all tasks
        are done, it waits only a few seconds for a worker that still starts.
        """
        if self._is_elsewhere():
            return
        try:
            self._state.close()
            if cancel_futures:
                self._state.drop_pending()
            if wait:
                _finish([self._state])
            self._state.put_away()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End the workers now, whatever they are doing; tasks not done are cancelled or lost.

        A worker that is suspended, by SIGSTOP or a debugger, is not waited for: it is dead within a second.
        """
        if self._is_elsewhere():
            return
        try:
            self._state.kill()
        finally:
            _join_killed([self._state])
            self._state.put_away()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        is_orderly = kind is None or issubclass(kind, (Exception, GeneratorExit))
        is_exit = issubclass(kind or object, SystemExit) and not TaskFuture.was_interrupted
        if (is_orderly or is_exit) and not _comes_of_ctrl_c(error):
            self.shutdown(wait=True)
        else:
            self.kill()  # Ctrl-C: the remaining tasks are not done
        return None

    def _submit(
        self, fn: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any], name: str
    ) -> Future[Any]:
        state = self._state
        task = Task(b"", name, state.options.retries)
        try:
            task.raw = pickled((fn, arguments, keywords))
        except Exception as error:
            task.fail(error)
            return task.future
        if TaskFuture.was_interrupted and threading.current_thread() is threading.main_thread():
            TaskFuture.was_interrupted = False  # the program has caught Ctrl-C and goes on
        with state.lock:
            state.ensure_started(Supervisor)
            self._check_usable()  # last: a signal handler may have ended the pool meanwhile
            state.pending.append(task)
        state.wake_one()
        return task.future

    def _is_elsewhere(self) -> bool:
        return self._state.pid != os.getpid()

    def _check_usable(self) -> None:
        if self._is_elsewhere():
            raise InvalidOperationError(_ELSEWHERE)
        self._state.check_not_broken()
        if self._state.is_closing:
            raise RuntimeError("cannot schedule new futures after shutdown: the pool is shut down; make a new one")
        if _exit_began:
            raise RuntimeError(
                "cannot schedule new futures after interpreter shutdown: the main thread has ended; have it wait for "
                "the thread that uses the pool"
            )


_ELSEWHERE = "the pool was made by the process that forked this one; make a pool of its own here"


def _call_each(fn: Callable[..., Any], calls: tuple[tuple[Any, ...], ...]) -> list[Any]:
    """In a worker: one task of ``map``."""
    return [fn(*arguments) for arguments in calls]


def _results(
    futures: deque[Future[list[Any]]], submit_next: Callable[[], Future[list[Any]] | None] | None, until: float | None
) -> Iterator[Any]:
    try:
        while futures:
            if submit_next is not None:
                following = submit_next()
                if following is not None:
                    futures.append(following)
            # Nothing here refers to a result after it was yielded.
            chunk = deque(_result_of(futures.popleft(), until))
            while chunk:
                yield chunk.popleft()
    finally:
        _cancel_all(futures)


def _result_of(future: Future[list[Any]], until: float | None) -> list[Any]:
    try:
        return future.result(None if until is None else until - time.monotonic())
    finally:
        future.cancel()
        del future  # an exception's traceback would refer to it


def _cancel_all(futures: Iterable[Future[Any]]) -> None:
    for future in futures:
        future.cancel()


def _abandon(state: PoolState) -> None:
    """The pool's object was collected: the pool ends when its tasks are done. Runs in any thread, at any moment."""
    if state.pid == os.getpid():
        state.close()


# Pools that may have workers; the interpreter's end finishes them.
_states: weakref.WeakSet[PoolState] = weakref.WeakSet()
_exit_began = False


def _end_all() -> None:
    """At exit: finish all tasks, as the standard pool does; none after Ctrl-C."""
    global _exit_began
    _exit_began = True
    states = [state for state in list(_states) if state.pid == os.getpid()]
    try:
        if TaskFuture.was_interrupted or _comes_of_ctrl_c(_last_error()):
            raise KeyboardInterrupt
        for state in states:
            state.close()
        _finish(states)
    except KeyboardInterrupt:
        for state in states:
            state.kill()
        _join_killed(states)


def _comes_of_ctrl_c(error: BaseException | None) -> bool:
    """Whether it is ``KeyboardInterrupt``, or was raised while one was handled, as by ``sys.exit`` in an ``except``."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        error = error.__context__
    return False


def _last_error() -> BaseException | None:
    """The exception that ended the main thread, if one did. In an interactive session it has ended one line only."""
    if hasattr(sys, "ps1"):
        return None
    return getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)


def _finish(states: list[PoolState]) -> None:
    """Wait until all tasks of pools are done and their threads have ended; not in one of these threads.

    The start of a worker may hang, because the process that starts it is stopped. A pool whose last threads do only
    that, and have no task to do, is killed after ``_START_S``.
    """
    release_left_locked()
    for state in states:
        only_starts_since: float | None = None
        while alive := [one for one in state.supervisors if one.thread.is_alive()]:
            if _is_one_of_them(alive):
                return
            now = time.monotonic()
            if not (state.must_end() and all(one.is_starting for one in alive)):
                only_starts_since = None
            elif only_starts_since is None:
                only_starts_since = now
            elif now - only_starts_since > _START_S:
                state.kill()
                _join_killed([state])
                break
            alive[0].thread.join(_LOOK_S)


def _join_killed(states: list[PoolState]) -> None:
    """Wait for the threads of killed pools, for ``_AFTER_KILL_S`` at most; not in one of these threads."""
    supervisors = [supervisor for state in states for supervisor in list(state.supervisors)]
    if _is_one_of_them(supervisors):
        return
    begin = time.monotonic()
    for supervisor in supervisors:
        while supervisor.thread.is_alive() and not supervisor.is_suspended:
            is_held_up = supervisor.is_starting or supervisor.is_in_callback
            if time.monotonic() - begin > (_HELD_UP_S if is_held_up else _AFTER_KILL_S):
                break
            supervisor.thread.join(0.05)


def _is_one_of_them(supervisors: Iterable[SupervisorPort]) -> bool:
    """Whether this is the thread of a supervisor, as in a callback of a future."""
    here = threading.current_thread()
    return any(supervisor.thread is here for supervisor in supervisors)


# Before the interpreter waits for threads, when the pool's can still be talked to; atexit is after that.
threading._register_atexit(_end_all)  # type: ignore[attr-defined]

"""A thread for one worker: it starts the worker, gives it tasks, learns its death, and starts the next.

- One worker, one thread, one step after the other: a delay of one worker (it is stopped, it starts slowly, its
  arguments are large, a callback of its task takes long) delays no other worker.
- The thread holds no lock. It blocks in ``poll``, on the worker's channel, its death and a pipe that wakes it.
  Nobody can wake it in a callback, nor in the start of a worker if the process that starts it is stopped.
- A task that was taken is settled, or put back into the queue, before the next is taken.
- A worker that is suspended for the ttl is killed if its task may run again: a killed worker commits nothing late.
- A shortage, and the death of the process that starts workers, are waited out. Death of a worker before it is ready is
  a failed start.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time

from shoal.shm.errors import CoordinatorLostError, TaskTimeoutError, WorkerLostError
from shoal.shm.host.descriptors import wake_pipe
from shoal.shm.host.shortage import is_shortage
from shoal.shm.host.unpatched import threads_lock
from shoal.workers.pool import channel, outcome
from shoal.workers.pool.helper_processes import ServerEnd
from shoal.workers.pool.life import Life
from shoal.workers.pool.pool_state import PoolState
from shoal.workers.pool.task import Task, log
from shoal.workers.pool.worker_process import StarterDiedError, WorkerDiedError, WorkerProcess, start_worker

_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 1.0
_SUSPENDED_S = 0.5


class Supervisor:
    """One worker's place in the pool."""

    def __init__(self, state: PoolState, life: Life) -> None:
        self._state = state
        self._life = life
        self._worker: WorkerProcess | None = None
        self._pause_s = 0.0
        self._avoids_fork_server = False
        self.is_starting = False  # in the start of a worker, which nobody can hurry
        self.is_in_callback = False  # nor a callback
        self.is_suspended = False  # its worker is, and the pool was killed
        self._wake_read, self._wake_write = wake_pipe()
        self._wake_lock = threads_lock()  # during a write the pipe is not closed, nor its number used again
        self.thread = threading.Thread(target=self._run, name="shoal-pool", daemon=True)

    @property
    def pid(self) -> int | None:
        """Process id of the worker, if there is one now."""
        return None if (worker := self._worker) is None else worker.pid

    def wake(self) -> None:
        """Have the thread look at the pool's state; from any thread, also from a signal handler."""
        # If the pipe is full, the thread will wake. If it is closed, the thread has ended.
        with self._wake_lock, contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")

    def kill_worker(self) -> None:
        """Send SIGKILL to the worker, from any thread. A suspended one is left to ``_dismiss``."""
        worker = self._worker
        if worker is not None and not worker.is_suspended():
            worker.kill()

    def close(self) -> None:
        """Close the pipe."""
        with self._wake_lock:
            wake_write, self._wake_write = self._wake_write, -1
            os.close(wake_write)
            os.close(self._wake_read)

    def _run(self) -> None:
        try:
            while not self._state.must_end():
                try:
                    worker = self._hire()
                    if worker is not None and self._await_ready(worker):
                        self._serve(worker)
                except Exception:
                    log.exception("a supervisor of the pool failed; its worker is replaced")
                    if self._worker is not None:
                        self._worker.kill()
                    self._pause()
                finally:
                    self._dismiss()
        finally:
            self.close()
            self._state.leave()

    def _hire(self) -> WorkerProcess | None:
        """Start a worker; None if the pool cannot have one now, or never again."""
        state = self._state
        if state.pending:
            state.wake_one()  # this thread may have been woken for a task, and then have lost its worker
        recipe = state.recipe.without_fork_server() if self._avoids_fork_server else state.recipe
        try:
            self.is_starting = True
            self._worker = worker = start_worker(recipe, self._life, state.template)
        except WorkerDiedError as error:
            self._fail_to_start(str(error))
        except StarterDiedError as error:
            self._outlive_starter(error)
        except Exception as error:
            if is_shortage(error):
                self._wait_out(error)
            elif isinstance(error, OSError) and recipe.method == "forkserver":
                self._avoids_fork_server = True  # somebody may have removed its socket
            else:  # what the workers start with cannot be pickled, for example
                state.break_with(f"the pool's workers cannot be started: {type(error).__name__}: {error}")
        else:
            if state.is_killed:
                worker.kill()
            return worker
        finally:
            self.is_starting = False
        return None

    def _outlive_starter(self, error: StarterDiedError) -> None:
        state = self._state
        if state.template is None:
            # A fork server that fails by itself lacks a process, or cannot import the main module. The next start does
            # without the server, and tells which: it meets a shortage, or its worker dies of the import.
            self._avoids_fork_server = error.end is ServerEnd.FAILED
            self._wait_out(error)
        elif not state.is_killed:  # the template cannot be forked again: by now the program may have threads
            state.break_with(f"{error}; make a new pool")

    def _fail_to_start(self, how: str) -> None:
        """The worker has died before it was ready."""
        if not self._state.is_killed:
            self._state.count_failed_start(how)
            self._pause()

    def _wait_out(self, error: BaseException | str) -> None:
        self._state.note_waiting_to_start(error)
        self._pause()

    def _pause(self) -> None:
        """Wait, longer each time until a worker is ready."""
        self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s or _FIRST_PAUSE_S)
        until = time.monotonic() + self._pause_s
        while not self._state.must_end() and (left := until - time.monotonic()) > 0:
            self._wait(None, left)

    def _await_ready(self, worker: WorkerProcess) -> bool:
        """Wait until the worker can be given tasks; False if it never will."""
        state = self._state
        try:
            message = self._receive(worker)
            # A worker without a task is not needed any more, but the user's initializer runs to its end.
            while message is None and not (state.must_end() and state.recipe.initializer is None):
                self._wait(worker)
                message = self._receive(worker)
        except WorkerDiedError:
            code = worker.exit_code_text()
            self._forget(worker)
            self._fail_to_start(f"with {code}")
            return False
        if message is None:
            worker.kill()
            return False
        if message[0] != channel.READY:
            self._refuse(message)
            return False
        self._pause_s = 0.0
        self._avoids_fork_server = False
        state.note_ready()
        return True

    def _refuse(self, message: channel.Message) -> None:
        """The worker tells why it could not begin, and ends."""
        kind, body = message
        self._dismiss()  # first: until its end the worker may write to its log
        error = outcome.unpack_exception(body)
        if is_shortage(error):
            self._wait_out(error)
        elif isinstance(error, CoordinatorLostError) and kind == channel.NOT_ATTACHED:
            # The coordinator may be stopped or slow for a while. Other workers are attached and go on.
            self._fail_to_start(f"because of {outcome.describe_exception(body)}")
        elif kind == channel.NOT_ATTACHED and isinstance(error, Exception):
            self._state.break_down(lambda: outcome.unpack_exception(body))
        else:
            text = f"the initializer of the pool's workers raised {outcome.describe_exception(body)}"
            self._state.break_with(f"{text}; mend it and make a new pool", outcome.traceback_of_exception(body))

    def _serve(self, worker: WorkerProcess) -> None:
        """Give the worker tasks until it is lost, has done ``max_tasks_per_child`` tasks, or no more will come."""
        most = self._state.options.max_tasks_per_child
        try:
            while most is None or worker.tasks_done < most:
                task = self._next_task(worker)
                if task is None:
                    return
                self._do(worker, task)
                worker.tasks_done += 1
                del task
        except WorkerDiedError:
            if not self._state.is_killed:
                worker.kill()  # it may live: only its channel is broken

    def _next_task(self, worker: WorkerProcess) -> Task | None:
        """Wait for a task; None if there will be none."""
        state = self._state
        while True:
            if self._receive(worker) is not None:
                raise WorkerDiedError("it has sent a message without a task")
            task = state.take()
            if task is not None:
                return task
            if state.must_end():
                return None
            state.idle.append(self)
            try:
                if not state.pending and not state.must_end():
                    self._wait(worker)
            finally:
                with contextlib.suppress(ValueError):  # the thread that woke this one has removed it
                    state.idle.remove(self)

    def _do(self, worker: WorkerProcess, task: Task) -> None:
        task.supervisor = self
        limit_s = self._state.options.timeout_s
        until = None if limit_s is None else time.monotonic() + limit_s
        try:
            message = self._exchange(worker, task, until)
        except WorkerDiedError as error:
            # The kernel tells if not all was read. Then the task has not begun; a large one may have ended the worker.
            is_small = 0 < len(task.raw) <= channel.COPIED_BYTES
            self._lose(worker, task, was_read=not (is_small and isinstance(error.__cause__, ConnectionError)))
            raise
        except BaseException as error:
            self._settle(task, error=error)
            raise
        finally:
            task.supervisor = None
        if message is not None:
            self._settle(task, *outcome.unpack(*message))
            return
        worker.kill()
        if not task.future.done():
            assert limit_s is not None
            self._settle(task, error=TaskTimeoutError(task.name, limit_s))
        raise WorkerDiedError

    def _exchange(self, worker: WorkerProcess, task: Task, until: float | None) -> channel.Message | None:
        """Send the task and wait for its outcome; None if the task is to be ended."""
        try:
            worker.channel.send(channel.TASK, task.raw)
        except OSError as error:
            raise WorkerDiedError from error
        if not task.retries and len(task.raw) > channel.COPIED_BYTES:
            task.raw = b""  # the channel holds it
        suspended = worker.watch_suspension(self._state.options.ttl_s) if task.retries else None
        while True:
            left_s = None if until is None else until - time.monotonic()
            if left_s is None or left_s > 0:
                look_s = None if suspended is None else suspended.next_look_s()
                self._wait(worker, min((s for s in (left_s, look_s) if s is not None), default=None))
            message = self._receive(worker)
            if message is not None:
                return message
            if self._state.is_killed:
                raise WorkerDiedError  # or is about to: ``_dismiss`` sees to it
            if task.future.done() or (left_s is not None and left_s <= 0):
                return None
            if suspended is not None and suspended.is_over():
                raise WorkerDiedError  # ``_lose`` kills it first, so it commits nothing more

    def _lose(self, worker: WorkerProcess, task: Task, was_read: bool) -> None:
        """The worker is lost: its task fails, or runs again. One that was not read only waits again."""
        if (state := self._state).is_killed:
            self._settle(task, error=WorkerLostError(f"the pool was ended while {task.name} ran"))
            return
        worker.kill()
        code = worker.exit_code_text()
        self._forget(worker)
        if (task.retries > 0 or not was_read) and not task.future.done():
            task.retries -= was_read
            state.requeue(task)
        else:
            text = f"the worker running {task.name} died with {code} on attempt {state.options.retries + 1}; "
            self._settle(task, error=WorkerLostError(text + "run it again, or allow more retries"))

    def _settle(self, task: Task, result: object = None, error: BaseException | None = None) -> None:
        self.is_in_callback = True
        try:
            if error is None:
                task.succeed(result)
            else:
                task.fail(error)
        except BaseException:  # the future itself logs an Exception of a callback
            log.exception("a callback of the future of %s raised; the pool goes on", task.name)
        finally:
            self.is_in_callback = False

    def _dismiss(self) -> None:
        """End the worker in order, or by force if the pool was killed; wait until it is dead."""
        worker = self._worker
        if worker is None:
            return
        with contextlib.suppress(OSError):  # dead already
            worker.channel.send(channel.END)
        while not worker.is_dead():
            if self._state.is_killed:
                # A debugger that holds it gets time to let go. If the program ends first, the worker does (``life``).
                self.is_suspended = worker.is_suspended()
                worker.wait(_SUSPENDED_S if self.is_suspended else 0.0)
                worker.kill()
            self._wait(worker, ending=True)
        self._forget(worker)

    def _forget(self, worker: WorkerProcess) -> None:
        self._worker = None
        worker.close()

    def _receive(self, worker: WorkerProcess) -> channel.Message | None:
        """What the worker has sent, if it is complete. A result that was sent before its worker died counts."""
        try:
            message = worker.channel.receive()
            if message is not None:
                return message
            if worker.is_dead():
                message = worker.channel.receive()  # sent between the first look and its death
                if message is None:
                    raise WorkerDiedError
                return message
            if worker.channel.is_sending:
                worker.channel.flush()
        except (EOFError, OSError) as error:
            raise WorkerDiedError from error
        return None

    def _wait(self, worker: WorkerProcess | None, timeout_s: float | None = None, *, ending: bool = False) -> None:
        """Sleep until the worker has sent something or died, another thread wakes this one, or the time is over."""
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        if worker is not None:
            poller.register(worker.death, select.POLLIN)
            if not ending:
                events = select.POLLIN | select.POLLOUT if worker.channel.is_sending else select.POLLIN
                poller.register(worker.channel.fileno(), events)
        # Milliseconds, and one more: a thread that wakes too early has to wait again.
        ready = poller.poll(None if timeout_s is None else min(timeout_s * 1000 + 1, 1e9))
        if any(descriptor == self._wake_read for descriptor, _ in ready):
            os.read(self._wake_read, 65536)

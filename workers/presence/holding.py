"""What an open database holds in this process, and the thread that keeps it: the port ``primitives.engine.Holding``.

- The holder is the open database in this process: its id goes with the greeting. A forked child is another holder.
- The coordinator sees the end of the process, or of the database, by the end of its pipes. For a process that is
  stopped there is the ttl: while something is held, one thread renews three times in the shortest ttl.
- The thread sees the end of the coordinator by the end of a pipe, too, and renews at once. So the next coordinator has
  pipes to all holders as soon as it serves, and sees the death of one that does nothing but hold.
- It is said to be held before it is asked for, so the thread runs by then. What was asked for and not answered (an
  exception of a signal handler, a coordinator that does not answer) may have been given. It is undone: right behind the
  request in the same pipe, and again by the thread until a coordinator has answered.
- The thread keeps no database alive. It ends when it wakes and has found nothing held for a second. ``close`` waits for
  a renewal that is under way: a pipe of the thread that is still open, or one that has just been attached, would go on
  saying that the database is there.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable
from typing import Any

from shoal.shm.errors import CoordinatorLostError, InvalidOperationError, ShoalError, StoreFullError, StoreMovedError
from shoal.shm.host import tasks
from shoal.shm.host.unpatched import ReentrantLock, thread, time
from shoal.shm.wire import request as wire_request
from shoal.workers.presence.sleep import Sleep
from shoal.workers.presence.waiting import Operation, ask_and_wait
from shoal.workers.shared_memory.channel import Channel
from shoal.workers.shared_memory.connection import StoreConnection

_RENEWALS_PER_TTL = 3
_LONGEST_PAUSE_S = 1000.0
_NOT_ASLEEP_S = float("inf")
_LONGEST_LOOK_S = 1.0
_LOOK_EVERY_S = 0.001
_LINGER_S = 1.0  # of the thread with nothing to do: programs take and release often


class Holding:
    """What one connection holds. Threads share it."""

    def __init__(self, connection: StoreConnection) -> None:
        self._connection = connection
        self._begin()
        _holdings.add(self)

    def _begin_in_child(self) -> None:
        self._sleep.close()
        self._begin()

    def _begin(self) -> None:
        """The state of a new process: nothing is held."""
        self._lock = ReentrantLock()
        self._at_work = ReentrantLock()  # of the thread, while it may use a pipe
        self._runs = False
        self._sleep = Sleep()  # of the thread
        self._answers = True  # whether a coordinator has answered the last renewal
        self._sleeps_until_s = _NOT_ASLEEP_S  # the thread (monotonic); who needs it earlier wakes it
        self._renewed_s = 0.0  # long ago: the thread begins with a renewal, which attaches its channel
        self._channel = Channel()  # the thread's own
        self._held: dict[int, float] = {}  # by ticket: the ttl in seconds
        self._undone: dict[int, Operation] = {}  # by ticket: what undoes what may have been given
        self.free_tickets: list[tuple[int, int]] = []

    @property
    def holder(self) -> int:
        """The id of this database in this process."""
        return self._connection.database_id

    def acquire(
        self,
        ticket: int,
        operation: Operation,
        undo: Operation,
        ranges: list[tuple[bytes, bytes]],
        ttl_s: float,
        give_up_s: float,
    ) -> Any:
        """Perform ``operation``, in line until ``give_up_s`` (monotonic); its result. It is held from then on.

        Raises what the operation raises, then nothing is held; and ``CoordinatorLostError``, ``StoreMovedError`` or
        ``InvalidOperationError``, then ``undo`` is performed as soon as that is possible.
        """
        self._connection.check_writable()
        asked_us = int(time.monotonic() * 1e6)  # the same under each coordinator: it keeps the place in line
        in_doubt: Operation | None = None
        try:
            self._keep(ticket, ttl_s)
            in_doubt = undo
            answer = ask_and_wait(
                self._connection, "in_line", lambda left_ms: [ranges, left_ms, asked_us], give_up_s, operation, undo
            )
            status, _, details = answer
            failure = self._connection.failure(status, details)
            if failure is not None:  # nothing was given
                in_doubt = None
                raise failure
            return details[0]
        except BaseException:
            self._drop(ticket, in_doubt)
            raise

    def release(self, ticket: int, undo: Operation) -> None:
        """Perform ``undo``: no longer held. Nothing happens in a closed database, which has ended all that it held."""
        if self._connection.is_closed:
            return
        try:
            self._perform(undo)
            self._drop(ticket, None)
        except BaseException:
            self._drop(ticket, undo)
            raise

    def release_later(self, ticket: int, undo: Operation) -> None:
        """Have the thread perform ``undo``, which may have been performed already."""
        self._drop(ticket, undo)

    def forget(self, ticket: int) -> None:
        """It was released by a commit of the caller's own, or is lost."""
        self._drop(ticket, None)

    def see_ends(self) -> None:
        """Return when the coordinator has released what belonged to those that have ended by now, or after a second."""
        with contextlib.suppress(CoordinatorLostError):  # reads go on without one
            self._connection.ask("ages", [], _LONGEST_LOOK_S)

    def ages_ms(self, holders: list[int]) -> list[int | None]:
        """How long ago the last sign of life of each holder was, in ms; None of one that holds nothing."""
        ages: list[int] = self._connection.ask("ages", holders)
        return [None if age < 0 else age for age in ages] or [None] * len(holders)

    def finish(self) -> None:
        """The database is about to be closed. Wait until the thread has undone what is in doubt, a second at most."""
        _look_until(lambda: not (self._undone and self._runs))

    def close(self) -> None:
        """The database is closed: the thread ends. Wait until it uses no pipe any more, for a second at most."""
        self._wake_thread()
        if _look_until(lambda: self._at_work.acquire(False)):
            self._at_work.release()

    def _perform(self, operation: Operation) -> None:
        mutations = wire_request.encode_mutations([], None, [operation])
        self._connection.submit(0, 0, wire_request.NO_READS, mutations)

    def _keep(self, ticket: int, ttl_s: float) -> None:
        with self._lock:
            self._held[ticket] = ttl_s
            now_s = time.monotonic()
            if not self._runs:
                self._sleep = Sleep()
                started = _run, (weakref.ref(self), self._sleep)
                self._runs = True  # first: an exception of a signal handler after the start must not hide the thread
                try:
                    thread.start_new_thread(*started)
                except RuntimeError:  # no thread can be started
                    self._runs = False
                    raise
            elif now_s + ttl_s / _RENEWALS_PER_TTL < self._sleeps_until_s:
                self._wake_thread()

    def _drop(self, ticket: int, in_doubt: Operation | None) -> None:
        with self._lock:
            self._held.pop(ticket, None)
            if in_doubt is not None and self._runs:
                self._undone[ticket] = in_doubt
                self._wake_thread()

    def _wake_thread(self) -> None:
        with self._lock:
            if self._runs:
                self._sleep.wake()

    def _work(self, idle_until_s: float, came_loose: bool) -> float | None:
        """Renew and undo what is due; seconds until the next time, None if the thread is not needed any more.

        ``came_loose``: the coordinator has ended, as it seems, so a renewal is due.
        """
        with self._lock:
            self._sleeps_until_s = _NOT_ASLEEP_S
            undone, held = dict(self._undone), list(self._held.values())
            if self._connection.is_closed or not (undone or held or time.monotonic() < idle_until_s):
                self._runs = False
                return None
        pause_s = min(held, default=_LINGER_S * _RENEWALS_PER_TTL) / _RENEWALS_PER_TTL
        try:
            for ticket, operation in undone.items():
                self._undo(ticket, operation)
            if held and (came_loose or time.monotonic() >= self._renewed_s + pause_s):
                self._renewed_s = time.monotonic()
                self._answers = False
                # Commits of other threads take turns at the other channels: a long one must not hold up a sign of life.
                ask_and_wait(self._connection, "renew", lambda _left_ms: [], self._renewed_s, own=self._channel)
                self._answers = True
        except (InvalidOperationError, StoreMovedError):  # closed meanwhile, or not this store any more
            with self._lock:
                self._runs = False
            return None
        except (ShoalError, OSError, MemoryError):  # also one of a store that cannot be opened just now
            return min(pause_s, _LINGER_S)  # tried again
        left_s = self._renewed_s + pause_s - time.monotonic() if held else pause_s
        return float(min(max(left_s, 0.0), _LONGEST_PAUSE_S))

    def _undo(self, ticket: int, operation: Operation) -> None:
        try:
            self._perform(operation)
        except (CoordinatorLostError, StoreFullError, StoreMovedError, InvalidOperationError):
            raise
        except ShoalError:  # refused: what it would undo is not there
            pass
        self._undone.pop(ticket, None)


def _look_until(is_so: Callable[[], bool]) -> bool:
    """Whether it is so within ``_LONGEST_LOOK_S``. Other tasks of an event loop run meanwhile."""
    give_up_s = time.monotonic() + _LONGEST_LOOK_S
    while not is_so():
        if time.monotonic() >= give_up_s:
            return False
        tasks.sleep(_LOOK_EVERY_S, time)
    return True


def _run(reference: weakref.ref[Holding], sleep: Sleep) -> None:
    """The thread."""
    idle_until_s = 0.0
    came_loose = False
    try:
        while (holding := reference()) is not None:
            sleep.prepare()
            if holding._held:
                idle_until_s = time.monotonic() + _LINGER_S
            with holding._at_work:
                pause_s = holding._work(idle_until_s, came_loose)
            if pause_s is None:
                return
            holding._sleeps_until_s = time.monotonic() + pause_s
            if holding._answers:  # else the next attempt is after the pause
                sleep.watch(holding._connection.attachment)
            del holding
            came_loose = sleep.sleep(pause_s)
    finally:
        sleep.close()


_holdings: weakref.WeakSet[Holding] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for holding in list(_holdings):
        holding._begin_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

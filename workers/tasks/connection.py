"""A connection whose calls may run in tasks of one event loop, and in threads as well.

- The lock of a connection is held during an exchange. A task never takes it: it has a channel of its own while its
  commit is under way, as a request that waits for long has one (``borrow``), and at most ``_MOST_CHANNELS`` tasks have
  one at a time. The others wait in the order in which they came.
- Single writes and operations read nothing. They go through one shared channel, and share its writes (``sharing``).
- To attach, which may start a coordinator, takes the lock and may take seconds: a thread does it, for one task after
  the other.
- What a task does to the list of idle channels is one step of Python (``pop``, ``append``). Only the thread of the loop
  does it, and threads that hold the lock.
- Hundreds of tasks that wait at once leave as many idle channels. Those that nobody has needed for ``_SURPLUS_S`` are
  dropped, which closes their pipes.
"""

from __future__ import annotations

import asyncio
import weakref
from functools import partial
from typing import Any

from shoal.shm.errors import InvalidOperationError, no_memory_to_send
from shoal.shm.files.epoch_file import EpochWord
from shoal.shm.host.tasks import TaskPoller
from shoal.shm.host.unpatched import time
from shoal.shm.host.waiting import Lookout
from shoal.shm.wire import request as wire_request
from shoal.shm.wire.handshake import Welcome
from shoal.workers.shared_memory.attachment import Attachment
from shoal.workers.shared_memory.channel import Channel, commit_through
from shoal.workers.shared_memory.connection import StoreConnection
from shoal.workers.shared_memory.read_only import ReadOnlyConnection
from shoal.workers.tasks.greenlets import Greenlet, Outcome, in_thread, running
from shoal.workers.tasks.sharing import SharedChannel, none_reached

_MOST_CHANNELS = 8
_SURPLUS_S = 10.0
_DROPPED_TOGETHER = 64  # the loop waits meanwhile
_MOST_SHARED_BYTES = 64 * 1024  # a larger commit would keep those behind it waiting


class _Poller:
    """Waits for the answer pipe of an attachment, in a task or in a thread."""

    __slots__ = ("_fd", "_in_thread")

    def __init__(self, attachment: Attachment) -> None:
        self._fd = attachment.answer_fd
        self._in_thread = attachment.poller

    def poll(self, timeout_ms: float) -> Any:
        task = running()
        if task is None:
            return self._in_thread.poll(timeout_ms)
        return TaskPoller(task, self._fd, writing=False).poll(timeout_ms)


class TaskConnection(StoreConnection):
    """Calls in a task wait in its event loop; calls in a thread wait as ever."""

    def _begin(self) -> None:
        super()._begin()
        self._loop: asyncio.AbstractEventLoop | None = None  # a forked child has one of its own
        self._attaching = asyncio.Lock()
        self._turns = asyncio.Semaphore(_MOST_CHANNELS)
        self._under_way: set[Channel] = set()
        self._arrival: Outcome[Attachment] | None = None
        self._shared: SharedChannel | None = None
        self._least_idle = 0  # the fewest idle channels since ``_drop_surplus_later``, as far as ``borrow`` has seen
        self._drops_surplus = False  # soon

    def current(self) -> Attachment:
        """The attachment to read from now."""
        attachment = self.attachment
        if attachment.is_current():
            return attachment
        task = running()
        if task is None:
            return super().current()
        self._check_loop(task)
        arrival = self._arrival
        if arrival is None or arrival.is_there:
            self._arrival = arrival = in_thread(task.loop, super().current)
        return task.wait_for(arrival)

    def submit_one(self, snapshot: int, valid_until_ms: int, reads: bytes, mutations: bytes) -> tuple[int, list[Any]]:
        """``submit`` of one write or one operation: through the channel that all tasks share."""
        task = running()
        if task is None or len(mutations) > _MOST_SHARED_BYTES:
            return self.submit(snapshot, valid_until_ms, reads, mutations)
        self._check_loop(task)
        self.check_writable()
        if self._shared is None:
            self._shared = SharedChannel(self, task.loop)
        return self._shared.submit(task, mutations)

    def attach_apart(self, channel: Channel, in_flight: bool) -> Attachment:
        """Attach a channel that is used without the lock."""
        task = running()
        if task is None:
            return super().attach_apart(channel, in_flight)
        task.acquire(self._attaching)
        try:
            try:
                arrival = in_thread(task.loop, partial(super().attach_apart, channel, in_flight))
            except RuntimeError as error:  # no thread can be started now
                if in_flight:
                    raise none_reached(self, error) from error
                raise
            return task.wait_for(arrival)
        finally:
            self._attaching.release()

    def borrow(self) -> Channel:
        """A channel for a request that may wait for long."""
        task = running()
        if task is None:
            return super().borrow()
        self._check_loop(task)
        self._check_here()
        channel = self._take()
        self._least_idle = min(self._least_idle, len(self._idle))
        return channel

    def give_back(self, channel: Channel) -> None:
        """Put a borrowed channel back after its answer."""
        task = running()
        if task is None:
            super().give_back(channel)
            return
        self._put_back(channel)
        if not self._drops_surplus:
            self._drop_surplus_later(task.loop)

    def _drop_surplus_later(self, loop: asyncio.AbstractEventLoop) -> None:
        if len(self._idle) > _MOST_CHANNELS:
            self._drops_surplus, self._least_idle = True, len(self._idle)
            loop.call_later(_SURPLUS_S, _drop_surplus_of, weakref.ref(self), loop)

    def _drop_surplus(self, loop: asyncio.AbstractEventLoop) -> None:
        """Drop channels that were idle all the time, the longest idle first, but for the one that is read through."""
        self._drops_surplus = False
        surplus = min(self._least_idle, len(self._idle)) - _MOST_CHANNELS
        for _ in range(min(surplus, _DROPPED_TOGETHER)):
            channel = self._idle.pop(0)
            if channel.attachment is self.attachment:
                self._idle.append(channel)
        self._drop_surplus_later(loop)

    def close(self) -> None:
        """Give everything back without waiting."""
        if self._shared is not None:
            self._shared.let_go()
        super().close()

    def _exchange(
        self, snapshot: int, valid_until_ms: int, reads: bytes, mutations: bytes, timeout_s: float
    ) -> tuple[int, int, Any]:
        task = running()
        if task is None:
            return super()._exchange(snapshot, valid_until_ms, reads, mutations, timeout_s)
        self._check_loop(task)
        task.wait(self._turns.acquire())
        channel = self._take()
        try:
            give_up_s = time.monotonic() + timeout_s
            self._check_here()
            channel.commit_id += 1
            try:
                commit_id = channel.commit_id
                message = wire_request.framed_request(commit_id, snapshot, valid_until_ms, reads, mutations)
            except MemoryError as error:
                raise no_memory_to_send(f"a commit of {len(reads) + len(mutations):,} bytes") from error
            self._under_way.add(channel)
            answer = task.finish(self._commit_in_task, channel, message, give_up_s)
            self._put_back(channel)
            return answer
        finally:
            self._under_way.discard(channel)
            self._turns.release()

    def _commit_in_task(self, channel: Channel, message: bytes, give_up_s: float) -> tuple[int, int, Any]:
        def attach(channel: Channel, in_flight: bool, give_up_s: float) -> Attachment:
            return self.attach_apart(channel, in_flight)

        return commit_through(channel, message, attach, self.timeout_s, give_up_s)

    def _check_loop(self, task: Greenlet) -> None:
        loop = task.loop
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise InvalidOperationError(
                f"the database {self.directory} is used by tasks of another event loop; open it once in each loop"
            )

    def _is_usable(self) -> bool:
        return super()._is_usable() or any(channel.attachment is self.attachment for channel in self._under_way.copy())

    def _admitted(self, welcome: Welcome, epoch: EpochWord) -> Attachment:
        attachment = super()._admitted(welcome, epoch)
        attachment.poller = _Poller(attachment)
        attachment.lookout = Lookout(looks=False)
        return attachment


def _drop_surplus_of(connection: weakref.ref[TaskConnection], loop: asyncio.AbstractEventLoop) -> None:
    if (alive := connection()) is not None:
        alive._drop_surplus(loop)


class ReadOnlyTaskConnection(ReadOnlyConnection, TaskConnection):
    """The same for a store that is only read."""

    submit_one = ReadOnlyConnection.submit

    def ask(self, name: str, arguments: list[Any], timeout_s: float = float("inf")) -> Any:
        """Send a control request. A thread does it, because it may find that the store is at rest by now."""
        task = running()
        if task is None:
            return super().ask(name, arguments, timeout_s)
        return task.wait_for(in_thread(task.loop, partial(super().ask, name, arguments, timeout_s)))

"""One channel for the single commits of all tasks: they are sent together, and the loop reads the answers.

It is a pipelined client (``coordinator.commit.pipelining``), so the same holds as for a pipeline: commits are decided
in the order in which they were sent, each exactly once, over the death of coordinators too. Invariants:

- Everything happens in the thread of the loop, in its callbacks and tasks. Only attaching is done by a thread.
- ``_in_flight`` holds what is unanswered, in order. Commit ids follow each other without gaps.
- What tasks submit in one turn of the loop is sent by one write in its next turn. ``_unsent`` holds what the pipe did
  not take, so the loop is not blocked by a pipe that is full.
- When the coordinator has gone, all of ``_in_flight`` is sent again to the next one. The old pipes stay open until then
  (``_former``): a living coordinator that saw their end would forget the outcomes.
- A coordinator drops a client whose answers, unread, take too much room. Such answers are large ones, so then the
  commits in flight are sent one by one.
- After an answer of no room, nothing is sent until all in flight is answered: those behind it are refused, too.
- If no coordinator answers in time, or two in a row died at the same commit, nobody knows which commits in flight are
  done: they fail, and later commits go through a channel with another id.
- A task that does not wait for its answer any more changes nothing: the commit is sent, and its answer is dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, NamedTuple

from shoal.shm.errors import CoordinatorLostError, InvalidOperationError, StoreFullError
from shoal.shm.host import pipe_signal
from shoal.shm.host.unpatched import os, time
from shoal.shm.limits import DROPPED_PAUSE_S
from shoal.shm.wire import answer as wire_answer
from shoal.shm.wire import request as wire_request
from shoal.shm.wire.frames import FrameError
from shoal.workers.shared_memory.attachment import Attachment
from shoal.workers.shared_memory.channel import Channel, DeathsAtOneCommit, no_answer
from shoal.workers.shared_memory.connection import StoreConnection
from shoal.workers.tasks.greenlets import Greenlet, Outcome, in_thread

_DEPTH = 256  # of the client sessions, which the coordinator keeps for all clients

Decided = tuple[int, list[Any]]  # the version of a commit, and the results of its operations


class _Sent(NamedTuple):
    """A commit in flight."""

    commit_id: int
    message: bytes  # framed
    outcome: Outcome[Decided]


def none_reached(connection: StoreConnection, error: Exception) -> CoordinatorLostError:
    """The error for commits in flight whose coordinator has died, when no thread can be started to attach anew."""
    return CoordinatorLostError(
        f"the coordinator of {connection.directory} died before it answered, and none can be reached ({error}); "
        "see which limit of processes and threads is reached; a read shows whether this commit is done"
    )


class SharedChannel:
    """Belongs to one connection and one event loop."""

    def __init__(self, connection: StoreConnection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self._room = asyncio.Semaphore(_DEPTH - 1)  # ids in flight are less than the depth apart
        self._drained: Outcome[None] | None = None  # there while a commit that found no room has others behind it
        self._in_flight: deque[_Sent] = deque()
        self._unsent = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._give_up_s = 0.0  # monotonic
        self._flushes = self._attaches = False
        self._begin()

    def _begin(self) -> None:
        self._channel = Channel(_DEPTH)
        self._attachment: Attachment | None = None
        self._former: Attachment | None = None
        self._one_by_one = False  # nothing is sent but the oldest, until all in flight is answered
        self._answered = 0  # the id of the last commit whose answer was read
        self._deaths = DeathsAtOneCommit()

    def submit(self, task: Greenlet, mutations: bytes) -> Decided:
        """Commit; version and results. Raises what the commit failed with."""
        wire_request.check_size(len(mutations))
        task.wait(self._room.acquire())
        try:
            self._wait_until_drained(task)
            self._connection.check_writable()
            sent = self._enqueue(mutations)
        except BaseException:
            self._room.release()
            raise
        decided: Decided = task.finish(task.wait_for, sent.outcome)
        return decided

    def _wait_until_drained(self, task: Greenlet) -> None:
        while self._drained is not None:
            task.wait_for(self._drained)

    def let_go(self) -> None:
        """The database is being closed. What is in flight goes on until it is answered."""
        if not self._in_flight:
            self._detach()

    def _enqueue(self, mutations: bytes) -> _Sent:
        """Have a commit sent. All calls come first: a signal handler may raise in each; then nothing is enqueued."""
        if not self._flushes:
            self._loop.call_soon(self._flush)
            self._flushes = True  # after the call: if it is not scheduled, the next commit does it
        commit_id = self._channel.commit_id + 1
        # The snapshot of a commit that reads nothing has no other use: it says which answer was read last.
        message = wire_request.framed_request(commit_id, self._answered, 0, wire_request.NO_READS, mutations)
        sent = _Sent(commit_id, message, Outcome())
        self._channel.commit_id = commit_id
        if self._attachment is not None and not (self._one_by_one and self._in_flight):
            self._unsent += message
        self._in_flight += (sent,)
        return sent

    def _flush(self) -> None:
        """Send what was enqueued in this turn of the loop."""
        self._flushes = False
        if self._timer is None and self._in_flight:  # only now: the turn before may have taken long
            self._give_up_s = time.monotonic() + self._connection.timeout_s
            self._timer = self._loop.call_later(self._connection.timeout_s, self._look_at_time)
        if self._attachment is None:
            self._attach()
        elif self._unsent:
            self._write(self._attachment)

    def _write(self, attachment: Attachment) -> None:
        try:
            written = pipe_signal.write(attachment.request_fd, self._unsent)
        except BlockingIOError:
            written = 0
        except BrokenPipeError:
            self._coordinator_gone(attachment)
            return
        del self._unsent[:written]
        if self._unsent:
            self._loop.add_writer(attachment.request_fd, self._write, attachment)
        else:
            self._loop.remove_writer(attachment.request_fd)

    def _read(self, attachment: Attachment) -> None:
        """Take in the answers that have come."""
        try:
            data = os.read(attachment.answer_fd, attachment.buffer.wanted_bytes)
        except BlockingIOError:
            return
        if not data:
            self._coordinator_gone(attachment)
            return
        try:
            for message in attachment.buffer.feed(data):
                self._take(*wire_answer.decode_answer(message))
        except FrameError as error:
            self._fail(error)
        if not self._in_flight and self._connection.is_closed:
            self._detach()

    def _take(self, commit_id: int, status: int, version: int, details: Any) -> None:
        """Give the oldest commit in flight its answer; one that is not of it was given out before."""
        if not self._in_flight or self._in_flight[0].commit_id != commit_id:
            return
        self._answered = commit_id
        self._give_up_s = time.monotonic() + self._connection.timeout_s
        failure = self._connection.failure(status, details)
        if isinstance(failure, StoreFullError) and self._drained is None and len(self._in_flight) > 1:
            self._drained = Outcome()
        self._settle((version, details) if failure is None else None, failure)

    def _settle(self, decided: Decided | None, error: Exception | None) -> None:
        self._in_flight.popleft().outcome.settle(decided, error)
        self._room.release()
        if self._in_flight and self._one_by_one and self._attachment is not None:
            self._unsent += self._in_flight[0].message
            self._write(self._attachment)
        if not self._in_flight:
            self._one_by_one = False
            if self._drained is not None:
                self._drained.settle(None)
                self._drained = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _look_at_time(self) -> None:
        """All in flight fails if there was no answer for the timeout of the database."""
        self._timer = None
        left_s = self._give_up_s - time.monotonic()
        if self._in_flight and left_s <= 0 and not self._attaches:
            attachment = self._attachment or self._former
            pid = attachment.coordinator_pid if attachment is not None else 0
            self._fail(no_answer(pid, self._connection.timeout_s))
        elif self._in_flight:
            self._timer = self._loop.call_later(max(left_s, DROPPED_PAUSE_S), self._look_at_time)

    def _attach(self) -> None:
        """Attach, for the first time or again, and send all that is unanswered."""
        if self._attaches or not self._in_flight:
            return
        channel, in_flight = self._channel, self._former is not None
        try:
            arrival = in_thread(self._loop, lambda: self._connection.attach_apart(channel, in_flight))
        except RuntimeError as error:  # no thread can be started now; the next commit tries again
            self._fail(none_reached(self._connection, error) if in_flight else error)
            return
        self._attaches = True
        arrived = self._loop.create_future()
        arrival.waiting.append(arrived)
        arrived.add_done_callback(lambda _: self._arrived(arrival))

    def _arrived(self, arrival: Outcome[Attachment]) -> None:
        self._attaches = False
        attachment = arrival.value
        if attachment is None:
            self._fail(
                arrival.error if isinstance(arrival.error, Exception) else CoordinatorLostError(str(arrival.error))
            )
            return
        attachment.in_use = True  # until ``_detach``: ``Database.close`` sets why_closed, then leaves the pipes to this
        if attachment.why_closed:
            attachment.close_pipes()
            self._fail(InvalidOperationError(attachment.why_closed))
            return
        was_dropped = self._former is not None and self._former.serves == attachment.serves
        self._former = self._attachment = attachment
        if not was_dropped:
            self._give_up_s = time.monotonic() + self._connection.timeout_s
        self._one_by_one = self._one_by_one or was_dropped
        again = [self._in_flight[0]] if self._one_by_one else self._in_flight
        self._unsent = bytearray(b"".join([sent.message for sent in again]))
        self._loop.add_reader(attachment.answer_fd, self._read, attachment)
        self._write(attachment)

    def _coordinator_gone(self, attachment: Attachment) -> None:
        attachment.lost = True
        self._forget_pipes()
        if not self._in_flight:
            return
        reason = self._deaths.note(attachment)
        if reason is None:
            self._loop.call_later(DROPPED_PAUSE_S if attachment.is_current() else 0.0, self._attach)
        else:
            self._fail(reason)

    def _fail(self, error: Exception) -> None:
        """Nobody knows what becomes of the commits in flight: they have failed, and another channel is begun."""
        self._detach()
        while self._in_flight:
            self._settle(None, error)
        self._begin()

    def _forget_pipes(self) -> None:
        attachment = self._attachment
        self._attachment = self._channel.attachment = None
        self._unsent.clear()
        if attachment is not None:
            self._loop.remove_reader(attachment.answer_fd)
            self._loop.remove_writer(attachment.request_fd)

    def _detach(self) -> None:
        former = self._former
        self._forget_pipes()
        self._former = None
        if former is not None:
            former.in_use = False
            if former.why_closed:
                former.close_pipes()

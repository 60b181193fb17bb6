"""A pipeline: commits that are sent without waiting for the answers, decided in the order in which they were sent.

Invariants:

- It is a client of its own at the coordinator, with an id and a pair of pipes. Commit ids rise, and those in flight are
  less than ``depth`` apart: the coordinator remembers the outcome of each (``coordinator.commit.pipelining``).
- ``_in_flight`` holds what is unanswered, in order. A commit is in it before its first byte is written, and leaves it
  after its future has the answer.
- ``_attachment`` is set only while everything in flight is in its pipes whole, and no answer was taken from them and
  not given out. Every step takes it out first and puts it back last. So whatever comes between (the coordinator dies, a
  signal handler raises), the next step finds none, attaches again, and sends all of ``_in_flight`` again, in one write.
  The coordinator answers those that are done, and has dropped the old pipes of this client with what was in them.
- The old pipes stay open until then (``_former``): if a living coordinator saw their end, it would forget the outcomes.
- Answers come in the order of the commits. One that is not of the oldest in flight was given out before.
- Answers are read by the call that finds no room for another commit, by ``result`` and ``exception`` of a future, by a
  thread while somebody waits in another way, and at the end. One read takes all that have come.
- If no coordinator answers in time, or two in a row died at the same commit, nobody knows which of those in flight
  are done: their futures, and every later call, raise ``CoordinatorLostError``.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from shoal.shm.errors import CoordinatorLostError, InvalidOperationError, ShoalError, StoreFullError, no_memory_to_send
from shoal.shm.host.unpatched import ReentrantLock, thread, time
from shoal.shm.limits import ANSWER_SPIN_S, DROPPED_PAUSE_S, MAX_PIPELINE_DEPTH, PIPELINE_BYTES
from shoal.shm.wire import answer as wire_answer
from shoal.shm.wire import request as wire_request
from shoal.shm.wire.frames import FrameError
from shoal.shm.wire.pipe_messages import read_message, write_all
from shoal.workers.shared_memory.attachment import Attachment
from shoal.workers.shared_memory.channel import Channel, DeathsAtOneCommit, no_answer
from shoal.workers.shared_memory.connection import StoreConnection
from shoal.workers.shared_memory.pipelined_future import PipelinedFuture, Sent

_ONE_LOOK_S = 0.00005  # at a pipe whose answers are taken without waiting
_BACKGROUND_PAUSE_S = 0.001  # meanwhile the pipeline can be filled; then nothing is sent until all is answered


class EnginePipeline:
    """The engine of a pipeline, see ``primitives.engine``. ``finish`` ends it. Threads may share it."""

    def __init__(self, connection: StoreConnection, depth: int) -> None:
        connection.check_writable()
        self._connection = connection
        self._depth = min(depth, MAX_PIPELINE_DEPTH)
        self._channel = Channel(max(2, self._depth))
        self._attachment: Attachment | None = None
        self._former: Attachment | None = None
        self._in_flight: deque[Sent] = deque()
        self._end = 0
        self._answered = 0  # the id of the last commit whose answer was read
        self._first_error: BaseException | None = None
        self._lost: Exception | None = None  # why this pipeline sends nothing any more
        self._is_over = self._is_exchanging = self._reads_in_background = False
        self._drains = False  # a commit found no room: those behind it are refused until nothing is in flight
        self._deaths = DeathsAtOneCommit()
        self._give_up_s = 0.0  # monotonic
        self._pid = os.getpid()
        self._lock = ReentrantLock()

    def put(self, key: bytes, value: bytes, expires_ms: int = 0) -> Future[None]:
        """Send a write."""
        return self._send(wire_request.encode_mutations([key, value, expires_ms]), None)

    def perform(self, name: str, arguments: list[Any], convert: Callable[[Any], Any] | None = None) -> Future[Any]:
        """Send an operation. The result of the future is the operation's, or what ``convert`` makes of it."""
        mutations = wire_request.encode_mutations([], None, [(name, arguments)])
        return self._send(mutations, convert)

    def finish(self) -> BaseException | None:
        """Wait for all answers and end; the error of the earliest commit that failed, or None."""
        self._check_process()
        with self._lock:
            if not self._is_over:
                try:
                    self._read_until(lambda: not self._in_flight)
                finally:
                    self._is_over = True
                    if self._in_flight:
                        self._fail(CoordinatorLostError("the wait for the pipeline's answers was interrupted"))
                    self._let_go()
            return self._first_error

    def wait_for(self, future: PipelinedFuture, timeout_s: float | None) -> None:
        """Read answers until ``future`` has its own, or for ``timeout_s`` seconds."""
        self._check_process()
        until_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        if self._lock.acquire(True, -1 if timeout_s is None else min(max(timeout_s, 0.0), thread.TIMEOUT_MAX)):
            try:
                self._read_until(future.is_answered, until_s)
            finally:
                self._lock.release()

    def take_what_came(self) -> None:
        """Take in answers that have come, unless another call reads them now."""
        if self._pid == os.getpid() and self._lock.acquire(False):
            try:
                if not self._is_exchanging:
                    self._read_until(lambda: not self._in_flight, time.monotonic())
            finally:
                self._lock.release()

    def read_in_background(self) -> None:
        """Read in a thread until nothing is in flight: somebody waits for a future without asking it."""
        if self._pid == os.getpid() and not self._reads_in_background:
            try:
                self._reads_in_background = True
                thread.start_new_thread(self._read_all, ())
            except BaseException:  # no thread can be started now, or a signal handler has raised: the next call tries
                self._reads_in_background = False
                raise

    def _read_all(self) -> None:
        time.sleep(_BACKGROUND_PAUSE_S)
        with self._lock:
            self._reads_in_background = False
            self._read_until(lambda: not self._in_flight)

    def _send(self, mutations: bytes, convert: Callable[[Any], Any] | None) -> PipelinedFuture:
        self._check_process()
        wire_request.check_size(len(mutations))
        with self._lock:
            self._check_usable()
            return self._enqueue_when_there_is_room(mutations, convert)

    def _enqueue_when_there_is_room(self, mutations: bytes, convert: Callable[[Any], Any] | None) -> PipelinedFuture:
        while (future := self._enqueue(mutations, convert)) is None:
            self._read_until(lambda: self._has_room(len(mutations)))
            if self._lost is not None:
                raise self._lost
        return future

    def _enqueue(self, mutations: bytes, convert: Callable[[Any], Any] | None) -> PipelinedFuture | None:
        """Send a commit; None if there is no room for it, or a signal handler has taken it."""
        self._check_not_exchanging()
        try:
            self._is_exchanging = True
            if not self._has_room(len(mutations)):
                return None
            channel = self._channel
            commit_id = channel.commit_id + 1
            try:
                # The snapshot of a commit that reads nothing has no other use: it says which answer was read last.
                message = wire_request.framed_request(commit_id, self._answered, 0, wire_request.NO_READS, mutations)
            except MemoryError as error:
                raise no_memory_to_send(f"a commit of {len(mutations):,} bytes") from error
            attachment = self._take_pipes()
            channel.commit_id = commit_id
            self._end += len(message)
            future = PipelinedFuture(self)
            self._give_up_s = time.monotonic() + self._connection.timeout_s
            self._in_flight.append(Sent(commit_id, message, self._end, future, convert))
            if attachment is None:
                self._attach()
            else:
                self._write(attachment, message)
        finally:
            self._is_exchanging = False
        return future

    def _has_room(self, size_bytes: int) -> bool:
        self._forget_answered()
        if not self._in_flight or self._drains:
            self._drains = self._drains and bool(self._in_flight)
            return not self._in_flight
        oldest = self._in_flight[0]
        bytes_in_flight = self._end - oldest.end + len(oldest.message)
        is_in_depth = self._channel.commit_id + 1 - oldest.commit_id < self._depth
        return is_in_depth and bytes_in_flight + size_bytes <= PIPELINE_BYTES

    def _read_until(self, is_enough: Callable[[], bool], until_s: float = math.inf) -> None:
        """Read answers until ``is_enough``, or until ``until_s`` (monotonic).

        All in flight fails if there is no answer for the timeout of the database.
        """
        self._give_up_s = time.monotonic() + self._connection.timeout_s
        while not is_enough():
            self._forget_answered()
            if not self._in_flight:
                return
            self._check_not_exchanging()
            try:
                self._is_exchanging = True
                attachment = self._take_pipes()
                if attachment is None:
                    self._attach()
                    continue
                message = self._read(attachment, min(self._give_up_s, until_s))
            finally:
                self._is_exchanging = False
            if message is not None:
                self._take_all(attachment, message)
            elif self._attachment is attachment:  # nothing came in time
                now_s = time.monotonic()
                if now_s >= self._give_up_s:
                    self._fail(no_answer(attachment.coordinator_pid, self._connection.timeout_s))
                elif now_s >= until_s:
                    return

    def _read(self, attachment: Attachment, until_s: float) -> bytes | None:
        """The next answer; None at ``until_s``, or if the coordinator has gone: then the pipes are not put back."""
        look_s = min(ANSWER_SPIN_S, max(_ONE_LOOK_S, until_s - time.monotonic()))
        try:
            message = read_message(
                *(attachment.answer_fd, attachment.poller, attachment.buffer, attachment.ready, attachment.lookout),
                *(look_s, until_s),
            )
        except TimeoutError:
            self._attachment = attachment
            return None
        except (BrokenPipeError, EOFError):
            self._coordinator_gone(attachment)
            return None
        self._attachment = attachment
        return message

    def _take_all(self, attachment: Attachment, message: bytes) -> None:
        """Give out an answer and those that came with it. A callback of a future may use the pipeline meanwhile."""
        try:
            self._take(message)
            while attachment.ready:
                self._take(attachment.ready.pop(0))
        except BaseException:
            self._attachment = None
            raise

    def _take(self, message: bytes) -> None:
        """Give the oldest commit in flight its answer."""
        self._forget_answered()
        try:
            commit_id, status, _, details = wire_answer.decode_answer(message)
        except FrameError as error:
            self._fail(error)
            return
        if not self._in_flight or self._in_flight[0].commit_id != commit_id:
            return
        sent = self._in_flight[0]
        self._answered = commit_id
        self._give_up_s = time.monotonic() + self._connection.timeout_s
        failure = self._connection.failure(status, details)
        if failure is not None:
            self._first_error = self._first_error or failure
            self._drains = self._drains or isinstance(failure, StoreFullError)
            sent.future.set_exception(failure)
        else:
            result = details[0] if details else None
            sent.future.set_result(result if sent.convert is None else sent.convert(result))
        self._forget_answered()

    def _forget_answered(self) -> None:
        while self._in_flight and self._in_flight[0].future.is_answered():
            self._in_flight.popleft()

    def _take_pipes(self) -> Attachment | None:
        """The attachment, which the caller puts back when its step is done."""
        attachment = self._attachment
        if attachment is not None:
            self._former = attachment
        self._attachment = None
        return attachment

    def _attach(self) -> None:
        """Attach, for the first time or again, and send what is unanswered."""
        former = self._former
        try:
            attachment = self._connection.attach_apart(self._channel, former is not None)
        except (ShoalError, OSError) as error:
            self._fail(error)
            return
        # Until the end: ``Database.close`` sets why_closed, then leaves the pipes to the pipeline.
        attachment.in_use = True
        if attachment.why_closed:
            attachment.close_pipes()
            self._fail(InvalidOperationError(attachment.why_closed))
            return
        if former is not None and former.serves == attachment.serves:
            time.sleep(DROPPED_PAUSE_S)
        else:
            self._give_up_s = time.monotonic() + self._connection.timeout_s
        self._former = attachment
        self._write(attachment, b"".join([sent.message for sent in self._in_flight]))

    def _write(self, attachment: Attachment, data: bytes) -> None:
        try:
            write_all(attachment.request_fd, data, self._give_up_s)
        except BrokenPipeError:
            self._coordinator_gone(attachment)
        except TimeoutError:
            self._fail(no_answer(attachment.coordinator_pid, self._connection.timeout_s))
        else:
            self._attachment = attachment

    def _coordinator_gone(self, attachment: Attachment) -> None:
        attachment.lost = True
        reason = self._deaths.note(attachment)
        if reason is None and time.monotonic() >= self._give_up_s:  # dropped again and again
            reason = no_answer(attachment.coordinator_pid, self._connection.timeout_s)
        if reason is not None:
            self._fail(reason)

    def _fail(self, error: Exception) -> None:
        """Nobody knows what becomes of the commits in flight: they have failed, and nothing more is sent."""
        self._lost = self._lost or error
        self._first_error = self._first_error or error
        while self._in_flight:
            self._forget_answered()
            if self._in_flight:
                self._in_flight[0].future.set_exception(error)

    def _let_go(self) -> None:
        """Detach, unless the connection reads from this attachment now."""
        attachment = self._attachment or self._former
        self._attachment = self._former = self._channel.attachment = None
        if attachment is not None:
            attachment.in_use = False
            if attachment.why_closed:
                attachment.close_pipes()

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise InvalidOperationError(
                "the pipeline belongs to the process that opened it, and this one was forked from it; open one here"
            )

    def _check_usable(self) -> None:
        if self._is_over:
            raise InvalidOperationError("the pipeline has ended; open another")
        if self._lost is not None:
            raise self._lost
        self._connection.check_writable()

    def _check_not_exchanging(self) -> None:
        if self._is_exchanging:
            raise InvalidOperationError(
                "a signal handler has interrupted a call of this pipeline; use the database there"
            )

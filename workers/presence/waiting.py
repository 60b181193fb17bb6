"""Requests that the coordinator answers when something happens: the thread sleeps in the kernel until then.

Such a request has a channel of its own meanwhile, so other threads commit through others. If the coordinator dies, the
request is sent to the next one, with the time that is left. Three things end a wait early:

- An exception of a signal handler. The channel is given up.
- ``close`` in another thread: the coordinator is made to see the end of the request pipe, and answers with the end of
  the other one.
- A fork: in the child there is no answer, as the pipes are the parent's.

In a program that has patched ``select`` (gevent, eventlet), its other tasks run meanwhile.
"""

from __future__ import annotations

import contextlib
import select as program_select
from collections.abc import Callable
from typing import Any

from shoal.shm.errors import InvalidOperationError
from shoal.shm.host import pipe_signal
from shoal.shm.host.unpatched import select, time
from shoal.shm.limits import ANSWER_SPIN_S
from shoal.shm.wire import answer as wire_answer
from shoal.shm.wire import request as wire_request
from shoal.shm.wire.pipe_messages import read_message, write_all
from shoal.workers.polling import AT_REST, poll
from shoal.workers.shared_memory.attachment import Attachment
from shoal.workers.shared_memory.channel import Answer, Channel, give_up, no_answer, not_sent_again
from shoal.workers.shared_memory.connection import StoreConnection

# A wait for longer is for ever: what a request can say, in ms.
_LONGEST_S = 1e12
Operation = tuple[str, list[Any]]


class _TasksPoller:
    """Waits for one descriptor with the ``select`` that the program has patched."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def poll(self, timeout_ms: float) -> list[int]:
        ready: list[int] = program_select.select([self._fd], [], [], timeout_ms / 1000)[0]
        return ready


def wait_for_change(
    connection: StoreConnection, ranges: list[tuple[bytes, bytes]], since: int, give_up_s: float
) -> bool:
    """Wait until something in ``ranges`` may have changed after version ``since``; False at ``give_up_s`` (monotonic).

    A store at rest, read into this process, changes when somebody serves it again: that is polled for.
    """
    if connection.is_at_rest():
        return poll(lambda: not connection.is_at_rest() or None, give_up_s, AT_REST) is not None
    _, _, (changed,) = ask_and_wait(connection, "wait", lambda ms: [since, ranges, ms], give_up_s)
    return bool(changed)


def ask_and_wait(
    connection: StoreConnection,
    name: str,
    arguments: Callable[[int], list[Any]],
    give_up_s: float,
    operation: Operation | None = None,
    undo: Operation | None = None,
    own: Channel | None = None,
) -> Answer:
    """Send the control request ``name`` and wait for its answer until ``give_up_s`` (monotonic).

    ``arguments`` are asked for with the ms left. ``undo`` is sent after the request if its answer is not waited for.
    ``own`` is a channel that no other thread uses; else one is borrowed. Raises ``CoordinatorLostError`` if no answer
    comes in time, and ``InvalidOperationError`` once the database is closed.
    """
    channel = connection.borrow() if own is None else own
    channel.commit_id += 1
    deaths, sent = 0, False
    while True:
        attachment = channel.attachment or connection.attach_apart(channel, sent and operation is not None)
        if connection.is_at_rest():
            return wire_answer.ANSWERED, 0, [1]  # nobody serves it any more: look again
        try:
            _begin_wait(attachment)
            mutations = _request(name, arguments, operation, give_up_s)
            _send(attachment, channel.commit_id, mutations, time.monotonic() + connection.timeout_s)
            sent = True
            look_s = ANSWER_SPIN_S if operation else 0.0  # often it is there at once; who sleeps is woken late
            answer = _answer_of(attachment, channel.commit_id, look_s, give_up_s + connection.timeout_s)
            attachment.in_use = attachment.waiting = False
            if own is None:
                connection.give_back(channel)
            return answer
        except (BrokenPipeError, EOFError):  # the coordinator has died, or this database was closed
            deaths += sent and attachment.slots.died_at_work()
            give_up(channel, attachment)
            if attachment.why_closed:
                raise InvalidOperationError(attachment.why_closed) from None
            reason = not_sent_again(attachment.is_parents, deaths)
            if reason is not None:
                raise reason from None
        except TimeoutError:
            _abandon(channel, attachment, undo)
            raise no_answer(attachment.coordinator_pid, connection.timeout_s) from None
        except BaseException:
            _abandon(channel, attachment, undo)
            raise
        finally:
            attachment.waiting = False
            del attachment  # the traceback of an exception must not keep its memory mapped


def _begin_wait(attachment: Attachment) -> None:
    attachment.in_use = attachment.waiting = True  # first: see ``commit_through``
    if attachment.why_closed:
        attachment.close_pipes()
        raise InvalidOperationError(attachment.why_closed)


def _request(name: str, arguments: Callable[[int], list[Any]], operation: Operation | None, give_up_s: float) -> bytes:
    left_s = min(max(0.0, give_up_s - time.monotonic()), _LONGEST_S)
    operations = None if operation is None else [operation]
    return wire_request.encode_mutations([], None, operations, (name, arguments(int(left_s * 1000 + 0.999))))


def _send(attachment: Attachment, commit_id: int, mutations: bytes, give_up_s: float) -> None:
    message = wire_request.framed_request(commit_id, 0, 0, wire_request.NO_READS, mutations)
    write_all(attachment.request_fd, message, give_up_s)


def _answer_of(attachment: Attachment, commit_id: int, look_s: float, give_up_s: float) -> Answer:
    is_patched = type(program_select.select) is not type(select.select)  # a function of Python in place of C's
    poller = _TasksPoller(attachment.answer_fd) if is_patched else attachment.poller
    look_s = 0.0 if is_patched else look_s
    while True:
        message = read_message(
            attachment.answer_fd, poller, attachment.buffer, attachment.ready, attachment.lookout, look_s, give_up_s
        )
        answered, status, version, details = wire_answer.decode_answer(message)
        if answered == commit_id:
            return status, version, details


def _abandon(channel: Channel, attachment: Attachment, undo: Operation | None) -> None:
    """Give up a request that may be answered still. ``undo`` follows it in the same pipe, so it is done after it."""
    if undo is not None and not attachment.is_parents and attachment.request_fd in attachment.pipes:
        # Less than PIPE_BUF: written whole or not at all.
        with contextlib.suppress(OSError):
            mutations = wire_request.encode_mutations([], None, [undo], ("leave", []))
            message = wire_request.framed_request(channel.commit_id + 1, 0, 0, wire_request.NO_READS, mutations)
            pipe_signal.write(attachment.request_fd, message)
    give_up(channel, attachment)

"""A channel: one client of a coordinator. It has an id, numbers its commits, and has at most one under way.

A commit is sent again until it is answered. If the coordinator dies, the next one is found or started, and the same
commit is sent to it with the same ids: from the log it knows whether the commit is done. Two things end this:

- The coordinator does not answer in time. It may be stopped or very slow, and may still do the commit later.
- Two coordinators died while they did this commit. The commit may be what kills them, so a third does not get it. A
  death while the commit waits for its turn, or for the disk, does not count: it may be a kill -9 at any time.

After any error the channel is given up, because the answer may still come and must not be taken for that of another
commit. The next commit gets a channel with another id.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from shoal.shm import limits
from shoal.shm.errors import CoordinatorLostError, InvalidOperationError, ShoalError
from shoal.shm.host.randomness import random_id
from shoal.shm.host.unpatched import time
from shoal.shm.limits import ANSWER_SPIN_S, CROWDED_ANSWER_SPIN_S, KEEP_PROCESSOR_S
from shoal.shm.memory.layout import W_CLIENTS
from shoal.shm.wire import answer as wire_answer
from shoal.shm.wire.pipe_messages import read_message, write_all
from shoal.workers.shared_memory.attachment import Attachment

_PROCESSORS = os.cpu_count() or 1
# (channel, whether a commit is in flight, when to give up (monotonic))
Attach = Callable[["Channel", bool, float], Attachment]
Answer = tuple[int, int, Any]  # status, version, details


class Channel:
    """A client's id, the number of its last commit, and the attachment whose pipes it uses (None: attach first).

    ``depth`` is how many commits it may have in flight: 1, but for that of a pipeline.
    """

    __slots__ = ("attachment", "client_id", "commit_id", "depth")

    def __init__(self, depth: int = 1) -> None:
        self.client_id = random_id()
        self.depth = depth
        self.commit_id = 0
        self.attachment: Attachment | None = None


def commit_through(channel: Channel, request: bytes, attach: Attach, timeout_s: float, give_up_s: float) -> Answer:
    """Send ``request``, the channel's commit number ``commit_id``, until it is answered: status, version and details.

    Raises ``CoordinatorLostError`` at ``give_up_s`` (monotonic), or ``timeout_s`` seconds after a coordinator has died.
    Whether the commit is done is unknown then.
    """
    commit_id = channel.commit_id
    deaths, sent_before = 0, False
    while True:
        attachment = channel.attachment or attach(channel, sent_before, give_up_s)
        sent = False
        try:
            attachment.in_use = True  # first: a thread that closes the database sets why_closed, then reads this
            if attachment.why_closed:
                attachment.close_pipes()
                raise InvalidOperationError(attachment.why_closed)
            write_all(attachment.request_fd, request, give_up_s)
            sent = True  # only now: a coordinator never does half a request
            look_s, keep_s = _looks_s(attachment)
            while True:
                message = read_message(
                    attachment.answer_fd,
                    attachment.poller,
                    attachment.buffer,
                    attachment.ready,
                    attachment.lookout,
                    look_s,
                    give_up_s,
                    keep_s,
                )
                answered, status, version, details = wire_answer.decode_answer(message)
                if answered == commit_id:
                    attachment.in_use = False
                    return status, version, details
        except (BrokenPipeError, EOFError):  # the coordinator has died, or dropped this client
            give_up(channel, attachment)
            sent_before = sent_before or sent
            deaths += sent and attachment.slots.died_at_work()
            reason = not_sent_again(attachment.is_parents, deaths)
            if reason is not None:
                raise reason from None
            give_up_s = time.monotonic() + timeout_s
        except TimeoutError:
            give_up(channel, attachment)
            raise no_answer(attachment.coordinator_pid, timeout_s) from None
        except BaseException:
            give_up(channel, attachment)
            raise
        finally:
            del attachment  # the traceback of an exception must not keep its memory mapped


def _looks_s(attachment: Attachment) -> tuple[float, float]:
    """How long to look before sleeping, and how long before this processor is offered to others meanwhile.

    Not at all where the coordinator may need it.
    """
    try:
        clients = attachment.segment.words[W_CLIENTS]
    except ValueError:  # another thread has closed the database during this commit
        return ANSWER_SPIN_S, 0.0
    if clients < _PROCESSORS:
        return ANSWER_SPIN_S, KEEP_PROCESSOR_S
    is_crowded = clients >= 2 * _PROCESSORS and attachment.durability != "strict"
    return min(ANSWER_SPIN_S, CROWDED_ANSWER_SPIN_S) if is_crowded else ANSWER_SPIN_S, 0.0


def give_up(channel: Channel, attachment: Attachment) -> None:
    """Use the pipes no more: half a message may be in either, or the answer may come late."""
    attachment.lost = True
    attachment.in_use = False
    channel.attachment = None


def not_sent_again(is_parents: bool, deaths: int) -> ShoalError | None:
    """Why a commit whose coordinator has died is not sent to the next; None if it is."""
    if is_parents:
        return InvalidOperationError(
            "the process was forked during this commit, which is its parent's; the child has to commit anew"
        )
    if deaths >= limits.MAX_DEATHS_PER_COMMIT:
        return CoordinatorLostError(
            f"{deaths} coordinators died while they did this commit, so it may be what ends them, and it is not sent "
            "again; see coordinator.log in the store; whether the commit is done shows there, too"
        )
    return None


class DeathsAtOneCommit:
    """How many coordinators died, one after the other, while they did the same commit of a pipeline."""

    __slots__ = ("_commit_id", "_count")

    def __init__(self) -> None:
        self._commit_id = self._count = 0

    def note(self, attachment: Attachment) -> ShoalError | None:
        """The coordinator has died. Why what is in flight is not sent to the next one; None if it is."""
        commit_id = attachment.slots.work_at_death()
        if commit_id:
            self._count = self._count + 1 if commit_id == self._commit_id else 1
            self._commit_id = commit_id
        return not_sent_again(attachment.is_parents, self._count)


def no_answer(coordinator_pid: int, timeout_s: float) -> CoordinatorLostError:
    """The error for commits that a coordinator has not answered in time."""
    return CoordinatorLostError(
        f"the coordinator, process {coordinator_pid}, does not answer: no answer for {timeout_s} s; "
        "see whether it is stopped; whether this commit is done shows when it goes on"
    )

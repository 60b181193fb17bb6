"""One client of a coordinator: it has an id, numbers its commits, and has one under way.

A commit is sent until it is answered. If the coordinator goes away, the next one is found or started, and the same
commit is sent to it with the same ids: it knows whether the log has it. What ends that:

- The coordinator does not answer in time. It may be stopped or very slow, and does the commit later, or not.
- Two coordinators died while they did this commit. It may be what kills them, so a third does not get it. Deaths while
  it waited for its turn, or for the disk, do not count: kill -9 at any moment is not the commit's fault.

After any error the channel is given up, as the answer may still come: no other commit may take it for its own. The
next commit gets a channel with another id.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from shoal.shm import limits
from shoal.shm.errors import CoordinatorLostError, InvalidOperationError
from shoal.shm.host.unpatched import time
from shoal.shm.limits import ANSWER_SPIN_S
from shoal.shm.wire import answer as wire_answer
from shoal.shm.wire.frames import read_message, write_all
from shoal.workers.shared_memory.attachment import Attachment

# (channel, whether a commit is in flight, when to give up (monotonic))
Attach = Callable[["Channel", bool, float], Attachment]


class Channel:
    """An id, the number of the last commit, and the attachment whose pipes it uses, None before the first commit."""

    __slots__ = ("attachment", "client_id", "commit_id")

    def __init__(self) -> None:
        self.client_id = secrets.randbits(62) + 1
        self.commit_id = 0
        self.attachment: Attachment | None = None


def commit_through(
    channel: Channel, request: bytes, attach: Attach, timeout_s: float, give_up_s: float
) -> tuple[int, int, Any]:
    """Send the channel's last commit: status, version and details of the answer.

    CoordinatorLostError if there is none until ``give_up_s`` (monotonic), or ``timeout_s`` seconds after a coordinator
    died. It leaves open whether the commit is done.
    """
    commit_id = channel.commit_id
    deaths = 0
    sent_before = False
    while True:
        attachment = channel.attachment
        if attachment is None:
            attachment = attach(channel, sent_before, give_up_s)
        sent = False
        try:
            attachment.in_use = True  # and lost, should anything interrupt this
            if attachment.why_closed:  # another thread has closed the database, and may not have seen the line above
                attachment.close_pipes()
                raise InvalidOperationError(attachment.why_closed)
            write_all(attachment.request_fd, request, give_up_s)
            sent = True  # and not before: half a request is never done
            while True:
                message = read_message(
                    attachment.answer_fd,
                    attachment.poller,
                    attachment.buffer,
                    attachment.ready,
                    attachment.lookout,
                    ANSWER_SPIN_S,
                    give_up_s,
                )
                answered, status, version, details = wire_answer.decode_answer(message)
                if answered == commit_id:
                    attachment.in_use = False
                    return status, version, details
        except (BrokenPipeError, EOFError):
            _give_up(channel, attachment)
            sent_before = sent_before or sent
            if attachment.is_parents:
                raise InvalidOperationError(
                    "the process was forked during this commit, which is its parent's; the child has to commit anew"
                ) from None
            deaths += sent and attachment.slots.died_at_work()
            if deaths >= limits.MAX_DEATHS_PER_COMMIT:
                raise CoordinatorLostError(
                    f"{deaths} coordinators died while they did this commit, so it may be what ends them, and it is "
                    "not sent again; see coordinator.log in the store; whether the commit is done shows there, too"
                ) from None
            give_up_s = time.monotonic() + timeout_s
        except TimeoutError:
            _give_up(channel, attachment)
            raise CoordinatorLostError(
                f"the coordinator, process {attachment.coordinator_pid}, does not answer: no answer for {timeout_s} s; "
                "see whether it is stopped; whether this commit is done shows when it goes on"
            ) from None
        except BaseException:
            _give_up(channel, attachment)
            raise
        finally:
            del attachment  # a traceback shall not keep it


def _give_up(channel: Channel, attachment: Attachment) -> None:
    """Half a message may be in either pipe, or the answer may come late: nobody uses them any more."""
    attachment.lost = True
    attachment.in_use = False
    channel.attachment = None

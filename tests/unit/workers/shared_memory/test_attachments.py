"""``LiveAttachments``: what is closed when, and by whom."""

from __future__ import annotations

import gc
import os
from typing import Any

import pytest

from shoal.shm.host import descriptors
from shoal.workers.shared_memory.attachments import LiveAttachments


class Attachment:
    """As much of an attachment as the list uses."""

    def __init__(self) -> None:
        self.fds = os.pipe()
        self.pipes = descriptors.owned(*self.fds)
        self.in_use = False
        self.waiting = False
        self.closed: list[str] = []

    def close_memory(self, why: str) -> None:
        self.closed.append(why)

    def leave_to_parent(self) -> None:
        self.closed.append("left")


def is_open(fds: tuple[int, int]) -> bool:
    try:
        return bool([os.fstat(fd) for fd in fds])
    except OSError:
        return False


@pytest.fixture
def pair() -> tuple[LiveAttachments, Attachment, Attachment]:
    attachments: Any = LiveAttachments()
    made = Attachment(), Attachment()
    for each in made:
        attachments.add(each)
    return attachments, *made


def test_dropped_ones_are_closed() -> None:
    """The pipes of an attachment that nothing refers to are closed, those of the other are not."""
    attachments: Any = LiveAttachments()
    kept, dropped = Attachment(), Attachment()
    attachments.add(kept)
    attachments.add(dropped)
    fds = dropped.fds
    del dropped
    gc.collect()
    assert is_open(fds)
    attachments.forget_dropped()
    assert (is_open(fds), is_open(kept.fds)) == (False, True)
    descriptors.close_all(kept.pipes)


def test_pipes_in_use_stay_open(pair: tuple[LiveAttachments, Attachment, Attachment]) -> None:
    """The thread that waits for an answer closes them itself; all others are closed, also a second time."""
    attachments, waiting, idle = pair
    waiting.in_use = True
    attachments.close_unused_pipes()
    assert (is_open(waiting.fds), is_open(idle.fds)) == (True, False)
    waiting.in_use = False
    attachments.close_unused_pipes()
    assert not is_open(waiting.fds)


def test_memory_and_fork(pair: tuple[LiveAttachments, Attachment, Attachment]) -> None:
    """The memory of all is closed with the reason, and all are left to the parent after a fork."""
    attachments, one, other = pair
    attachments.close_memory("it is closed")
    attachments.leave_to_parent()
    assert one.closed == other.closed == ["it is closed", "left"]
    attachments.close_unused_pipes()


def test_a_handler_in_the_middle_forgets_the_same_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call inside the call, as a signal handler makes it, closes the pipes, and neither raises."""
    attachments: Any = LiveAttachments()
    dropped = Attachment()
    attachments.add(dropped)
    fds = dropped.fds
    del dropped
    gc.collect()
    close_all = descriptors.close_all

    def interrupted(pipes: Any) -> None:
        monkeypatch.setattr(descriptors, "close_all", close_all)
        close_all(pipes)
        attachments.forget_dropped()

    monkeypatch.setattr(descriptors, "close_all", interrupted)
    attachments.forget_dropped()
    assert not is_open(fds)

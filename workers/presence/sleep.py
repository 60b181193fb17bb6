"""How the thread that renews sleeps: until it is woken, its time is up, or the coordinator has ended.

The coordinator's end is the end of a pipe of which it alone has the other end. The thread looks at a copy of that
descriptor, which is its own: other threads close the pipe itself when they like. All descriptors here are made and
closed by the thread, where no signal handler runs; and in a forked child, which has no such thread.
"""

from __future__ import annotations

import contextlib
import os
import weakref

from shoal.shm.host import descriptors
from shoal.shm.host.unpatched import select, time
from shoal.workers.shared_memory.attachment import Attachment

_WITHOUT_PIPE_S = 1.0  # no descriptor is free, so nobody can wake it


class Sleep:
    """The sleep of one thread."""

    def __init__(self) -> None:
        self._wake: list[int | None] = []  # a pipe; see ``descriptors.owned``
        self._watched: list[int | None] = []
        self._attachment: weakref.ref[Attachment] | None = None  # the last one that was watched

    def prepare(self) -> None:
        """From now on ``wake`` has an effect."""
        if not self._wake:
            with contextlib.suppress(OSError):  # no descriptor is free
                self._wake = descriptors.owned(*descriptors.wake_pipe())

    def wake(self) -> None:
        """End the sleep, or the next one. The caller sees to it that the thread does not ``close`` meanwhile."""
        with contextlib.suppress(OSError):  # it is full: the thread was woken often
            for fd in self._wake[2:]:
                os.write(fd or -1, b"w")

    def watch(self, attachment: Attachment) -> None:
        """The next sleep ends with the coordinator of ``attachment``. It does so once for each attachment."""
        if self._attachment is not None and self._attachment() is attachment and not self._watched:
            return
        descriptors.close_all(self._watched)
        self._attachment = weakref.ref(attachment)
        with contextlib.suppress(OSError):  # closed meanwhile, or no descriptor is free: the next renewal finds out
            if attachment.answer_fd in attachment.pipes:
                self._watched = descriptors.owned(descriptors.above_standard(os.dup(attachment.answer_fd)))

    def sleep(self, pause_s: float) -> bool:
        """Sleep for ``pause_s`` at most; whether the coordinator that is watched has ended."""
        if not self._wake:
            time.sleep(min(pause_s, _WITHOUT_PIPE_S))
            return False
        poller = select.poll()
        poller.register(self._wake[1], select.POLLIN)
        if self._watched:
            poller.register(self._watched[1], 0)
        ready = [fd for fd, _ in poller.poll(pause_s * 1000)]
        for fd in self._wake[1:2]:
            if fd in ready:
                os.read(fd or -1, 4096)
        if self._watched and self._watched[1] in ready:
            descriptors.close_all(self._watched)
            return True
        return False

    def close(self) -> None:
        """Give the descriptors back."""
        descriptors.close_all(self._wake)
        descriptors.close_all(self._watched)

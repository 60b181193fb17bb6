"""How a worker learns that the pool's process is gone, whatever the worker is doing.

- ``process`` is readable then: a pidfd of the pool's process where the kernel has them, else the pipe's reading end. A
  thread of the worker waits for it. The thread needs the interpreter: native code that holds the GIL keeps it waiting.
- ``pipe`` is the reading end of a pipe that nobody writes to. Only the pool's process keeps its writing end. On Linux
  the kernel sends SIGKILL to the worker when the last copy of that end is closed; that also ends a worker that is
  stopped or holds the GIL. A child that the program has forked may hold a copy: then only the thread sees the death.

Why not ``PR_SET_PDEATHSIG``: a worker's parent may be the fork server, and a worker outlives that.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
from multiprocessing.connection import Connection

from shoal.shm.host import descriptors

_SET_SIGNAL = getattr(fcntl, "F_SETSIG", None)  # Linux


class Life:
    """The pool's end; ``process`` and ``pipe`` travel to the workers."""

    def __init__(self) -> None:
        read_fd, write_fd = descriptors.pipe()
        self.pipe, self._kept = Connection(read_fd, writable=False), Connection(write_fd, readable=False)
        try:
            pidfd = open_pidfd(os.getpid())
        except OSError:
            self.close()
            raise
        # The wrapper travels to a process started afresh.
        self.process = self.pipe if pidfd is None else Connection(pidfd, writable=False)

    def let_go(self) -> None:
        """In a forked child: keep no writing end, so that the pool's process alone decides."""
        self._kept.close()

    def close(self) -> None:
        """All workers are dead: close the descriptors."""
        for connection in {self.pipe, self._kept, getattr(self, "process", self.pipe)}:
            connection.close()


def open_pidfd(pid: int) -> int | None:
    """A descriptor that is readable when the process has ended; None where the kernel has none."""
    try:
        with descriptors.standard_taken():
            return os.pidfd_open(pid)
    except AttributeError:  # not Linux
        return None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
        return None  # not known to this kernel (Linux 5.3 is the first), or kept from this process by a sandbox


def have_kernel_kill_this_process(pipe: Connection) -> None:
    """Have the kernel send SIGKILL to this process when nobody holds the writing end of the pipe any more.

    Nothing happens where the kernel cannot: the thread that waits for ``process`` remains.
    """
    if _SET_SIGNAL is None:
        return
    with contextlib.suppress(OSError):  # no /proc, or a kernel that only resembles Linux
        # The signal's receiver belongs to the open file, which all workers share: so each opens one of its own.
        own = os.open(f"/proc/self/fd/{pipe.fileno()}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(own, _SET_SIGNAL, signal.SIGKILL)
        fcntl.fcntl(own, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)

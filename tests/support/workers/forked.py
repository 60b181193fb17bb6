"""Work in a forked child of the test's own process."""

from __future__ import annotations

import os
from collections.abc import Callable


def run_in_child(work: Callable[[], object]) -> int:
    """Run ``work`` in a forked child; its exit status, 0 if nothing was raised. Nothing of pytest runs in it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:
            os.write(2, f"in the child: {error!r}\n".encode())
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

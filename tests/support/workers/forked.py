"""Work in a forked child of the test's own process."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any


def run_in_child(work: Callable[[], object]) -> int:
    """Run ``work`` in a forked child; its exit status, 0 if nothing was raised. Nothing of pytest runs in it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def alone(test: Callable[..., None]) -> Callable[..., None]:
    """Run the test in a forked child: for tests that count descriptors or mappings.

    Other tests' databases are open in pytest's process, and their threads open and close descriptors at any time.
    """

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        assert run_in_child(lambda: test(*arguments, **named)) == 0

    return run

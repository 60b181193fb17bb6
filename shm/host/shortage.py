"""What a machine runs out of for a while: descriptors, memory, processes, threads."""

from __future__ import annotations

import errno
import resource

SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS})

# CPython raises a plain RuntimeError with this text. Linux counts threads and processes against one limit.
_NO_THREAD = "can't start new thread"


def is_shortage(error: BaseException) -> bool:
    """Whether the same call may succeed later, when the machine has more of something."""
    if isinstance(error, OSError):
        return error.errno in SHORTAGES
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_THREAD in str(error))


def no_descriptor(error: OSError) -> str | None:
    """What to do about a lack of descriptors; None if ``error`` is another."""
    if error.errno == errno.EMFILE:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"its process may have {limit} descriptors, which are too few; raise `ulimit -n` where it is started"
    if error.errno == errno.ENFILE:
        return "the machine has no descriptor left; end processes, or raise the sysctl fs.file-max"
    return None

"""Every error shoal raises on purpose.

    ShoalError
      ConflictError, SnapshotExpiredError                       retry the transaction
      CASConflictError, NotFoundError, AlreadyExistsError,
      InvalidOperationError, InvalidStatusTransitionError,
      LimitExceededError                                        the caller decides
      StoreFullError                                            nothing lost; reads and deletes go on
      ConfigurationError, StoreMovedError, CoordinatorLostError,
      WorkerLostError, WorkerTaskError, TaskTimeoutError
      CorruptionError                                           file, offset, expected, found

A message is fact, value, remedy. Every class keeps its constructor arguments in ``args``, so an error survives
pickling (a pool hands it to another process) and the trip through a pipe (``wire.wire_errors``: class and arguments).
"""

from __future__ import annotations

_LONGEST_SHOWN_BITS = 1024


def shown(number: float, form: str = "") -> str:
    """A number for a message. Python refuses to write out an int of more than 4,300 digits, and nobody reads it."""
    if isinstance(number, int) and number.bit_length() > _LONGEST_SHOWN_BITS:
        return f"{'minus ' if number < 0 else ''}an integer of {number.bit_length():,} bits"
    return f"{number:{form}}"


class ShoalError(Exception):
    """Base of all errors shoal raises on purpose."""


class ConflictError(ShoalError):
    """Something this transaction read was changed before it committed. Nothing was written; run it again."""

    def __init__(self, key: str, read_version: int, found_version: int) -> None:
        super().__init__(key, read_version, found_version)
        self.key = key
        self.read_version = read_version
        self.found_version = found_version

    def __str__(self) -> str:
        return (
            f"{self.key!r} was read at version {self.read_version} and changed at version {self.found_version}; "
            "run the transaction again (db.transact does)"
        )


class SnapshotExpiredError(ShoalError):
    """The snapshot was revoked because the history kept for it took too much room. Take a new one."""

    def __init__(self, snapshot_version: int, oldest_version: int) -> None:
        super().__init__(snapshot_version, oldest_version)
        self.snapshot_version = snapshot_version
        self.oldest_version = oldest_version

    def __str__(self) -> str:
        return (
            f"snapshot {self.snapshot_version} was revoked to make room; the oldest readable version is "
            f"{self.oldest_version}; start the transaction again and hold snapshots for a shorter time"
        )


class CASConflictError(ShoalError):
    """A compare-and-swap found another version than expected."""

    def __init__(self, key: str, expected: int, actual: int) -> None:
        super().__init__(key, expected, actual)
        self.key = key
        self.expected = expected
        self.actual = actual

    def __str__(self) -> str:
        return f"{self.key!r} has version {self.actual}, expected {self.expected}; read it again and decide"


class NotFoundError(ShoalError):
    """What the call needs does not exist."""


class AlreadyExistsError(ShoalError):
    """What the call would create exists already."""


class InvalidOperationError(ShoalError):
    """The object does not allow this call, or not any more."""


class InvalidStatusTransitionError(ShoalError):
    """A run of this status cannot be given that one. Both are ``RunStatus``."""

    def __init__(self, from_status: str, to_status: str) -> None:
        super().__init__(from_status, to_status)
        self.from_status = from_status
        self.to_status = to_status

    def __str__(self) -> str:
        return (
            f"a run that is {self.from_status} cannot become {self.to_status}; "
            "see shoal.RunStatus for what becomes what, or create or fork a run"
        )


class LimitExceededError(ShoalError):
    """Something is larger than shoal stores; see ``limits`` for all bounds. ``advice``: what helps here."""

    def __init__(self, what: str, limit: int, size: int | str, advice: str = "make it smaller") -> None:
        super().__init__(what, limit, size, advice)
        self.what = what
        self.limit = limit
        self.advice = advice
        self.size = int(size)  # a pipe carries a number beyond 64 bits as text

    def __str__(self) -> str:
        return f"{self.what} is {shown(self.size, ',')}; the limit is {self.limit:,}; {self.advice}"


class StoreFullError(ShoalError):
    """No room for this commit, in memory (``max_bytes``) or on disk. Nothing was written and nothing is lost."""


def no_memory_to_send(what: str) -> StoreFullError:
    """For a ``MemoryError`` of a process that was about to commit: nothing was sent."""
    return StoreFullError(
        f"this process has no memory left to send {what}; split the transaction, raise the limits of the process "
        "(ulimit -v), or open the store with a smaller max_bytes, as every process maps all of it"
    )


class ConfigurationError(ShoalError):
    """The store cannot be opened with these options."""


class StoreMovedError(ShoalError):
    """The store's directory was moved, deleted or replaced while this process had it open.

    The commit was not written to any other store. ``in_doubt`` says whether it may have been written to the one that
    was opened, because the coordinator died before it answered.
    """

    def __init__(self, path: str, in_doubt: bool) -> None:
        super().__init__(path, in_doubt)
        self.path = path
        self.in_doubt = in_doubt

    def __str__(self) -> str:
        if self.in_doubt:
            commit = "whether this commit is done shows when the store is opened where it lies now"
        else:
            commit = "this commit was not written"
        return (
            f"the store that was opened at {self.path} is not there any more: its directory was moved, deleted or "
            f"replaced; {commit}; close this database and open the store at its new path"
        )


class CoordinatorLostError(ShoalError):
    """No coordinator serves the store and none could be started in time.

    A commit that was under way may be done or not; only ``StoreMovedError`` leaves that open as well, and says so.
    """


class WorkerLostError(ShoalError):
    """The worker process died while it ran this task."""


class WorkerTaskError(ShoalError):
    """A task in a worker raised an exception that cannot be pickled or unpickled; this tells what it was."""

    def __init__(self, type_name: str, text: str, traceback: str) -> None:
        super().__init__(type_name, text, traceback)
        self.type_name = type_name
        self.text = text
        self.traceback = traceback

    def __str__(self) -> str:
        return (
            f"{self.type_name}: {self.text} (it cannot be pickled or unpickled, so this error stands for it; "
            "its traceback is in .traceback)"
        )


class TaskTimeoutError(ShoalError):
    """A task ran for longer than the pool allows, and its worker was killed."""

    def __init__(self, function: str, timeout_s: float) -> None:
        super().__init__(function, timeout_s)
        self.function = function
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return (
            f"{self.function} ran for more than {self.timeout_s:g} s and its worker was killed; "
            "give the pool a longer timeout, or the task less to do"
        )


class CorruptionError(ShoalError):
    """A durable file holds something shoal never wrote."""

    def __init__(self, file: str, offset: int, expected: str, found: str) -> None:
        super().__init__(file, offset, expected, found)
        self.file = file
        self.offset = offset
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        return (
            f"{self.file} is damaged at byte {self.offset}: expected {self.expected}, found {self.found}; "
            "shoal check lists all damage; restore a backup, or save what can be read with shoal repair"
        )

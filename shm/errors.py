"""Every error shoal raises on purpose. Those marked * are in ``shm.fleet_errors``.

    ShoalError
      ConflictError, SnapshotExpiredError, FencedError*         run the transaction again
      InDoubtError*                                             find out
      CASConflictError, NotFoundError, AlreadyExistsError,
      InvalidOperationError, InvalidStatusTransitionError,
      LimitExceededError, LeaseHeldError,
      BudgetExceededError*, TaskFailedError*                    the caller decides
      StoreFullError                                            nothing is lost; reads and deletes go on
      ConfigurationError, StoreMovedError, CoordinatorLostError,
      WorkerLostError, WorkerTaskError, TaskTimeoutError
      CorruptionError                                           file, offset, expected, found

A message says the fact, the value and the remedy. Classes with attributes keep their constructor arguments in
``args``, so an error survives pickling (a pool hands it to another process) and the trip through a pipe
(``wire.wire_errors``: class and arguments). Tracebacks and pickles name a class as users do: ``shoal.ConflictError``.

A bad argument is not among these errors: it is Python's own ``TypeError`` or ``ValueError``.
"""

from __future__ import annotations

from typing import Any

_LONGEST_SHOWN_BITS = 1024


def shown(number: float, form: str = "") -> str:
    """A number for a message. For an int beyond 1,024 bits its length, as Python prints 4,300 digits at most."""
    if isinstance(number, int) and number.bit_length() > _LONGEST_SHOWN_BITS:
        return f"{'minus ' if number < 0 else ''}an integer of {number.bit_length():,} bits"
    return f"{number:{form}}"


def shown_value(value: object, longest: int = 60) -> str:
    """The beginning of a value's ``repr`` for a message; its type if it has none: nested too deep, or it raises."""
    try:
        return f"{value!r:.{longest}}"
    except Exception:
        return f"<{type(value).__name__}>"


class ShoalError(Exception):
    """Base of all errors shoal raises on purpose. Never raised itself."""

    # Whether the reason passes when something is written. An operation that waits in line is decided again then.
    passes = False
    # After how many ms it passes by itself, or may pass: the operation is decided again then, too. None: never.
    passes_in_ms: int | None = None


class ConflictError(ShoalError):
    """Raised by a commit if another commit has changed something the transaction read. Nothing was written.

    Run the transaction again; ``db.transact`` does that by itself.

    - ``key`` (str, bytes below the primitives): the first key that differs.
    - ``read_version`` (int): the commit version the transaction read at.
    - ``found_version`` (int): the commit version of the change.
    """

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
    """Raised by a read or a commit if its snapshot was revoked, because the history kept for it took too much room.

    Take a new snapshot, or run the transaction again, and hold it for a shorter time. It is raised as well if a past
    version or moment is asked for that is not kept any more.

    - ``snapshot_version`` (int): the commit version of the revoked snapshot, or the one asked for; if a moment was
      asked for, the newest one that is not kept.
    - ``oldest_version`` (int): the oldest commit version that can still be read.
    """

    def __init__(self, snapshot_version: int, oldest_version: int, *asked: str) -> None:
        super().__init__(snapshot_version, oldest_version, *asked)  # asked: what for, and what to do instead
        self.snapshot_version = snapshot_version
        self.oldest_version = oldest_version

    def __str__(self) -> str:
        if len(self.args) > 2:
            advice = "open it with a longer history, or with a larger max_bytes if memory is short"
            advice = advice if len(self.args) == 3 else self.args[3]
            return f"{self.args[2]} is older than what the store keeps, from version {self.oldest_version} on; {advice}"
        return (
            f"snapshot {self.snapshot_version} was revoked to make room; the oldest readable version is "
            f"{self.oldest_version}; start the transaction again and hold snapshots for a shorter time"
        )


def changes_not_kept(since: int, oldest_version: int) -> SnapshotExpiredError:
    """The error for a watch that was to tell what came after version ``since``."""
    advice = "read what there is in a snapshot, and watch from its version on"
    return SnapshotExpiredError(since, oldest_version, f"the change after version {since}", advice)


class CASConflictError(ShoalError):
    """Raised by ``cas`` if the cell has another version than expected. Nothing was written.

    Read the cell again and decide whether the change still applies.

    - ``key`` (str): the name of the cell.
    - ``expected`` (int): the version that the caller expected.
    - ``actual`` (int): the version that the cell has.
    """

    def __init__(self, key: str, expected: int, actual: int) -> None:
        super().__init__(key, expected, actual)
        self.key = key
        self.expected = expected
        self.actual = actual

    def __str__(self) -> str:
        return f"{self.key!r} has version {self.actual}, expected {self.expected}; read it again and decide"


class LeaseHeldError(ShoalError):
    """Raised if a lease is held by others and ``wait`` is over. Wait for longer, or do something else meanwhile.

    It is free at once when a holder releases it or its process ends, and ``ttl_ms`` after its process stops answering.

    - ``name`` (str): the name of the lease.
    - ``ttl_ms`` (int): the longest ttl of those that hold it, in milliseconds.
    - ``pids`` (tuple of int): the processes that hold it.
    """

    passes = True

    def __init__(self, name: str, ttl_ms: int, *pids: int) -> None:
        super().__init__(name, ttl_ms, *pids)
        self.name = name
        self.ttl_ms = ttl_ms
        self.pids = pids

    def __str__(self) -> str:
        pids = ", ".join(map(str, self.pids[:10])) + (", ..." if len(self.pids) > 10 else "")
        return (
            f"lease {self.name!r} is held by process {pids}; it is free when that releases it or ends, or "
            f"{self.ttl_ms / 1000:g} s after it stops answering; give a longer wait, or wait=None to wait for ever"
        )


class NotFoundError(ShoalError):
    """Raised if what the call needs does not exist: a cell, a run, a trace, a store. Create it, or name another."""


class AlreadyExistsError(ShoalError):
    """Raised if what the call would create exists already. Use what is there, or choose another name."""


class InvalidOperationError(ShoalError):
    """Raised if the object does not allow the call: it is closed, has ended, is read-only or append-only.

    The message says which, and which call to use instead.
    """


class InvalidStatusTransitionError(ShoalError):
    """Raised if a run of one status cannot be given another. Nothing was written.

    Choose a status that ``shoal.RunStatus`` allows next, or create or fork a run.

    - ``from_status`` (RunStatus): the status that the run has.
    - ``to_status`` (RunStatus): the status that it was to get.
    """

    def __init__(self, from_status: Any, to_status: Any) -> None:  # shoal.RunStatus, which is defined above this layer
        super().__init__(from_status, to_status)
        self.from_status = from_status
        self.to_status = to_status

    def __str__(self) -> str:
        fact = f"a run that is {self.from_status} cannot become {self.to_status}"
        return f"{fact}; see shoal.RunStatus for what becomes what, or create or fork a run"


class LimitExceededError(ShoalError):
    """Raised if something is larger than shoal stores, before anything is sent. ``shm.limits`` has all bounds.

    Make it smaller, as ``advice`` says.

    - ``what`` (str): what is too large, with its unit ("size of the value in bytes").
    - ``limit`` (int): the largest that is allowed, in that unit.
    - ``size`` (int): what was given, in that unit.
    - ``advice`` (str): what helps in this case.
    """

    def __init__(self, what: str, limit: int, size: int | str, advice: str = "make it smaller") -> None:
        super().__init__(what, limit, size, advice)
        self.what = what
        self.limit = limit
        self.advice = advice
        self.size = int(size)  # a pipe carries a number beyond 64 bits as text

    def __str__(self) -> str:
        return f"{self.what} is {shown(self.size, ',')}; the limit is {self.limit:,}; {self.advice}"


class StoreFullError(ShoalError):
    """Raised if there is no room for the commit, in memory (``max_bytes``) or on disk. Nothing was written or lost.

    Reads and deletes go on. Delete keys, free disk space, or open the store with a larger ``max_bytes``.
    """


def no_memory_to_send(what: str) -> StoreFullError:
    """The error for a process that has no memory to encode ``what`` it would commit. Nothing was sent."""
    return StoreFullError(
        f"this process has no memory left to send {what}; split the transaction, raise the limits of the process "
        "(ulimit -v), or open the store with a smaller max_bytes, as every process maps all of it"
    )


class ConfigurationError(ShoalError):
    """Raised by ``open`` if the store cannot be opened with these options, or by this user, here. Nothing was changed.

    Change the options or the environment as the message says.
    """


class StoreMovedError(ShoalError):
    """Raised if the store's directory was moved, deleted or replaced while this process had it open.

    The commit was not written to any other store. Close the database and open the store at its new path.

    - ``path`` (str): where the store was opened.
    - ``in_doubt`` (bool): whether the commit may have been written to the store that was opened, because the
      coordinator died before it answered.
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
    """Raised if no coordinator serves the store and none could be started within the timeout of ``open``.

    A commit that was under way may be done or not: read what it would have written. Only this error and a
    ``StoreMovedError`` with ``in_doubt`` leave that open.
    """


class WorkerLostError(ShoalError):
    """Raised for a task whose worker process died while it ran, with no retry left, or whose pool was ended before.

    What the task has committed is there. Run it again, or allow more ``retries``.
    """


class WorkerTaskError(ShoalError):
    """Raised in place of an exception of a task that cannot be pickled or unpickled. Make that exception picklable.

    - ``type_name`` (str): the class of the exception.
    - ``text`` (str): its text.
    - ``traceback`` (str): its traceback in the worker.
    """

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
    """Raised for a task that ran for longer than the pool's ``timeout``. Its worker was killed.

    Give the pool a longer timeout, or the task less to do.

    - ``function`` (str): the name of the task's function.
    - ``timeout_s`` (float): the pool's timeout in seconds.
    """

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
    """Raised if a durable file, or a record in the store, holds something that shoal never wrote.

    ``shoal check`` lists all damage. Restore a backup, or save what can be read with ``shoal repair``.

    - ``file`` (str): the name of the file, or what the record belongs to.
    - ``offset`` (int): where in it the damage is, in bytes from its start.
    - ``expected`` (str): what should be there.
    - ``found`` (str): what is there.
    """

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


for _public in ShoalError, *ShoalError.__subclasses__():
    _public.__module__ = "shoal"
del _public

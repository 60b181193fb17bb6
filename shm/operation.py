"""The shape of operations, which are decided where a commit is applied. ``primitives.rules`` defines the operations.

A single call of a facade sends the operation and the coordinator decides it against the newest state, so it never
conflicts. Inside a transaction the same function runs at once on what the transaction sees, and what it read is
validated at commit. The log holds what an operation wrote, never the operation: replay decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol

from shoal.shm.arguments import check_int, check_type
from shoal.shm.errors import shown
from shoal.shm.limits import MAX_INTEGER

try:
    import cython
except ModuleNotFoundError:
    from shoal.shm import cython_shim as cython  # type: ignore[no-redef]

if cython.compiled:
    from cython.cimports.named_tuple import of_three, of_two

_new_tuple = tuple.__new__  # a named tuple without its Python frame


class Past(NamedTuple):
    """A past state of the store that a snapshot is asked for: by its version, or by a moment when it was the newest."""

    version: int | None
    moment_us: int | None  # us since the epoch; one of the two is None


def check_version(version: object) -> int:
    """A commit version that a user names; ``TypeError`` or ``ValueError`` for what is none."""
    number = check_int("version", version, "a commit version as int")
    if not 0 <= number <= MAX_INTEGER:
        raise ValueError(f"version is {shown(number)}; give a commit version, which is 0 or more")
    return number


def past_of(version: int | None, at: datetime | None) -> Past | None:
    """The past version or moment that is asked for."""
    if version is None and at is None:
        return None
    if version is not None and at is not None:
        raise ValueError("version and at are both given; give one of them")
    if at is None:
        return Past(check_version(version), None)
    offset = check_type("at", at, datetime, "an aware datetime").utcoffset()
    if offset is None:
        raise ValueError(
            f"at is {at.isoformat()}, without a time zone; give an aware datetime, as datetime.now(UTC) is"
        )
    since_epoch = min(_LATEST, at.replace(tzinfo=UTC) - _EPOCH - offset)  # in UTC it may be behind the year 9999
    return Past(None, max(0, since_epoch // timedelta(microseconds=1)))


# The control request for it. The answer is the coordinator's generation, the version, and a bound, the newest version.
# In the place of a version that is not kept any more stands EXPIRED, with the oldest one; of one that is not there yet
# FUTURE.
PAST = "past"
EXPIRED, FUTURE = -1, -2


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC) - _EPOCH


class VersionedValue(NamedTuple):
    """What a key holds at a snapshot: the newest version that is visible there."""

    value: bytes
    version: int
    expires_ms: int  # ms since the epoch, 0: never


class StoreStats(NamedTuple):
    """Figures of a store, as its engine last wrote them."""

    commit_version: int  # the newest committed one
    keys: int  # live keys; those of a range just deleted are counted until they are reclaimed
    bytes_used: int  # of the store's memory
    clients: int  # attached; one open database has one or more
    coordinator_pid: int  # the process that decides commits; 0 if there is none
    history_ms: int = 0  # how long past versions are kept; the next three mean nothing if not at all
    history_version: int = 0  # the oldest one that is kept
    history_since_us: int = 0  # since when that was the newest one, us since the epoch
    history_bytes: int = 0  # of the store's memory, taken by past versions


Read = Callable[[bytes], VersionedValue | None]
# (lower, upper): the keys of the range in order; None for one that is deleted and not reclaimed yet.
Look = Callable[[bytes, bytes], Iterator[tuple[bytes, VersionedValue | None]]]


class Write(NamedTuple):
    """The new state of one key. ``value`` None deletes it; ``expires_ms`` is ms since the epoch, 0 never expires."""

    key: bytes
    value: bytes | None
    expires_ms: int


class Decision(NamedTuple):
    """What an operation writes and what its caller is told."""

    writes: list[Write]
    result: Any


def one_write(key: bytes, value: bytes | None, expires_ms: int, result: Any) -> Decision:
    """The decision to write one key: ``Decision([Write(key, value, expires_ms)], result)`` in a fifth of the time."""
    if cython.compiled:
        decision: Decision = of_two(Decision, [of_three(Write, key, value, expires_ms)], result)
        return decision
    return _new_tuple(Decision, ([_new_tuple(Write, (key, value, expires_ms))], result))


class Upkeep(NamedTuple):
    """One slice of what is removed between commits, and where the next one goes on."""

    writes: list[Write]
    clears: list[tuple[bytes, bytes]]
    cursor: bytes | None  # None: the pass is over
    removed: Mapping[str, int]  # how many of what; for those who ask what a pass would remove


class BatchedOperation(Protocol):
    """Several operations on one key, decided in order and written together; used for many batches.

    It may keep what it has read and written: it is used again only if no other commit has written the key since.
    """

    def begin(self, now_ms: int) -> None:
        """Begin a batch."""
        ...

    def decide(self, name: str, arguments: list[Any]) -> Any:
        """Decide one operation and return its result. After one that raises, nothing of the batch may be used."""
        ...

    def writes(self) -> list[Any]:
        """What the batch writes: key, value and expiry of each, flat; no key twice, and all within the limits."""
        ...


def nothing_held(read: Read, held_key: bytes, holder: int, now_ms: int) -> list[Write]:
    """``OperationTable.ended`` of a table whose operations make nothing held."""
    return []


class OperationTable(NamedTuple):
    """All operations by name. A rule raises ShoalError, TypeError or ValueError, and has then written nothing.

    The first argument of every operation is a key. ``batched`` are those that may share a commit with others on the
    same key for which the same stands there. Their callers do not learn the commit version, so any order among them is
    serial.

    ``ended`` (read, held key, holder, now_ms) says what to write when a holder has ended (``shm.holder_index``): the
    held key is not held by it any more. The entry itself is the coordinator's to delete.

    ``upkeep`` (read, look, cursor, now_ms, most) decides one slice of a pass over what the store itself is to remove;
    the coordinator commits it and gives the slice's cursor to the next one. A pass begins with an empty cursor. A slice
    looks at about ``most`` keys. None: there is nothing of the kind.

    ``in_turn`` are those that a caller sends again at once, with what the result tells it, if they wrote nothing.
    """

    rules: Mapping[str, Callable[..., Decision]]
    batched: Mapping[str, Callable[[Read, bytes], BatchedOperation]]
    ended: Callable[[Read, bytes, int, int], list[Write]] = nothing_held
    in_turn: frozenset[str] = frozenset()
    upkeep: Callable[[Read, Look, bytes, int, int], Upkeep] | None = None

    def decide(self, read: Read, now_ms: int, name: str, arguments: list[Any]) -> Decision:
        """Run the operation ``name`` over the state ``read`` shows."""
        return self.rules[name](read, now_ms, *arguments)

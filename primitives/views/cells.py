"""The cells of one run over one engine.

One key of the engine per cell; ``rules.cell_rules`` has the record in it and the rules of change. The versions of a
name only rise, also over delete and init: a deleted cell is a record without a value, and reads as absent.
"""

from __future__ import annotations

import builtins
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from shoal.primitives.engine import Engine
from shoal.primitives.keys import Namespace, after, decode_text, encode_prefix, encode_text
from shoal.primitives.rules import requests
from shoal.primitives.rules.cell_rules import CellRecord, decode_record, encode_record
from shoal.primitives.rules.tags import Tag
from shoal.primitives.views.view import View
from shoal.shm.arguments import check_int, check_plain_function, check_plain_result, check_wait
from shoal.shm.codec import Value, encode, stored
from shoal.shm.errors import ConflictError, InvalidOperationError, NotFoundError, shown, shown_value
from shoal.shm.host import tasks
from shoal.shm.key_location_cache import KeyLocationCache
from shoal.shm.limits import MAX_INTEGER, SINGLE_CALL_TIMEOUT_S

T = TypeVar("T")

_TAG = bytes((Tag.STATE,))


@dataclass(frozen=True)
class State:
    """What a cell holds.

    ``value``: any storable value. ``version``: from 1 on. ``updated_at``: when the value was set, integer ms since the
    epoch (UTC).

    >>> State([1], 3, 1_700_000_000_000).version
    3
    """

    value: Any
    version: int
    updated_at: int


class Mark(NamedTuple):
    """Which record a cell has, to tell later whether another one followed it. Marks rise until the run is deleted."""

    version: int  # 0 of a name never used
    is_deleted: bool
    commit_version: int


class StateView(View):
    """The methods of ``StateCell`` for one run, without ``run_id``: ``txn.state``.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     with db.transaction("run-1") as txn:
    ...         txn.state.init("budget", 10), txn.state.cas("budget", 1, 9), txn.state.read("budget").value
    (1, 2, 9)

    What a method returns is known at once and validated at commit: ``cas`` compares with the transaction's snapshot.
    Any call may also raise ``InvalidOperationError`` (the transaction has ended, or only reads),
    ``SnapshotExpiredError`` (its snapshot was revoked) and ``CorruptionError`` (a record is none). ``Transaction`` says
    what the commit may raise.
    """

    __slots__ = ("_cache", "_prefix")

    def __init__(self, engine: Engine, namespace: Namespace, run_id: str) -> None:
        self._engine = engine
        self._prefix = namespace._run_prefix(run_id) + _TAG
        self._cache = KeyLocationCache(self._prefix)

    def init(self, name: str, value: Value) -> int:
        """Create a cell and return its version: 1 for a name never used, else one above its last.

        Raises ``AlreadyExistsError`` if the cell is there, and ``TypeError``, ``ValueError`` or ``LimitExceededError``
        for a bad name or value.
        """
        return requests.init_cell(self._engine, self._key(name), name, encode(value))

    def read(self, name: str) -> State | None:
        """The cell's state, or None if it is not there.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad name.
        """
        record = self._record(name)
        if record.value is None:
            return None
        return self._state(name, record)

    def cas(self, name: str, expected_version: int, value: Value) -> int:
        """Give the cell a value if it is at ``expected_version``, and return the new version.

        Raises ``CASConflictError`` if it is at another, ``NotFoundError`` if it is not there, and ``TypeError``,
        ``ValueError`` or ``LimitExceededError`` for a bad name, version or value.
        """
        check_version("expected_version", expected_version)
        return requests.cas_cell(self._engine, self._key(name), name, expected_version, encode(value))

    def set(self, name: str, value: Value) -> int:
        """Give the cell a value, whatever is there, and return its version. Creates it.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad name or value.
        """
        return requests.set_cell(self._engine, self._key(name), encode(value))

    def delete(self, name: str) -> bool:
        """Delete the cell; whether it was there. Its last version is kept, so that none is used twice.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad name.
        """
        return requests.delete_cell(self._engine, self._key(name))

    def exists(self, name: str) -> bool:
        """Whether the cell is there.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad name.
        """
        return self._record(name).value is not None

    def list(self, prefix: str = "") -> builtins.list[str]:
        """The names of the cells that begin with ``prefix``, sorted.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad prefix.
        """
        return [name for name, record in self._scan(prefix) if record.value is not None]

    def transition(
        self, name: str, fn: Callable[[State], tuple[Value, T]], timeout: float | None = SINGLE_CALL_TIMEOUT_S
    ) -> T:
        """Give the cell the value that ``fn`` makes of its state, and return the result ``fn`` gives beside it.

        ``fn(State) -> (new_value, result)`` runs once in a transaction: what it was given is validated at commit.
        Raises ``NotFoundError`` if the cell is not there, ``InvalidOperationError`` if ``fn`` itself changes it in this
        transaction, ``ConflictError`` if it still changes after ``timeout`` seconds, ``TypeError``, ``ValueError`` or
        ``LimitExceededError`` for a bad argument, for an ``fn`` that is async or returns no pair or a bad value, and
        whatever ``fn`` raises.
        """
        check_plain_function("fn", fn)
        give_up_s = time.monotonic() + check_wait("timeout", timeout)
        key = self._key(name)
        record = decode_record(self._engine.get_named(self._cache, name))
        requests.refuse_if_read_only(self._engine)
        newer, result = self._step(key, name, record, fn)
        if newer is None:
            return result
        self._refuse_own_change(key, name)
        first = newer

        def go_on() -> T:
            seen, newer = record, first
            while time.monotonic() < give_up_s:
                seen = newer if newer.value is not None else self._record(name)
                found, result = self._step(key, name, seen, fn)
                if found is None:
                    return result
                newer = found
            raise ConflictError(name, seen.version, newer.version)

        # Hundreds of tasks that try at once would each lose to all the others.
        return tasks.in_turn(self._engine, go_on)

    def _step(
        self, key: bytes, name: str, record: CellRecord, fn: Callable[[State], tuple[Value, T]]
    ) -> tuple[CellRecord | None, T]:
        """Try to change the cell from ``record``: None if that is done, else the newer record; and the result."""
        if record.value is None:
            raise NotFoundError(f"cell {name!r} does not exist; create it with init or set")
        pair = fn(self._state(name, record))
        check_plain_result("fn", fn, pair)
        _check_pair(pair)
        value, result = pair
        return requests.swap_cell(self._engine, key, name, record.version, encode(value)), result

    def _refuse_own_change(self, key: bytes, name: str) -> None:
        """In a transaction nobody but ``fn`` changes the cell meanwhile, and each further call would do so again."""
        found = self._engine.find(key)
        if found is not None and found.version == 0:
            raise InvalidOperationError(
                f"fn of transition changed cell {name!r} itself; return the new value, and leave the cell to transition"
            )

    def _key(self, name: object) -> bytes:
        return self._prefix + encode_text("name", name)

    def _record(self, name: str) -> CellRecord:
        encode_text("name", name)
        return decode_record(self._engine.get_named(self._cache, name))

    def _state(self, name: str, record: CellRecord) -> State:
        assert record.value is not None
        return State(stored(record.value, f"cell {name!r}"), record.version, record.updated_at)

    def _scan(self, prefix: str) -> Iterator[tuple[str, CellRecord]]:
        own = self._prefix
        lower = own + encode_prefix(prefix)
        for key, found in self._engine.scan(lower, after(lower)):
            yield decode_text(key[len(own) :]), decode_record(found.value)


def newer_state(view: StateView, name: str, version: int, before: Mark) -> tuple[State | None, Mark]:
    """The cell's state if it is newer than ``version``, and the mark of its record now.

    ``before`` is the mark of an earlier look. Raises ``NotFoundError`` if the run was deleted since: the versions of a
    name then begin again.
    """
    state = view.read(name)
    if state is not None and state.version > version:
        return state, before
    now = mark(view, name)
    if before != now and now[:2] <= before[:2]:
        raise NotFoundError(
            f"cell {name!r} was at version {before.version} when its run was deleted, which forgets the versions; "
            "read the cell to see what it is now, and wait for what follows that"
        )
    return None, now


def mark(view: StateView, name: str) -> Mark:
    """The mark of a cell's record."""
    found = view._engine.find(view._key(name))
    if found is None:
        return Mark(0, False, 0)
    record = decode_record(found.value)
    return Mark(record.version, record.value is None, found.version)


def records(view: StateView) -> Iterator[tuple[str, CellRecord]]:
    """Name and record of every cell, the deleted ones included, sorted by name: what an export has to keep.

    A record is ``(version, updated_at, value)``; its value is bytes for ``codec.decode``, or None if deleted.
    """
    return view._scan("")


def restore(view: StateView, name: str, record: CellRecord) -> None:
    """Write a record of an export as ``records`` gave it.

    Raises ``AlreadyExistsError`` for a name that was ever used, ``CorruptionError`` or ``ValueError`` for a bad record.
    """
    key, raw = view._key(name), encode_record(record)
    decode_record(raw)
    exists = f"cell {name!r} exists or has existed; restore cells into a run that has none of their names"
    requests.insert(view._engine, exists, [], [key, raw])


def _check_pair(returned: object) -> None:
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TypeError(f"fn returned {shown_value(returned, 100)}, not a pair; return a tuple (new_value, result)")


def check_version(what: str, version: int) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless a cell can have this version. 0 is before every version."""
    if not 0 <= check_int(what, version) <= MAX_INTEGER:
        raise ValueError(f"{what} is {shown(version)}; give a version that read has shown, which are from 1 on")

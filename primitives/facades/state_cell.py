"""StateCell: versioned cells of a run, changed by compare-and-swap.

One key of the engine per cell; the record in it and the rules of change are in ``shm.cell_operations``. What holds: the
versions of a name only rise, also over delete and init; a deleted cell is a record without a value, read as absent.
"""

from __future__ import annotations

import builtins
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from shoal.primitives.engine import Engine
from shoal.primitives.facades.facade import Facade
from shoal.primitives.keys import Namespace, Tag, after, decode_text, encode_prefix, encode_text
from shoal.primitives.rules import registry as operations
from shoal.primitives.rules.cell_rules import Record, decode_record, encode_record
from shoal.shm.arguments import check_plain_function, check_plain_result, check_wait
from shoal.shm.codec import Value, encode, stored
from shoal.shm.errors import CASConflictError, ConflictError, NotFoundError, shown
from shoal.shm.key_location_cache import KeyLocationCache
from shoal.shm.limits import MAX_INTEGER, SINGLE_CALL_TIMEOUT_S
from shoal.workers.retry import pause_s

T = TypeVar("T")

_TAG = bytes((Tag.STATE,))
# Who loses reads again at once: its next request is then ahead of the winner's. Only who goes on losing pauses.
_LOSSES_WITHOUT_PAUSE = 8
# While others commit and a cell stands still, who waits for it looks at growing intervals.
_SHORTEST_LOOK_S = 0.0002
_LONGEST_LOOK_S = 0.005


@dataclass(frozen=True)
class State:
    """What a cell holds: its value, the version of it, and when it was set, in integer ms since the epoch (UTC)."""

    value: Any
    version: int
    updated_at: int


class StateView:
    """The methods of ``StateCell`` for one run, over one engine: ``txn.state``, and every facade call."""

    __slots__ = ("_engine", "_place", "_prefix")

    def __init__(self, engine: Engine, namespace: Namespace, run_id: str) -> None:
        self._engine = engine
        self._prefix = namespace.run_prefix(run_id) + _TAG
        self._place = KeyLocationCache(self._prefix)

    def init(self, name: str, value: Value) -> int:
        """Create a cell, which must not be there, and return its version."""
        version: int = self._engine.perform(operations.CELL_INIT, [self._key(name), name, encode(value)])
        return version

    def read(self, name: str) -> State | None:
        """The cell's state, or None if it is not there."""
        record = self._record(name)
        if record.value is None:
            return None
        return State(stored(record.value, f"cell {name!r}"), record.version, record.updated_at)

    def mark(self, name: str) -> tuple[int, bool, int]:
        """The version of the cell's record, whether the cell is deleted, and the commit version of the record.

        Marks only rise until the run is deleted: a deleted cell keeps its record. ``(0, False, 0)`` where none is.
        """
        found = self._engine.find(self._key(name))
        if found is None:
            return 0, False, 0
        record = decode_record(found.value)
        return record.version, record.value is None, found.version

    def cas(self, name: str, expected_version: int, value: Value) -> int:
        """Give the cell a value if it is at ``expected_version``, and return the new version."""
        _check_version("expected_version", expected_version)
        arguments = [self._key(name), name, expected_version, encode(value)]
        version: int = self._engine.perform(operations.CELL_CAS, arguments)
        return version

    def set(self, name: str, value: Value) -> int:
        """Give the cell a value, whatever is there, and return its version."""
        version: int = self._engine.perform(operations.CELL_SET, [self._key(name), encode(value)])
        return version

    def delete(self, name: str) -> bool:
        """Delete the cell; whether it was there."""
        deleted: bool = self._engine.perform(operations.CELL_DELETE, [self._key(name)])
        return deleted

    def exists(self, name: str) -> bool:
        """Whether the cell is there."""
        return self._record(name).value is not None

    def list(self, prefix: str = "") -> builtins.list[str]:
        """The names of the cells that begin with ``prefix``, sorted."""
        return [name for name, record in self._scan(prefix) if record.value is not None]

    def transition(
        self, name: str, fn: Callable[[State], tuple[Value, T]], timeout: float | None = SINGLE_CALL_TIMEOUT_S
    ) -> T:
        """Give the cell the value that ``fn`` makes of its state, and return the result ``fn`` gives beside it.

        A transaction sees no change but its own: ``fn`` runs once, and what it was given is validated at commit.
        """
        check_plain_function("fn", fn)
        give_up_s = time.monotonic() + check_wait("timeout", timeout)
        losses = 0
        while True:
            state = self.read(name)
            if state is None:
                raise NotFoundError(f"cell {name!r} does not exist; create it with init or set")
            pair = fn(state)
            check_plain_result("fn", fn, pair)
            _check_pair(pair)
            value, result = pair
            try:
                self.cas(name, state.version, value)
            except CASConflictError as lost:
                if time.monotonic() >= give_up_s:
                    raise ConflictError(name, lost.expected, lost.actual) from None
            else:
                return result
            losses += 1
            if losses > _LOSSES_WITHOUT_PAUSE:
                time.sleep(pause_s(losses - _LOSSES_WITHOUT_PAUSE))

    def records(self) -> Iterator[tuple[str, Record]]:
        """Name and record of every cell, the deleted ones included, sorted by name: what an export has to keep.

        A record is ``(version, updated_at, value)``; its value is bytes for ``codec.decode``, or None if deleted.
        """
        return self._scan("")

    def restore(self, name: str, record: Record) -> None:
        """Write a record as ``records`` once gave it: how an export comes back.

        ``AlreadyExistsError`` for a name that was ever used; ``CorruptionError`` for a record that is none.
        """
        key, raw = self._key(name), encode_record(record)
        decode_record(raw)
        exists = f"cell {name!r} exists or has existed; restore cells into a run that has none of their names"
        self._engine.perform(operations.INSERT, [key, exists, [], [key, raw]])

    def _key(self, name: object) -> bytes:
        return self._prefix + encode_text("name", name)

    def _record(self, name: str) -> Record:
        encode_text("name", name)
        return decode_record(self._engine.get_named(self._place, name))

    def _scan(self, prefix: str) -> Iterator[tuple[str, Record]]:
        own = self._prefix
        lower = own + encode_prefix(prefix)
        for key, found in self._engine.scan(lower, after(lower)):
            yield decode_text(key[len(own) :]), decode_record(found.value)


class StateCell(Facade[StateView]):
    """Named cells of a run whose every value has a version, each call a transaction of its own.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     cells = shoal.StateCell(db)
    ...     cells.init("run-1", "budget", 10)
    ...     cells.cas("run-1", "budget", 1, 9)
    ...     cells.transition("run-1", "budget", lambda state: (state.value - 4, state.value >= 4))
    ...     state = cells.read("run-1", "budget")
    ...     state.value, state.version
    1
    2
    True
    (5, 3)

    The versions of a name begin with 1 and only rise, also over ``delete`` and ``init``.

    Names are strings of 1 to 1,024 bytes of UTF-8, any character. Values: see ``shoal.shm.codec``.
    Raises ``TypeError`` or ``ValueError`` for a bad argument and ``LimitExceededError`` for one too large, before
    anything is sent; ``StoreFullError`` if there is no room; ``CorruptionError`` for a record that is none.
    """

    __slots__ = ()
    view = StateView

    def init(self, run_id: str, name: str, value: Value) -> int:
        """Create a cell and return its version: 1 for a name never used, else one above its last.

        Raises ``AlreadyExistsError`` if the cell is there. Never conflicts.
        """
        return self._views[run_id].init(name, value)

    def read(self, run_id: str, name: str) -> State | None:
        """The cell's state, or None if it is not there."""
        return self._views[run_id].read(name)

    def cas(self, run_id: str, name: str, expected_version: int, value: Value) -> int:
        """Give the cell a value if it is at ``expected_version``, and return the new version.

        Raises ``CASConflictError``, which says what version it is at, and ``NotFoundError`` if it is not there.
        """
        return self._views[run_id].cas(name, expected_version, value)

    def set(self, run_id: str, name: str, value: Value) -> int:
        """Give the cell a value, whatever is there, and return its version. Creates it; never conflicts."""
        return self._views[run_id].set(name, value)

    def delete(self, run_id: str, name: str) -> bool:
        """Delete the cell; whether it was there. Its last version is kept, so that none is used twice."""
        return self._views[run_id].delete(name)

    def exists(self, run_id: str, name: str) -> bool:
        """Whether the cell is there."""
        return self._views[run_id].exists(name)

    def list(self, run_id: str, prefix: str = "") -> builtins.list[str]:
        """The names of the cells that begin with ``prefix``, sorted."""
        return self._views[run_id].list(prefix)

    def transition(
        self,
        run_id: str,
        name: str,
        fn: Callable[[State], tuple[Value, T]],
        timeout: float | None = SINGLE_CALL_TIMEOUT_S,
    ) -> T:
        """Give the cell the value that ``fn`` makes of its state, and return the result ``fn`` gives beside it.

        ``fn(State) -> (new_value, result)`` must be pure: it runs again each time somebody else was first.

        Raises ``ConflictError`` if somebody else still is after ``timeout`` seconds (None: goes on for ever),
        ``NotFoundError`` if the cell is not there, ``TypeError`` if ``fn`` returns something else than a pair, and
        whatever ``fn`` raises; then nothing was written.
        """
        return self._views[run_id].transition(name, fn, timeout)

    def wait(self, run_id: str, name: str, version: int, timeout: float | None = None) -> State | None:
        """The cell's state once it is newer than ``version`` (0: once it is there); at once if it is already.

        None if that does not happen within ``timeout`` seconds; None waits for ever. While the cell is deleted there is
        no state. ``NotFoundError`` if the run is deleted meanwhile: versions begin with 1 again, so ``version`` says
        nothing any more. (That it was deleted before the call cannot be told.)
        """
        view, engine = self._views[run_id], self._db.engine
        _check_version("version", version)
        give_up_s = time.monotonic() + check_wait("timeout", timeout)
        look_s = 0.0
        mark = view.mark(name)
        while True:
            published = engine.published()
            state = view.read(name)
            if state is not None and state.version > version:
                return state
            before, mark = mark, view.mark(name)
            _check_goes_on(name, before, mark)
            left_s = give_up_s - time.monotonic()
            if left_s <= 0:
                return None
            time.sleep(min(look_s, left_s))
            # A commit in the last moment still counts: only a look after the time is up ends the wait.
            engine.wait_beyond(published, give_up_s)
            look_s = min(max(look_s * 2, _SHORTEST_LOOK_S), _LONGEST_LOOK_S)


def _check_pair(returned: object) -> None:
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TypeError(f"fn returned {returned!r:.100}, not a pair; return a tuple (new_value, result)")


def _check_goes_on(name: str, before: tuple[int, bool, int], now: tuple[int, bool, int]) -> None:
    """``NotFoundError`` if a cell's record is another one now and did not follow that of before."""
    if before != now and now[:2] <= before[:2]:
        raise NotFoundError(
            f"cell {name!r} was at version {before[0]} when its run was deleted, which forgets the versions; "
            "read the cell to see what it is now, and wait for what follows that"
        )


def _check_version(what: str, version: object) -> None:
    if not isinstance(version, int) or isinstance(version, bool):
        raise TypeError(f"{what} has type {type(version).__name__}; give an int")
    if not 0 <= version <= MAX_INTEGER:
        raise ValueError(f"{what} is {shown(version)}; give a version that read has shown, which are from 1 on")

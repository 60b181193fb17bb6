"""StateCell: versioned cells of a run, changed by compare-and-swap."""

from __future__ import annotations

import builtins
import time
from collections.abc import Callable
from typing import TypeVar

from shoal.primitives.facades.facade import Facade
from shoal.primitives.keys import only
from shoal.primitives.views.cells import State, StateView, check_version, mark, newer_state
from shoal.shm.arguments import check_wait
from shoal.shm.codec import Value
from shoal.shm.limits import SINGLE_CALL_TIMEOUT_S

T = TypeVar("T")


class StateCell(Facade[StateView]):
    """Named cells of a run whose every value has a version, each call a transaction of its own.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     cells = shoal.StateCell(db)
    ...     cells.init("run-1", "budget", 10)
    ...     cells.cas("run-1", "budget", 1, 9)
    ...     cells.transition("run-1", "budget", lambda state: (state.value - 4, state.value >= 4))
    ...     state = cells.wait("run-1", "budget", 2, timeout=10)
    ...     state.value, state.version
    1
    2
    True
    (5, 3)

    ``db``: what ``shoal.open`` returns. ``namespace``: whose runs these are.

    The versions of a name begin with 1 and only rise, also over ``delete`` and ``init``; ``delete_run`` forgets them.
    A name is a str of 1 to 1,024 bytes of UTF-8, any character; a value any that ``KVStore`` stores. ``TypeError``,
    ``ValueError`` and ``LimitExceededError`` are raised before anything is sent.

    Any call may also raise ``InvalidOperationError`` (the database is closed, or a write to one that only reads),
    ``CoordinatorLostError``, ``StoreMovedError`` and ``CorruptionError`` (a record is none); a write
    ``StoreFullError``; a listing ``SnapshotExpiredError`` if it takes very long.
    """

    __slots__ = ()
    _view = StateView

    def init(self, run_id: str, name: str, value: Value) -> int:
        """Create a cell and return its version: 1 for a name never used, else one above its last. Never conflicts.

        Raises ``AlreadyExistsError`` if the cell is there, and ``TypeError``, ``ValueError`` or ``LimitExceededError``
        for a bad run id, name or value.
        """
        return self._views[run_id].init(name, value)

    def read(self, run_id: str, name: str) -> State | None:
        """The cell's state, or None if it is not there.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id or name.
        """
        return self._views[run_id].read(name)

    def cas(self, run_id: str, name: str, expected_version: int, value: Value) -> int:
        """Give the cell a value if it is at ``expected_version``, and return the new version.

        Raises ``CASConflictError``, which says what version it is at, ``NotFoundError`` if it is not there, and
        ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id, name, version or value.
        """
        return self._views[run_id].cas(name, expected_version, value)

    def set(self, run_id: str, name: str, value: Value) -> int:
        """Give the cell a value, whatever is there, and return its version. Creates it; never conflicts.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id, name or value.
        """
        return self._views[run_id].set(name, value)

    def delete(self, run_id: str, name: str) -> bool:
        """Delete the cell; whether it was there. Its last version is kept, so that none is used twice.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id or name.
        """
        return self._views[run_id].delete(name)

    def exists(self, run_id: str, name: str) -> bool:
        """Whether the cell is there.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id or name.
        """
        return self._views[run_id].exists(name)

    def list(self, run_id: str, prefix: str = "") -> builtins.list[str]:
        """The names of the cells that begin with ``prefix``, sorted.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id or prefix.
        """
        return self._views[run_id].list(prefix)

    def transition(
        self,
        run_id: str,
        name: str,
        fn: Callable[[State], tuple[Value, T]],
        timeout: float | None = SINGLE_CALL_TIMEOUT_S,
    ) -> T:
        """Give the cell the value that ``fn`` makes of its state, and return the result ``fn`` gives beside it.

        ``fn(State) -> (new_value, result)`` must be pure: it runs again each time another process was first.

        Raises ``ConflictError`` if the cell still changes after ``timeout`` seconds (None: goes on for ever),
        ``NotFoundError`` if it is not there, ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad
        argument, for an ``fn`` that is async or returns no pair or a bad value, and whatever ``fn`` raises; then
        nothing was written.
        """
        return self._views[run_id].transition(name, fn, timeout)

    def wait(self, run_id: str, name: str, version: int, timeout: float | None = None) -> State | None:
        """The cell's state once it is newer than ``version`` (0: once it is there); at once if it is already.

        None if that does not happen within ``timeout`` seconds; a ``timeout`` of None waits for ever. While the cell is
        deleted there is no state.

        Raises ``NotFoundError`` if the run is deleted meanwhile: versions begin with 1 again, so ``version`` says
        nothing any more (a deletion before the call cannot be noticed). ``TypeError``, ``ValueError`` or
        ``LimitExceededError`` for a bad argument.
        """
        view = self._views[run_id]
        check_version("version", version)
        give_up_s = time.monotonic() + check_wait("timeout", timeout)
        last = mark(view, name)

        def look() -> State | None:
            nonlocal last
            state, last = newer_state(view, name, version, last)
            return state

        return self._db._store.auto_commit.wait_for(look, [only(view._key(name))], give_up_s)

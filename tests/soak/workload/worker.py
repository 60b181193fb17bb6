"""What all operations of a worker share: the loop, the ledger, the clock, the retries."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import shoal
from shoal.shm.memory.layout import W_COORDINATOR_PID
from tests.soak import ledger
from tests.soak.ledger import Ledger, Slots, note_time
from tests.soak.workload import names

T = TypeVar("T")


class Noting:
    """A process that does one thing after the other, until it is told to stop or killed, and notes each."""

    def __init__(
        self,
        db: shoal.Database,
        slots: Slots,
        index: int,
        who: str,
        directory: Path,
        rng: random.Random,
        pause_s: float,
        stops: object,  # true once it is to end
    ) -> None:
        self._db, self._slots, self._slot, self._who, self._directory = db, slots, slots.slot(index), who, directory
        self._rng = rng
        self._pause_s = pause_s
        self._kv, self._log, self._cells = shoal.KVStore(db), shoal.EventLog(db), shoal.StateCell(db)
        self._traces, self._index = shoal.TraceStore(db), shoal.RunIndex(db)
        self._queue, self._budget = shoal.TaskQueue(db), shoal.Budget(db)
        self._rolled = -1  # the last event it appended to the log of all windows
        self._number = 0
        self._ledger: Ledger | None = None
        self._held: tuple[shoal.Transaction, str, dict[str, Any], float] | None = None
        self._stops = stops

    def _let_go(self) -> None:
        """Close the snapshot that is held; what holds one says how."""
        raise NotImplementedError

    def work(self, mix: dict[str, int]) -> None:
        """Do what ``mix`` has, by weight."""
        calls: list[Callable[[], None]] = [getattr(self, f"_{name}") for name in mix]
        weights = list(mix.values())
        try:
            while not self._stops:
                window = self._slots.window
                if window != self._slot[ledger.WINDOW] or self._ledger is None:
                    self._enter(window)
                self._number += 1
                try:
                    self._rng.choices(calls, weights)[0]()
                    if self._held is not None and time.monotonic() >= self._held[3]:
                        self._let_go()
                except shoal.SnapshotExpiredError:  # a reader that was stopped for too long: it reads something else
                    self._slot[ledger.CONFLICTS] += 1
                if self._pause_s:
                    time.sleep(self._rng.expovariate(1 / self._pause_s))
            self._let_go()
        except BaseException:
            self._complain(traceback.format_exc())
            raise

    def _enter(self, window: int) -> None:
        if self._ledger is not None:
            self._ledger.close()
        self._slot[ledger.WINDOW] = window
        self._run = names.run_of(window)
        self._began = time.monotonic()
        self._ledger = Ledger(self._directory, window, self._who)
        self._sizes: dict[int, int] = {}
        self._told: list[tuple[int, int]] = []
        self._recorded: list[str] = []
        self._expiring: list[tuple[str, float]] = []
        self._pairs = 0

    def _complain(self, what: str) -> None:
        if self._ledger is not None:
            self._ledger.write("x", what)

    def _expect(self, what: str, found: Any, expected: Any) -> None:
        if found != expected:
            self._complain(f"{what} gave {found!r:.300}, expected was {expected!r:.300}")

    # --- how a call is noted ----------------------------------------------------------------------------------------

    def _commit(
        self, kind: str, what: Any, call: Callable[[], T], tell: Callable[[T], Any] = lambda result: result
    ) -> T:
        assert self._ledger is not None
        number = self._number
        self._ledger.write("i", kind, number, what)
        begun = time.perf_counter_ns()
        result = call()
        note_time(self._slot, ledger.COMMIT_HISTOGRAM, ledger.SLOWEST_COMMIT, time.perf_counter_ns() - begun)
        self._ledger.write("a", kind, number, tell(result))
        self._count_commit()
        return result

    def _count_commit(self) -> None:
        slot = self._slot
        slot[ledger.COMMITS] += 1
        # The segment that answered, not the newest there may be.
        store: Any = self._db._store
        pid = store.connection.attachment.reader.words[W_COORDINATOR_PID]
        if slot[ledger.COORDINATOR] != pid:
            slot[ledger.COORDINATOR_COMMITS] = 0
            slot[ledger.COORDINATOR] = pid
        slot[ledger.COORDINATOR_COMMITS] += 1

    def _read(self, call: Callable[..., T], *arguments: Any) -> T:
        begun = time.perf_counter_ns()
        result = call(*arguments)
        note_time(self._slot, ledger.READ_HISTOGRAM, ledger.SLOWEST_READ, time.perf_counter_ns() - begun)
        self._slot[ledger.READS] += 1
        return result

    def _transact(self, change: Callable[[shoal.Transaction], Any]) -> tuple[int, Any]:
        """Again after each conflict, counting them; the version and what ``change`` returned."""
        attempt = 0
        while True:
            try:
                with self._db.transaction(self._run) as txn:
                    result = change(txn)
                return txn.version, result
            except (shoal.ConflictError, shoal.SnapshotExpiredError):
                self._slot[ledger.CONFLICTS] += 1
                attempt += 1
                time.sleep(self._rng.uniform(0, min(0.02, 0.0002 * 2**attempt)))

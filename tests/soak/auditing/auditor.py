"""A store's auditor: a process that opens windows, audits those that all workers have left, and deletes them again.

So everything acknowledged is audited, and what is kept of it does not grow. With each window come two clients that
record a history for the replay oracle (``history``) and go again; with some of them a backup, which is opened.
"""

from __future__ import annotations

import mmap
import multiprocessing
import pickle
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import shoal
from tests.soak.auditing.audit import audit, clear, end, prepare
from tests.soak.auditing.breach import ANOMALY, KINDS, LEFT_BEHIND, UNSOUND, WRONG, Breach
from tests.soak.auditing.fleet import trimmed
from tests.soak.ledger import Slots
from tests.soak.sightings import SENSES, seen
from tests.soak.workload import names
from tests.soak.workload.operations import LINGER_S, TIMEOUT_S
from tests.support.histories import history_workers
from tests.support.histories.history import Event, violations
from tests.support.histories.history_workers import Plan, Recorder, plan_transaction
from tests.support.workers.crash_workers import processes_of, wait_for

HISTORIANS, TRANSACTIONS_EACH = 2, 100
BACKUP_EVERY = 5  # windows
AUDITED = ("acknowledged", "refused", "untold", "transactions", "doubts", "sightings", "gaps")
COUNTED = ("windows", *AUDITED, "replayed", "backups")
_FORK = multiprocessing.get_context("fork")


class Board:
    """Counts that the auditor writes and all may read, and the word by which it is told to come to an end."""

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, 4096)).cast("Q")
        self._place = {name: i + 1 for i, name in enumerate((*COUNTED, *KINDS))}

    def add(self, name: str, count: int = 1) -> None:
        """Count on."""
        self._words[self._place[name]] += count

    def counts(self) -> dict[str, int]:
        """All counts."""
        return {name: self._words[place] for name, place in self._place.items()}

    @property
    def stopping(self) -> bool:
        """Whether no more windows are to be opened."""
        return bool(self._words[0])

    def stop(self) -> None:
        """Have the auditor audit what there is, and end."""
        self._words[0] = 1


class Auditor:
    """What the process does."""

    def __init__(self, path: Path, slots: Slots, board: Board, directory: Path, seed: str, window_s: float) -> None:
        self._path, self._slots, self._board, self._directory = path, slots, board, directory
        self._seed = seed
        self._window_s = window_s
        self._db: shoal.Database

    def run(self) -> None:
        """Window after window. The first has been prepared and opened by whoever starts this process."""
        with shoal.open(self._path, timeout=TIMEOUT_S, linger=LINGER_S) as self._db:
            window = self._slots.window
            while not self._board.stopping:
                historians = self._send_historians(window)
                self._wait(self._window_s)
                prepare(self._db, window + 1)
                self._slots.window = window + 1
                self._replay(historians)
                if window % BACKUP_EVERY == 0:
                    self._back_up()
                self._close(window)
                window += 1
            self._close(window)
            self.report(trimmed(self._db))
            shoal.RunIndex(self._db).delete_run(names.ROLLING)

    def report(self, breaches: list[Breach]) -> None:
        """Count, and write down."""
        if not breaches:
            return
        with open(self._directory / "breaches.txt", "a", encoding="utf-8") as out:
            for breach in breaches:
                self._board.add(breach.kind)
                out.write(f"{self._path.name}: {breach.kind}: {' | '.join(breach.what.splitlines())}\n")

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._board.stopping and time.monotonic() < until:
            time.sleep(min(0.05, seconds))

    def _close(self, window: int) -> None:
        wait_for(lambda: self._slots.all_beyond(window), f"the workers to leave window {window}", pause_s=0.01)
        end(self._db, window)
        ledgers = self._directory / "ledgers" / self._path.name
        left_s = time.monotonic()
        wait_for(lambda: len(seen(ledgers, window)) == len(SENSES), f"the watcher of window {window}", pause_s=0.01)
        time.sleep(max(0.0, names.LONGEST_TTL_S + 0.1 - (time.monotonic() - left_s)))
        found = audit(self._db, window, ledgers)
        for name in AUDITED:
            self._board.add(name, getattr(found, name))
        self._board.add("windows")
        self.report(found.breaches + clear(self._db, window, ledgers))

    def _send_historians(self, window: int) -> list[tuple[Any, Path]]:
        sent = []
        for i in range(HISTORIANS):
            out = self._directory / f"history-{self._path.name}-{i}.pickle"
            process = _FORK.Process(target=_record, args=(self._path, f"h{i}", f"{self._seed}/{window}/{i}", out))
            process.start()
            sent.append((process, out))
        return sent

    def _replay(self, historians: list[tuple[Any, Path]]) -> None:
        events: list[Event] = []
        statuses = []
        for process, _ in historians:
            process.join()
            statuses.append(process.exitcode)
            process.close()
        if any(statuses):
            raise RuntimeError(f"the recording clients ended with {statuses}")
        for _, out in historians:
            events += [Event(*event) for event in pickle.loads(out.read_bytes())]
            out.unlink()
        with shoal.open(self._path, timeout=TIMEOUT_S, linger=LINGER_S) as db:
            recorder = Recorder(db, "end")
            recorder.run(0, Plan("snapshot", [("scan", "", None, None)], [0.0]))
            self._board.add("replayed", len(events))
            self.report([Breach(ANOMALY, what) for what in violations(events + recorder.events)[:20]])
            shoal.RunIndex(db).delete_run(history_workers.RUN)

    def _back_up(self) -> None:
        """Copy the store while it is written to; what is opened from the copy is sound and of one moment."""
        copy = self._directory / f"backup-{self._path.name}"
        while True:
            try:
                self._db.backup(copy)
                break
            except shoal.SnapshotExpiredError:  # it took too long while room was short: another try
                shutil.rmtree(copy)
        with shoal.open(copy, timeout=TIMEOUT_S, linger=0.0) as db:
            self.report([Breach(UNSOUND, f"the backup: {what}") for what in db.check()])
            for window in (self._slots.window - 1, self._slots.window):
                with db.snapshot(names.run_of(window)) as view:
                    sides = [view.kv.list_with_values(side) for side in (names.LEFT, names.RIGHT)]
                    counts = [sorted(count for _, count in side) for side in sides]
                    if counts[0] != counts[1] or sum(counts[0]) != view.kv.get(names.SHARED, 0):
                        self.report([Breach(WRONG, f"the backup holds part of a transaction: {sides}")])
                    chain = view.events.verify_chain()
                    if not chain.is_valid:
                        self.report([Breach(WRONG, f"the chain of events in the backup: {chain}")])
        wait_for(lambda: not processes_of(copy), "the coordinator of the backup to end", pause_s=0.05)
        shutil.rmtree(copy)
        self._board.add("backups")


def _record(path: Path, name: str, seed: str, out: Path) -> None:
    rng = random.Random(seed)
    with shoal.open(path, timeout=TIMEOUT_S, linger=LINGER_S) as db:
        recorder = Recorder(db, name)
        for number in range(TRANSACTIONS_EACH):
            recorder.run(number, plan_transaction(rng, f"{name}.{number}"))
    out.write_bytes(pickle.dumps([tuple(event) for event in recorder.events]))


def run_auditor(path: Path, slots: Slots, board: Board, directory: Path, seed: str, window_s: float) -> None:
    """Main function of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    auditor = Auditor(path, slots, board, directory, seed, window_s)
    try:
        auditor.run()
    except BaseException as error:
        auditor.report([Breach(LEFT_BEHIND if isinstance(error, AssertionError) else WRONG, f"the auditor: {error!r}")])
        raise

"""A watcher: a process that sees what others change, and notes it; killed, the next one goes on where it was.

It has four senses, each a thread of its own: a watch of the keys of a window, a watch of its runs, a follower of its
log, and a consumer with a durable position. Each goes on until it sees what the auditor writes when all workers have
left the window. There are two watchers, for odd windows and for even ones: the next window begins before one is over.
"""

from __future__ import annotations

import functools
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import shoal
from shoal.primitives.facades import event_log
from tests.soak.ledger import Slots
from tests.soak.sightings import CONSUMER, EVENTS, KEYS, RUNS, SENSES, Sightings, brief, seen, since_of
from tests.soak.workload import names
from tests.soak.workload.operations import LINGER_S, TIMEOUT_S
from tests.soak.workload.stopping import start_prepared

WATCHERS = 2
_LOOK_EVERY_S = 0.02
_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 0.05, 2.0  # a watch ends when nothing comes for so long, and another goes on
Changes = Callable[[int, float], Iterator[tuple[int, str, Any]]]


class Watcher:
    """What the process does."""

    def __init__(self, db: shoal.Database, slots: Slots, index: int, directory: Path, seed: str, stops: object) -> None:
        self._db, self._slots, self._index, self._directory, self._seed = db, slots, index, directory, seed
        self._kv, self._log, self._runs = shoal.KVStore(db), shoal.EventLog(db), shoal.RunIndex(db)
        self._stops = stops

    def watch(self) -> None:
        """Its windows, one after the other, until it is told to stop."""
        current = self._slots.window
        window = current - (current - self._index) % WATCHERS
        while not self._stops:
            if self._slots.window < window:
                time.sleep(_LOOK_EVERY_S)
                continue
            if window >= 0 and len(seen(self._directory, window)) < len(SENSES):
                since = self._kv.get(names.run_of(window), names.SINCE)
                if since is not None:  # else the window was seen, audited and deleted
                    self.watch_window(window, since)
            window += WATCHERS

    def watch_window(self, window: int, since: int) -> None:
        """With all senses that have not seen the end of it yet."""
        left = [sense for sense in SENSES if sense not in seen(self._directory, window)]
        threads = [threading.Thread(target=self._sense, args=(sense, window, since), daemon=True) for sense in left]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _sense(self, sense: str, window: int, since: int) -> None:
        run, book = names.run_of(window), Sightings(self._directory, window, sense)
        rng = random.Random(f"{self._seed}/{sense}/{window}/{len(book.before)}")
        see = {KEYS: self._see_keys, RUNS: self._see_runs, EVENTS: self._see_events, CONSUMER: self._see_consumer}
        try:
            see[sense](book, run, since, rng)
        except Exception:  # the audit of the window tells it; nobody is to wait for more of this sense
            book.write("x", traceback.format_exc())
        book.finish()

    # --- watches ----------------------------------------------------------------------------------------------------

    def _see_keys(self, book: Sightings, run: str, since: int, rng: random.Random) -> None:
        def changes(since: int, timeout_s: float) -> Iterator[tuple[int, str, Any]]:
            for version, key, value in self._kv.watch(run, since=since, timeout=timeout_s):
                yield version, key, brief(value)

        def state(view: shoal.Transaction) -> dict[str, Any]:
            return {key: brief(value) for key, value in view.kv.list_with_values()}

        self._see_changes(book, since, rng, changes, functools.partial(self._state, run, state))

    def _see_runs(self, book: Sightings, run: str, since: int, rng: random.Random) -> None:
        def changes(since: int, timeout_s: float) -> Iterator[tuple[int, str, Any]]:
            for version, run_id, metadata in self._runs.follow(since, timeout_s):
                if run_id == run and metadata is not None and names.END in metadata.tags:
                    yield version, names.END, 1
                elif run_id.startswith(f"{run}/"):
                    yield version, run_id, None if metadata is None else metadata.status

        def state(view: shoal.Transaction) -> dict[str, Any]:
            children = view.runs.get_child_runs(run)
            forks = [fork for child in children for fork in view.runs.get_child_runs(child.run_id)]
            own = view.runs.get_run(run)
            ended = {names.END: 1} if own is not None and names.END in own.tags else {}
            return ended | {each.run_id: each.status for each in [*children, *forks]}

        self._see_changes(book, since, rng, changes, functools.partial(self._state, run, state))

    def _state(self, run: str, read: Callable[[shoal.Transaction], dict[str, Any]]) -> tuple[int, dict[str, Any]]:
        with self._db.snapshot(run) as view:
            found = read(view)
        return view.version, found

    def _see_changes(
        self,
        book: Sightings,
        since: int,
        rng: random.Random,
        changes: Changes,
        state: Callable[[], tuple[int, dict[str, Any]]],
    ) -> None:
        """Until the end is seen: also over watches that end by themselves, and from a snapshot if there is a gap."""
        before = since_of(book.before)
        since = since if before is None else before
        book.write("r", since)
        while True:
            try:
                for version, name, value in changes(since, rng.uniform(_SHORTEST_WAIT_S, _LONGEST_WAIT_S)):
                    book.write("s", version, name, value)
                    if name == names.END:
                        return
                    since = version
            except shoal.SnapshotExpiredError:
                since, found = state()
                book.write("g", since, found)
                if names.END in found:
                    return

    # --- the log ----------------------------------------------------------------------------------------------------

    def _see_events(self, book: Sightings, run: str, _since: int, rng: random.Random) -> None:
        start = 1 + max((line[1] for line in book.before if line[0] == "s"), default=-1)
        book.write("r", start)
        while True:
            for event in self._log.follow(run, start, rng.uniform(_SHORTEST_WAIT_S, _LONGEST_WAIT_S)):
                book.write("s", event.sequence, event.event_type, event.payload)
                if event.event_type == names.END:
                    return
                start = event.sequence + 1

    def _see_consumer(self, book: Sightings, run: str, _since: int, _rng: random.Random) -> None:
        """Where it goes on is not in its file, but in the store."""
        while True:
            with self._log.consumer(run, names.WATCHING, wait=None) as consumer:
                book.write("r", consumer.position)
                if self._is_over(run, consumer.position):
                    return
                try:
                    for event in consumer:
                        book.write("s", event.sequence, event.event_type, event.payload)
                        consumer.commit(event.sequence)
                        book.write("c", event.sequence)
                        if event.event_type == names.END:
                            return
                except shoal.FencedError:  # it was stopped for too long: another try
                    continue

    def _is_over(self, run: str, position: int) -> bool:
        """Whether the consumer is done with the end: a watcher killed right after that has not noted it."""
        last = self._log.read(run, position - 1) if position else None
        return last is not None and last.event_type == names.END


def start_watcher(path: Path, slots: Slots, index: int, directory: Path, seed: str) -> Any:
    """A process that watches until SIGTERM, which it heeds between windows."""
    return start_prepared(_run_watcher, path, slots, index, directory, seed)


def _run_watcher(path: Path, slots: Slots, index: int, directory: Path, seed: str) -> None:
    module: Any = event_log
    module.TTL_S = names.LEASE_TTL_S  # so long a consumer's name is held by one that died without a coordinator
    stops: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stops.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    with shoal.open(path, timeout=TIMEOUT_S, linger=LINGER_S) as db:
        Watcher(db, slots, index, directory, seed, stops).watch()

"""The audit of a window: every acknowledgement in its ledgers against what the store holds, once nobody works in it.

All is read from one snapshot, so a commit that was still on its way when its worker was killed is either in it, whole,
or not at all; both are right, as nobody was told. Everything acknowledged must be there, once, and nothing else.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import shoal
from tests.soak.auditing.breach import ANOMALY, DOUBLED, LEFT_BEHIND, LOST, UNSOUND, WRONG, Breach, Done
from tests.soak.auditing.effects import effect_breaches, effects
from tests.soak.auditing.fleet import fleet_breaches
from tests.soak.auditing.watching import watched_window
from tests.soak.ledger import Operation, ledgers, read_ledger
from tests.soak.sightings import forget, seen
from tests.soak.workload import names
from tests.support.histories import list_append
from tests.support.histories.list_append import ListTransaction, Status


class Audit(NamedTuple):
    """What was found in a window."""

    acknowledged: int
    refused: int
    untold: int
    transactions: int  # of the list history
    doubts: int  # that were told of effects
    sightings: int
    gaps: int  # in what was watched
    breaches: list[Breach]


def prepare(db: shoal.Database, window: int) -> None:
    """What a window's workers find."""
    run = names.run_of(window)
    shoal.RunIndex(db).create_run(run_id=run, tags=["window"])
    shoal.StateCell(db).init(run, names.COUNTER, 0)
    shoal.Budget(db).create(run, names.BUDGET, names.BUDGET_LIMIT)
    if shoal.RunIndex(db).get_run(names.ROLLING) is None:
        shoal.RunIndex(db).create_run(run_id=names.ROLLING)
        policy = shoal.RetentionPolicy(events=names.ROLLING_EVENTS)
        shoal.RunIndex(db).set_retention(policy, run_id=names.ROLLING)
    shoal.KVStore(db).put(run, names.SINCE, db.info().commit_version)


def end(db: shoal.Database, window: int) -> None:
    """Tell those that watch a window, which all workers have left, that nothing more will come."""
    db.check()  # what the killed have left in their pipes comes before
    run = names.run_of(window)
    shoal.KVStore(db).put(run, names.END, 1)
    shoal.EventLog(db).append(run, names.END, None)
    shoal.RunIndex(db).add_tags(run, [names.END])


def audit(db: shoal.Database, window: int, directory: Path) -> Audit:
    """Compare a window with its ledgers."""
    by_kind: dict[str, list[Operation]] = defaultdict(list)
    breaches: list[Breach] = []
    whos = []
    for who, path in ledgers(directory, window):
        operations, complaints = read_ledger(who, path)
        breaches += [Breach(WRONG, what) for what in complaints]
        whos.append(who)
        for operation in operations:
            by_kind[operation.kind].append(operation)
    # It comes after everything the coordinator was sent before: what the killed have left in their pipes is done.
    breaches += [Breach(UNSOUND, what) for what in db.check()]
    while True:
        try:
            began = time.monotonic()
            with db.snapshot(names.run_of(window)) as view:
                found = _Window(view, by_kind, whos, began).breaches()
                watched = watched_window(db, view, by_kind, seen(directory, window))
            found += fleet_breaches(db, names.run_of(window), by_kind)
            found += effect_breaches(db, names.run_of(window), by_kind)
            break
        except shoal.SnapshotExpiredError:
            continue
    every = [operation for operations in by_kind.values() for operation in operations]
    outcomes = Counter(operation.outcome for operation in every)
    doubts = sum(len(effect.doubts()) for effect in effects(by_kind))
    breaches += found + watched.breaches
    transactions = len(by_kind["list"])
    return Audit(
        outcomes["a"], outcomes["f"], outcomes[""], transactions, doubts, watched.sightings, watched.gaps, breaches
    )


def clear(db: shoal.Database, window: int, directory: Path) -> list[Breach]:
    """Delete what a window held, and its ledgers; whatever is left of it is a breach."""
    run = names.run_of(window)
    runs, kv = shoal.RunIndex(db), shoal.KVStore(db)
    leaves = [names.scratch(run, who) for who, _ in ledgers(directory, window)]
    leaves += [fork.run_id for child in runs.get_child_runs(run) for fork in runs.get_child_runs(child.run_id)]
    for name in leaves:
        try:
            runs.delete_run(name)
        except shoal.NotFoundError:
            continue
    runs.delete_run(run, cascade_children=True)
    left = [key for name in (run, *leaves) for key in kv.list(name)]
    left += [child.run_id for child in runs.get_child_runs(run)]
    for _, path in ledgers(directory, window):
        path.unlink()
    forget(directory, window)
    return [Breach(LEFT_BEHIND, f"{left[:3]} after window {window} was deleted")] if left else []


class _Window:
    def __init__(
        self, view: shoal.Transaction, by_kind: dict[str, list[Operation]], whos: list[str], began: float
    ) -> None:
        self._view = view
        self._by_kind = by_kind
        self._whos = whos
        self._began = began
        self._breaches: list[Breach] = []

    def breaches(self) -> list[Breach]:
        """Everything that is not as it was acknowledged."""
        self._uniques()
        self._sum("increment", self._view.kv.get(names.SUM, 0))
        counter = self._view.state.read(names.COUNTER)
        self._sum("transition", counter.value if counter else -1)
        if counter is None or counter.version != counter.value + 1:
            self._say(DOUBLED, f"the counter is at {counter}: a version for each transition was promised")
        self._events()
        self._traces()
        self._pairs()
        self._lists()
        self._children()
        return self._breaches

    def _say(self, kind: str, what: str) -> None:
        self._breaches.append(Breach(kind, what))

    def _done(self, kind: str) -> Done:
        return Done(self._by_kind[kind])

    def _compare(self, what: str, found: Iterable[Any], told: Iterable[Any], untold: Iterable[Any]) -> None:
        """Acknowledged is there once; there is only what was acknowledged or may have been done untold."""
        counts = Counter(list(found))
        told = set(told)
        for name in told - counts.keys():
            self._say(LOST, f"{what} {name} was acknowledged and is not there")
        for name in counts.keys() - told - set(untold):
            self._say(WRONG, f"{what} {name} is there and nobody asked for it")
        for name, count in counts.items():
            if count > 1:
                self._say(DOUBLED, f"{what} {name} is there {count} times")

    def _uniques(self) -> None:
        puts, deletes = self._done("put"), self._done("delete")
        sizes = {names.unique(o.who, o.number): o for o in puts.told + puts.open}
        deleted = {names.unique(o.who, o.what) for o in deletes.told}
        perhaps = {names.unique(o.who, o.what) for o in deletes.open}
        found = dict(self._view.kv.list_with_values(names.UNIQUE))
        told = {names.unique(o.who, o.number) for o in puts.told} - deleted
        untold = {names.unique(o.who, o.number) for o in puts.open} | perhaps
        self._compare("key", found, told - perhaps, untold)
        for key, value in found.items():
            put = sizes.get(key)
            if put is not None and value != names.content(put.who, put.number, put.what):
                self._say(WRONG, f"key {key} holds {value!r:.100}")
        if expired := self._view.kv.list(names.EXPIRING):
            self._say(WRONG, f"keys {expired[:3]} are there after they expired")

    def _sum(self, kind: str, total: int) -> None:
        done = self._done(kind)
        told = Counter(o.result for o in done.told)
        for number, times in told.items():
            if times > 1:
                self._say(DOUBLED, f"{kind}: {number} was told {times} times")
        if total < len(done.told) or (told and max(told) > total):
            self._say(LOST, f"{kind}: {len(done.told)} were acknowledged, the last as {max(told)}, the sum is {total}")
        if total > len(done.told) + len(done.open):
            self._say(DOUBLED, f"{kind}: {len(done.told)} acknowledged and {len(done.open)} untold, the sum is {total}")

    def _events(self) -> None:
        singles, pairs = self._done("append"), self._done("pair")
        chain = self._view.events.verify_chain()
        if not chain.is_valid:
            self._say(WRONG, f"the chain of events: {chain}")
        events = list(self._view.events.iter())
        if [event.sequence for event in events] != list(range(self._view.events.len())):
            self._say(WRONG, "the events have gaps")
        for kind, done in (("single", singles), ("pair", pairs)):
            found = [tuple(event.payload) for event in events if event.event_type == kind]
            told, untold = ([(o.who, o.number) for o in some] for some in (done.told, done.open))
            self._compare(f"{kind} event", found, told, untold)
        by_sequence = {event.sequence: event.payload for event in events}
        for o in singles.told:
            if by_sequence.get(o.result, [o.who, o.number]) != [o.who, o.number]:
                self._say(WRONG, f"{o.who} was told that event {o.number} has sequence {o.result}")

    def _traces(self) -> None:
        done, pairs = self._done("record"), self._done("pair")
        ids = self._view.traces.list()
        told, untold = ([names.trace(o.who, o.number) for o in some] for some in (done.told, done.open))
        self._compare("trace", [i for i in ids if not i.startswith("pair-")], told, untold)
        told, untold = ([f"pair-{o.who}-{o.number}" for o in some] for some in (pairs.told, pairs.open))
        self._compare("trace", [i for i in ids if i.startswith("pair-")], told, untold)
        for who in self._whos:
            tagged = [trace.id for trace in self._view.traces.query_by_tag(who)]
            mine = [i for i in ids if i.startswith(f"trace-{who}-")]
            if sorted(tagged) != sorted(mine):
                self._say(WRONG, f"tag {who} finds {len(tagged)} traces of {len(mine)}")

    def _pairs(self) -> None:
        done = self._done("pair")
        told, untold = Counter(o.who for o in done.told), Counter(o.who for o in done.open)
        total = 0
        for who in self._whos:
            left, right = (self._view.kv.get(f"{side}{who}", 0) for side in (names.LEFT, names.RIGHT))
            cell = self._view.state.read(f"{names.PAIRS_CELL}{who}")
            if not left == right == (cell.value if cell else 0):
                self._say(WRONG, f"part of a transaction of {who}: {left}, {right} and {cell}")
            if left < told[who]:
                self._say(LOST, f"{who} was told of {told[who]} pairs, {left} are there")
            if left > told[who] + untold[who]:
                self._say(DOUBLED, f"{who} was told of {told[who]} pairs (+{untold[who]} untold), {left} are there")
            total += left
        if self._view.kv.get(names.SHARED, 0) != total:
            self._say(LOST, f"{total} pairs are there, {self._view.kv.get(names.SHARED, 0)} in the key they share")
        for version, times in Counter(o.result[0] for o in done.told).items():
            if times > 1:
                self._say(DOUBLED, f"version {version} was given to {times} transactions")

    def _lists(self) -> None:
        lists = dict(self._view.kv.list_with_values(names.LISTS))
        done = self._by_kind["list"]
        told = [value for o in done if o.outcome == "a" for name, _, value in o.result[1] if name == "append"]
        untold = [value for o in done if not o.outcome for name, _, value in o.what if name == "append"]
        self._compare("list element", (value for elements in lists.values() for value in elements), told, untold)
        self._breaches += [
            Breach(ANOMALY, f"{what.name}: {what.text}")
            for what in list_append.anomalies(history(done, lists, self._began))
        ]

    def _children(self) -> None:
        runs = self._view.runs
        created, forked, dropped = self._done("create"), self._done("fork"), self._done("drop")
        children = [run.run_id for run in runs.get_child_runs(self._view_run())]
        self._compare("run", children, [o.what for o in created.told], [o.what for o in created.open])
        forks = [fork.run_id for child in children for fork in runs.get_child_runs(child)]
        gone, perhaps = {o.what for o in dropped.told}, {o.what for o in dropped.open}
        told = {o.what for o in forked.told} - gone
        self._compare("fork", forks, told - perhaps, {o.what for o in forked.open} | perhaps)

    def _view_run(self) -> str:
        return self._view._run_id


def history(done: list[Operation], final: dict[str, list[str]], read_at: float) -> list[ListTransaction]:
    """A window's list-append transactions as the checker takes them, and the audit's own read of all lists."""
    transactions = []
    status: dict[str, Status] = {"a": "committed", "f": "aborted", "": "unknown"}
    keys = dict.fromkeys(final)
    for o in done:
        steps = o.result[1] if o.outcome == "a" else [step for step in o.what if step[0] == "append"]
        operations = [list_append.Operation(*step) for step in steps]
        transactions.append(ListTransaction(o.who, status[o.outcome], o.start, o.end, operations))
        keys |= dict.fromkeys(operation.key for operation in operations)
    reads = [list_append.Operation("read", key, [*final.get(key, [])]) for key in keys]
    return [*transactions, ListTransaction("audit", "committed", read_at, read_at, reads)]

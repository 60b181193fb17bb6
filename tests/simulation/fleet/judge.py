"""Judges what a fleet did in a history: every check over every commit, and what clients saw against them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import shoal
from shoal.coordinator.log.format import LogRecord
from shoal.shared_memory_store import SharedMemoryStore
from shoal.shm import codec, holder_index
from tests.simulation.fleet.amounts import Budgets, Once, Retention
from tests.simulation.fleet.facts import COMMITTED, FLEET, KV, Fact
from tests.simulation.fleet.holders import Fences, Leases, Queues
from tests.simulation.fleet.plan import TTLS_S
from tests.simulation.fleet.presence import Ends
from tests.simulation.fleet.replay import Commit, State, replay
from tests.simulation.truth import Problem
from tests.support.present import present

# Longer than anything is held by who does not answer.
_AT_ONCE_S = 0.15
_ALL_ENDED_S = max(TTLS_S) + 0.6

Seen = tuple[int, bytes, Any]  # version, key, value


class Last(NamedTuple):
    """What the last process found: at which version, all keys there, and the events of the fleet's log."""

    version: int
    keys: dict[bytes, bytes]
    events: list[shoal.Event]
    held: list[int]  # the holders that there were a little after the last client had gone


def look_at_last(store: SharedMemoryStore, db: shoal.Database, sleep: Callable[[float], None]) -> Last:
    """What a process finds when nobody else has lived for longer than anything is held."""
    sleep(_AT_ONCE_S)
    entries = store.auto_commit.scan(holder_index.PREFIX, holder_index.BEHIND)
    held = [holder_index.decode_key(key)[0] for key, _ in entries]
    sleep(_ALL_ENDED_S)
    log = shoal.EventLog(db)
    events = log.read_range(FLEET, log.first_sequence(FLEET), log.len(FLEET))
    snapshot = store.begin(read_only=True)
    keys = {key: found.value for key, found in snapshot.scan(b"", b"\xff" * 8)}
    snapshot.abandon()
    return Last(present(snapshot.version), keys, events, held)


def judge_fleet(
    facts: list[Fact],
    records: list[LogRecord],
    done: dict[tuple[int, int], int],
    submitted_ms: dict[int, int],
    logged_ms: dict[int, int],
    cuts: dict[int, int],
    last: Last,
    ends: Ends | None = None,
) -> list[Problem]:
    """Every problem; ``cuts``: the last version that is left of each boot whose end took some away."""
    once = Once(facts, cuts)
    checks: list[Any] = [Leases(), Queues(), Fences(facts, done), Budgets(facts, done), once, Retention(facts)]
    if ends is not None:
        checks.append(ends)
        ends.problems += [("ends at once", f"{holder} holds something after its end") for holder in last.held]
    state: State = {}
    expiring: set[bytes] = set()
    changes: list[Seen] = []
    problems: list[Problem] = []
    for commit in replay(records, submitted_ms, logged_ms, state, expiring):
        if commit.version == last.version + 1:
            problems += _same(last, state, expiring)
        for check in checks:
            check.see(commit, state)
        changes += _changes(commit)
    if not records or records[-1].version <= last.version:
        problems += _same(last, state, expiring)
    once.finish(state)
    for check in checks:
        problems += check.problems
    problems += _watched(facts, changes, cuts)
    problems += _appended(facts, cuts, last.events)
    left = {key: value for key, value in state.items() if key.startswith(holder_index.PREFIX)}
    if left:
        problems.append(("all ends", f"nobody lives, and {left} are held"))
    for fact in facts:
        if fact.kind == "fenced" and fact.outcome == COMMITTED and fact.commit not in done and not _is_void(fact, cuts):
            problems.append(("fenced", f"{fact} was told that it is done, and is not there"))
    return problems


def _is_void(fact: Fact, cuts: dict[int, int]) -> bool:
    return fact.boot in cuts and fact.version > cuts[fact.boot]


def _same(last: Last, state: State, expiring: set[bytes]) -> list[Problem]:
    """The store is what its log says."""
    wrong = {key for key in last.keys if last.keys[key] != state.get(key)}
    gone = {key for key in state if key not in last.keys and key not in expiring}
    return [("the store is its log", f"at {last.version}: {wrong} differ, {gone} are missing")] if wrong | gone else []


def _changes(commit: Commit) -> list[Seen]:
    return [
        (commit.version, key, None if after is None else codec.decode(after))
        for key, (_, after) in sorted(commit.changed.items())
        if key.startswith(KV)
    ]


def _watched(facts: list[Fact], changes: list[Seen], cuts: dict[int, int]) -> list[Problem]:
    """Each watch saw each change once, in order, from its beginning on."""
    problems: list[Problem] = []
    for fact in facts:
        if fact.kind != "watched":
            continue
        prefix, before, begun = fact.about
        through = fact.version
        if fact.boot in cuts:
            through = min(through, cuts[fact.boot])
        seen = [(version, KV + key.encode(), value) for version, key, value in fact.seen if version <= through]
        expected = [
            each for each in changes if before < each[0] <= through and each[1].startswith(KV + prefix.encode())
        ]
        later = [each for each in seen if each[0] > through]
        from_then = next((each[0] for each in seen), begun + 1)
        expected = [each for each in expected if each[0] >= min(from_then, begun + 1)]
        if seen != expected or later:
            problems.append(("watch", f"{fact} saw {seen}, and there was {expected}"))
    return problems


def _appended(facts: list[Fact], cuts: dict[int, int], events: list[shoal.Event]) -> list[Problem]:
    """The events that were told are there, unless they were trimmed."""
    found = {event.sequence: event for event in events}
    problems: list[Problem] = []
    first = events[0].sequence if events else 1 << 62
    for fact in facts:
        if fact.kind != "appended" or _is_void(fact, cuts):
            continue
        for told, payload in zip(fact.seen, fact.about[0], strict=False):
            event = found.get(told.sequence)
            if told.sequence >= first and (event is None or (event.payload, event.hash) != (payload, told.hash)):
                problems.append(("event chain", f"{told} of {fact} is {event}"))
    return problems

"""Judges a history: strict serializability two ways, exactly once, event chains, expiry, durability."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

import shoal
from shoal.coordinator.log.format import COORDINATOR, LogRecord, decode_decided
from shoal.coordinator.log.reader import read_commit
from shoal.shm.codec import unpackb
from tests.simulation.client import Attempt
from tests.simulation.fleet.facts import Fact
from tests.simulation.fleet.judge import Last, judge_fleet
from tests.simulation.fleet.presence import Ends
from tests.simulation.truth import Problem, Truth
from tests.support.histories.acknowledged import Told, broken_chain, not_exactly_once
from tests.support.histories.history import Event, violations
from tests.support.histories.list_append import ListTransaction, anomalies
from tests.support.present import present


class Moments(NamedTuple):
    """Between which moments each commit was decided, by version: no clock is looked at twice in the same one."""

    submitted_ms: dict[int, int]
    logged_ms: dict[int, int]


def judge(
    attempts: list[Attempt],
    truth: Truth,
    moments: Moments,
    prefix: bytes,
    events: list[shoal.Event],
    facts: list[Fact],
    last: Last | None,
    ends: Ends | None,
) -> list[Problem]:
    """Every problem of a history; ``moments`` of commits by version, ``events`` as the log has them at the end."""
    records = truth.finish()
    problems = list(truth.problems)
    done = _versions(records)
    kept = _surviving(attempts, truth, done)
    told = [Told(*present(each.commit), each.told) for each in kept if _must_be_logged(each)]
    problems += [("exactly once", text) for text in not_exactly_once(told, records)]
    problems += [("replay", text) for text in violations([event for each in kept for event in _as_events(each, done)])]
    problems += [(anomaly.name, anomaly.text) for anomaly in anomalies(_as_lists(kept))]
    problems += [("event chain", text) for text in broken_chain([e for each in kept for e in each.events], events)]
    problems += _appends_in_real_time(kept)
    problems += _expiry(records, kept, done, moments, prefix)
    if last is not None:
        cuts = {boot: version for boot, (version, lost) in enumerate(truth.cuts, 1) if lost}
        problems += judge_fleet(facts, records, done, *moments, cuts, last, ends)
    return problems


def _versions(records: list[LogRecord]) -> dict[tuple[int, int], int]:
    """Which version each client's commit has; a commit that is there twice is ``not_exactly_once``'s affair."""
    done: dict[tuple[int, int], int] = {}
    for record in records:
        if record.client_id != COORDINATOR:
            done.setdefault((record.client_id, record.commit_id), record.version)
        elif record.decided:
            for client_id, commit_id, _ in decode_decided(record.decided).outcomes:
                done.setdefault((client_id, commit_id), record.version)
    return done


def _must_be_logged(attempt: Attempt) -> bool:
    """Whether it was told a version, and wrote: a delete of nothing writes nothing."""
    if not attempt.told or attempt.commit is None:
        return False
    return not (len(attempt.steps) == 1 and attempt.steps[0][0] == "delete" and attempt.steps[0][3] is False)


def _surviving(attempts: list[Attempt], truth: Truth, done: dict[tuple[int, int], int]) -> list[Attempt]:
    """Those that the power cuts left: the others happened in a time that is void, rightly or not."""
    kept = []
    for attempt in attempts:
        cuts = truth.cuts[attempt.boot - 1 :]
        position = max(attempt.told, attempt.snapshot)
        version = done.get(attempt.commit) if attempt.commit else None
        if cuts and cuts[0][1]:
            last = cuts[0][0]
            single_read = attempt.snapshot < 0 and not attempt.told and version is None
            if position > last or (single_read and not truth.strict):
                continue
        kept.append(attempt)
    return kept


def _as_events(attempt: Attempt, done: dict[tuple[int, int], int]) -> list[Event]:
    version = done.get(attempt.commit, 0) if attempt.commit else 0
    if not attempt.steps:
        return []
    if version:
        kind = "update"
    elif attempt.snapshot >= 0:
        kind = "read" if attempt.status == "committed" else "aborted"
    elif attempt.status != "committed":
        return []
    elif attempt.steps[0][0] == "get":
        kind = "latest"
    elif not _must_be_logged(attempt) and attempt.told:
        return [Event(attempt.who, "read", attempt.told, 0, attempt.start, attempt.end, attempt.steps)]
    else:
        return []  # committed, as it was told, and not logged: ``not_exactly_once`` has said so
    return [Event(attempt.who, kind, attempt.snapshot, version, attempt.start, attempt.end, attempt.steps)]


def _as_lists(attempts: list[Attempt]) -> list[ListTransaction]:
    """What the list-append checker is shown: what clients saw, and no version."""
    status: dict[str, Any] = {"refused": "aborted"}
    return [
        ListTransaction(each.who, status.get(each.status, each.status), each.start, each.end, each.list_operations)
        for each in attempts
        if each.list_operations
    ]


def _appends_in_real_time(attempts: list[Attempt]) -> list[Problem]:
    """An append that begins after another was answered stands behind it in the log."""
    problems = []
    told = [(each, each.events[0].sequence) for each in attempts if each.events]
    for first, sequence in told:
        for second, later in told:
            if first.end < second.start and sequence > later:
                text = f"{second.who} was given {later}, {first.who} had been given {sequence} before"
                problems.append(("event chain", text))
    return problems


def _expiry(
    records: list[LogRecord],
    attempts: list[Attempt],
    done: dict[tuple[int, int], int],
    moments: Moments,
    prefix: bytes,
) -> list[Problem]:
    """Keys go when their time has come and not before, and nobody commits because of one that has gone."""
    problems: list[Problem] = []
    states: dict[bytes, list[tuple[int, bytes | None, int]]] = defaultdict(list)  # version, value, expiry
    for record in records:
        commit = read_commit("log", 0, record)
        for lower, upper in commit.clears:
            for key, versions in states.items():
                if lower <= key < upper:
                    versions.append((record.version, None, 0))
        for key, value, expires_ms in zip(commit.writes[::3], commit.writes[1::3], commit.writes[2::3], strict=True):
            if value is None and commit.client_id == COORDINATOR and key.startswith(prefix):
                _, before, moment = states[key][-1] if states[key] else (0, None, 0)
                now_ms = moments.logged_ms[record.version]
                if before is not None and not 0 < moment <= now_ms:
                    text = f"at {record.version} {key!r} was swept, which expires at {moment}; it was {now_ms}"
                    problems.append(("expiry", text))
            states[key].append((record.version, value, expires_ms))
    for attempt in attempts:
        version = done.get(attempt.commit) if attempt.commit else None
        for read in attempt.expiring:
            versions = states[prefix + read.key.encode()]
            problems += _judge_read(attempt.who, read, _state_at(versions, attempt.snapshot))
            if version:
                value, moment = _state_at(versions, version - 1)
                # Who found it must have been submitted before its time came, who did not logged after.
                looked_ms = (moments.logged_ms if read.found is None else moments.submitted_ms)[version]
                now = None if value is None or 0 < moment <= looked_ms else unpackb(value)
                if now != read.found:
                    text = f"{attempt.who} counted on {read.key} as {read.found!r} and committed at {version}"
                    problems.append(("expiry", f"{text}, when it was {now!r}"))
    return problems


def _state_at(versions: list[tuple[int, bytes | None, int]], at: int) -> tuple[bytes | None, int]:
    found: tuple[bytes | None, int] = (None, 0)
    for version, value, moment in versions:
        if version <= at:
            found = (value, moment)
    return found


def _judge_read(who: str, read: Any, state: tuple[bytes | None, int]) -> list[Problem]:
    value, moment = state
    possible = []
    if value is not None and (not moment or moment > read.first_ms):
        possible.append(unpackb(value))
    if value is None or 0 < moment <= read.last_ms:
        possible.append(None)
    if read.found in possible:
        return []
    return [("expiry", f"{who} read {read.key} as {read.found!r}, possible were {possible!r}")]

"""Two more oracles: what was acknowledged is logged exactly once, and an event log is one chain of what was told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import shoal
from shoal.coordinator.log.format import COORDINATOR, LogRecord, decode_decided


class Told(NamedTuple):
    """A commit that its client was told of, and that wrote something."""

    client_id: int
    commit_id: int
    version: int


class ToldEvent(NamedTuple):
    """An append as its caller knows it."""

    sequence: int
    hash: bytes
    event_type: str
    payload: Any


def not_exactly_once(told: Iterable[Told], records: Iterable[LogRecord]) -> list[str]:
    """Commits that a whole log has twice, lacks though they were acknowledged, or has at another version."""
    problems = []
    logged: dict[tuple[int, int], int] = {}
    for client_id, commit_id, version in _logged(records):
        other = logged.setdefault((client_id, commit_id), version)
        if other != version:
            problems.append(f"commit {commit_id} of client {client_id} was done at {other} and again at {version}")
    for client_id, commit_id, version in told:
        found = logged.get((client_id, commit_id))
        if found is None:
            problems.append(f"commit {commit_id} of client {client_id} was acknowledged at {version} and is not logged")
        elif found != version:
            problems.append(f"commit {commit_id} of client {client_id} was told {version} and was done at {found}")
    return problems


def _logged(records: Iterable[LogRecord]) -> Iterator[Told]:
    for record in records:
        if record.client_id != COORDINATOR:
            yield Told(record.client_id, record.commit_id, record.version)
        if record.decided:
            outcomes = decode_decided(record.decided).outcomes
            yield from (Told(client_id, commit_id, record.version) for client_id, commit_id, _ in outcomes)


def broken_chain(told: Sequence[ToldEvent], events: Sequence[shoal.Event]) -> list[str]:
    """Where an event log is no chain without gaps, or not what the callers of ``append`` were told."""
    verified = shoal.EventLog.verify(events)
    problems = [] if verified.is_valid else [f"event {verified.first_invalid}: {verified.error}"]
    owners: dict[int, ToldEvent] = {}
    for mine in told:
        other = owners.setdefault(mine.sequence, mine)
        if other is not mine:
            problems.append(f"sequence {mine.sequence} was given to {other.payload!r} and to {mine.payload!r}")
        elif mine.sequence >= len(events):
            problems.append(f"event {mine.sequence} was acknowledged, and the log has {len(events)}")
        else:
            found = events[mine.sequence]
            if ToldEvent(found.sequence, found.hash, found.event_type, found.payload) != mine:
                problems.append(f"event {mine.sequence} is {found.payload!r}, its caller was told of {mine.payload!r}")
    payloads = [event.payload for event in events]
    if len(set(payloads)) < len(payloads):
        twice = next(payload for payload in payloads if payloads.count(payload) > 1)
        problems.append(f"{twice!r} was appended once and is there more than once")
    return problems

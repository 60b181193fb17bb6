"""The audit of what was seen of a window: each change once, in order, nothing missed, whoever was killed meanwhile.

Nothing here trusts what one watch told about itself. Each key goes through states that its workers give it one by one,
so a change that is missing, doubled or out of order shows; whatever was acknowledged was seen, in the commit that the
worker was told; the last of each key is what the store holds; and the log is what its followers have seen of it.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import shoal
from shoal.primitives.views.fleet.positions import position_key, read_position
from tests.soak.auditing.breach import ANOMALY, DOUBLED, LOST, WRONG, Breach, Done
from tests.soak.ledger import Operation
from tests.soak.sightings import CONSUMER, EVENTS, KEYS, RUNS, brief, read_sightings
from tests.soak.workload import names

_COUNTED = (names.SUM, names.SHARED, names.TURNS, names.CONSUMED)
_COUNTED_BELOW = (names.LEFT, names.RIGHT, names.EFFECTS)
_PUT_ONCE = (names.UNIQUE, names.EXPIRING, names.END, names.SINCE)
Lines = list[list[Any]]
ByKind = dict[str, list[Operation]]


class Watched(NamedTuple):
    """What was found."""

    sightings: int
    gaps: int
    breaches: list[Breach]


class Sighting(NamedTuple):
    """A change that was seen; or, with no name, everything that was read after a gap."""

    version: int
    name: str
    value: Any


def watched_window(db: shoal.Database, view: shoal.Transaction, by_kind: ByKind, files: dict[str, Path]) -> Watched:
    """Compare what was seen with what was acknowledged, and with what the store holds."""
    lines = {sense: read_sightings(path) for sense, path in files.items()}
    marks = [line[0] for each in lines.values() for line in each]
    found = [Breach(WRONG, f"{sense}: {line[1]}") for sense, each in lines.items() for line in each if line[0] == "x"]
    if KEYS in lines:
        found += key_breaches(lines[KEYS], dict(view.kv.list_with_values()), by_kind)
    if RUNS in lines:
        found += run_breaches(lines[RUNS], view, by_kind)
    log = [[event.sequence, event.event_type, event.payload] for event in view.events.iter()]
    if EVENTS in lines:
        found += follower_breaches(lines[EVENTS], log)
    if CONSUMER in lines:
        key = position_key(shoal.Namespace(), view._run_id, names.WATCHING)
        found += consumer_breaches(lines[CONSUMER], log, read_position(db._store.auto_commit, key))
    return Watched(marks.count("s"), marks.count("g"), found)


def story(lines: Lines) -> list[Sighting]:
    """The sightings of all processes that watched, one after the other: what the next one sees again is left out."""
    told: list[Sighting] = []
    for mark, *parts in lines:
        if mark == "r":
            while told and told[-1].version > parts[0]:
                told.pop()
        elif mark == "s":
            told.append(Sighting(*parts))
        elif mark == "g":
            told.append(Sighting(parts[0], "", parts[1]))
    return told


# --- keys and runs --------------------------------------------------------------------------------------------------


def key_breaches(lines: Lines, held: dict[str, Any], by_kind: ByKind) -> list[Breach]:
    """``held``: what the window holds now that it is over."""
    told = story(lines)
    found = [*_order("key", told), *_steps(told), *_parts(told)]
    last = {key: value for key, value in _last(told).items() if not key.startswith(names.EXPIRING)}
    held = {key: brief(value) for key, value in held.items()}
    found += [
        Breach(LOST, f"key {key} was seen as {last.get(key)!r:.100}, and is {held.get(key)!r:.100}")
        for key in last.keys() | held.keys()
        if last.get(key) != held.get(key)
    ]
    return [*found, *_told_keys(told, defaultdict(list, by_kind))]


def run_breaches(lines: Lines, view: shoal.Transaction, by_kind: ByKind) -> list[Breach]:
    """A run comes into being once and goes once; those that are left are there."""
    told = story(lines)
    found = list(_order("run", told))
    before: dict[str, Any] = {}
    for _, name, status in told:
        if not name:
            before = dict(status)
        elif (status is None) == (before.get(name) is None):
            found.append(Breach(DOUBLED, f"run {name} was seen as {before.get(name)}, and then as {status}"))
        before = before | {name: status}
    children = view.runs.get_child_runs(view._run_id)
    there = {each.run_id for child in children for each in [child, *view.runs.get_child_runs(child.run_id)]}
    seen = {name for name, status in _last(told).items() if status is not None and name != names.END}
    found += [Breach(LOST, f"run {name} is there, and was not seen") for name in there - seen]
    found += [Breach(LOST, f"run {name} is not there, and its end was not seen") for name in seen - there]
    if all(sighting.name for sighting in told):
        sighted = {(name, status is None) for _, name, status in told}
        for kind, is_end in (("create", False), ("fork", False), ("drop", True)):
            for o in Done(by_kind.get(kind, [])).told:
                if (o.what, is_end) not in sighted:
                    found.append(Breach(LOST, f"{kind} of {o.what} was acknowledged, and was not seen"))
    return found


def _last(told: list[Sighting]) -> dict[str, Any]:
    """What was seen last of each name, if it is still there."""
    last: dict[str, Any] = {}
    for _, name, value in told:
        if name:
            last[name] = value
        else:
            last = dict(value)
    return {name: value for name, value in last.items() if value is not None}


def _order(what: str, told: list[Sighting]) -> Iterator[Breach]:
    """By version, and within a commit by name; each once."""
    for one, other in itertools.pairwise(told):
        if other[:2] == one[:2]:
            yield Breach(DOUBLED, f"{what} {other.name} was seen twice in version {other.version}")
        elif other[:2] < one[:2]:
            yield Breach(ANOMALY, f"{what} {other.name} of version {other.version} was seen after {one[:2]}")


def _steps(told: list[Sighting]) -> Iterator[Breach]:
    """Each value follows from the one before."""
    held: dict[str, Any] = {}
    for version, name, value in told:
        if not name:
            held = dict(value)
            continue
        kind = _wrong_step(name, held.get(name), value)
        if kind is not None:
            yield Breach(kind, f"key {name} was seen as {value!r:.100} in {version}, after {held.get(name)!r:.100}")
        held[name] = value


def _wrong_step(name: str, before: Any, value: Any) -> str | None:
    """The kind of a breach that shows when ``value`` comes after ``before``, None if there is none."""
    if name.startswith(_PUT_ONCE):
        return DOUBLED if (before is None) == (value is None) else None
    if value is None:
        return WRONG
    if name in _COUNTED or name.startswith(_COUNTED_BELOW):
        due = (before or 0) + 1
        return None if value == due else LOST if value > due else DOUBLED
    if name.startswith(names.LISTS):
        is_longer = len(value) > len(before or []) and value[: len(before or [])] == (before or [])
        return None if is_longer else ANOMALY
    if name == names.LAST_TOKEN:
        return None if value > (before or 0) else ANOMALY
    return WRONG  # nobody writes it


def _parts(told: list[Sighting]) -> Iterator[Breach]:
    """A pair is seen whole: three keys, in one version."""
    by_version: dict[int, set[str]] = defaultdict(set)
    for version, name, _ in told:
        by_version[version].add(name)
    for version, keys in by_version.items():
        left, right = (
            {key.removeprefix(side) for key in keys if key.startswith(side)} for side in (names.LEFT, names.RIGHT)
        )
        if left != right or bool(left) != (names.SHARED in keys):
            yield Breach(ANOMALY, f"part of a transaction was seen in version {version}: {sorted(keys)}")


def _told_keys(told: list[Sighting], by_kind: ByKind) -> Iterator[Breach]:
    """What was acknowledged was seen; with its version, where that was told."""
    if not all(sighting.name for sighting in told):
        return  # it may be in the gap
    values = {(name, value) for _, name, value in told if name.startswith((names.UNIQUE, names.EXPIRING))}
    commits = {(version, name) for version, name, _ in told}
    done = {kind: Done(by_kind[kind]).told for kind in ("put", "delete", "ttl", "pair", "effect", "consume", "list")}
    unversioned = [(names.unique(o.who, o.number), brief(names.content(o.who, o.number, o.what))) for o in done["put"]]
    unversioned += [(names.unique(o.who, o.what), None) for o in done["delete"]]
    unversioned += [(f"{names.EXPIRING}{o.who}/{o.number}", o.number) for o in done["ttl"]]
    versioned = [
        (o.result[0], key)
        for o in done["pair"]
        for key in (f"{names.LEFT}{o.who}", f"{names.RIGHT}{o.who}", names.SHARED)
    ]
    versioned += [(o.result, f"{names.EFFECTS}{o.what}") for o in done["effect"]]
    versioned += [(o.result, names.CONSUMED) for o in done["consume"]]
    versioned += [(o.result[0], key) for o in done["list"] for step, key, _ in o.result[1] if step == "append"]
    for key, value in unversioned:
        if (key, value) not in values:
            yield Breach(LOST, f"key {key} was acknowledged as {value!r:.100}, and was not seen so")
    for version, key in versioned:
        if (version, key) not in commits:
            yield Breach(LOST, f"key {key} was acknowledged in version {version}, and was not seen in it")


# --- the log --------------------------------------------------------------------------------------------------------


def follower_breaches(lines: Lines, log: Lines) -> list[Breach]:
    """All of the log was seen, each event once, in order."""
    told = [line[1:] for line in lines if line[0] == "s"]
    return _compare_events("a follower", told, log)


def consumer_breaches(lines: Lines, log: Lines, position: int) -> list[Breach]:
    """From its durable position on, each process that had the name saw each event; what was done came to none again."""
    found: list[Breach] = []
    told: Lines = []
    done = due = 0  # events that were committed, and the one that comes next
    for mark, *parts in lines:
        if mark == "r":
            due = parts[0]
            if not done <= due <= len(told):
                kind = LOST if due > len(told) else DOUBLED
                found.append(Breach(kind, f"a consumer goes on from {due}; it had seen {len(told)}, and done {done}"))
            del told[due:]
        elif mark == "s":
            told.append(parts)
        elif mark == "c":
            done = parts[0] + 1
    if position != len(log):
        found.append(Breach(LOST, f"a consumer was done with {len(log)} events, and its position is {position}"))
    return found + _compare_events("a consumer", told, log)


def _compare_events(who: str, told: Lines, log: Lines) -> list[Breach]:
    due = [event[0] for event in log]
    sequences = [event[0] for event in told]
    if sequences == due:
        false = [(one, other) for one, other in zip(told, log, strict=True) if one != other]
        return [Breach(WRONG, f"{who} saw {one}, and it is {other}") for one, other in false]
    found = [Breach(LOST, f"{who} did not see event {missed}") for missed in sorted(set(due) - set(sequences))[:3]]
    if len(set(sequences)) < len(sequences):
        found.append(Breach(DOUBLED, f"{who} saw {len(sequences)} events of {len(set(sequences))}"))
    return found or [Breach(ANOMALY, f"{who} saw events out of order, or such as are not there")]

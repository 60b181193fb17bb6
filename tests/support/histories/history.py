"""The oracle: replays a recorded history in the order of commit versions and says where it was not serial.

An event is one transaction as its process saw it. Its steps are checked against a plain dict, own writes included:
- ``update``: at its place among the commits, after every version below its own;
- ``read`` (read only, or it wrote nothing) and ``aborted`` (refused: nothing of it may be seen): at its snapshot;
- ``latest`` (a facade's single read, whose version nobody is told): at some version between those of the transactions
  that had ended before it began and those that began before it ended.
Besides, versions are unique and agree with real time.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, NamedTuple

# name, key or prefix, argument, result; the names are get, scan, put, delete, increment, and clear of a range.
Step = tuple[str, str, Any, Any]
State = dict[str, Any]


class Event(NamedTuple):
    """One transaction: ``snapshot`` is -1 for a single call, which has none; ``version`` is 0 if it is not known."""

    who: str
    kind: str
    snapshot: int
    version: int
    start: float
    end: float
    steps: list[Step]

    @property
    def position(self) -> int:
        """The version at which, or after which, it stands."""
        return self.version if self.kind == "update" else self.snapshot


def violations(events: list[Event]) -> list[str]:
    """Every way in which the history is not strictly serializable in commit-version order; empty if it is."""
    return [*_repeated_versions(events), *_replay(events), *_against_real_time(events), *_latest(events)]


def _repeated_versions(events: list[Event]) -> list[str]:
    owners: dict[int, Event] = {}
    problems = []
    for event in events:
        if event.kind == "update":
            other = owners.setdefault(event.version, event)
            if other is not event:
                problems.append(f"version {event.version} was given to {other.who} and to {event.who}")
    return problems


def _replay(events: list[Event]) -> list[str]:
    problems: list[str] = []
    state: State = {}
    placed = [event for event in events if event.kind != "latest"]
    for event in sorted(placed, key=lambda e: (e.position, e.kind != "update")):
        after, wrong = run_steps(state, event.steps)
        problems += [f"{event.who} ({event.kind} at {event.position}): {what}" for what in wrong]
        if event.kind == "update":
            state = after
    return problems


def run_steps(state: State, steps: list[Step]) -> tuple[State, list[str]]:
    """What a serial execution makes of ``state``, and where it would have answered otherwise."""
    own = dict(state)
    wrong = []
    for name, key, argument, result in steps:
        expected: Any = None
        if name == "get":
            expected = own.get(key)
        elif name == "scan":
            expected = sorted((k, v) for k, v in own.items() if k.startswith(key))
        elif name == "put":
            own[key] = argument
        elif name == "delete":
            expected = own.pop(key, None) is not None
        elif name == "increment":
            expected = own[key] = own.get(key, 0) + argument
        elif name == "clear":
            lower, upper = argument
            own = {k: v for k, v in own.items() if not lower <= k < upper}
        if result != expected:
            wrong.append(f"{name}({key!r}) gave {result!r}, serially it is {expected!r}")
    return own, wrong


def _against_real_time(events: list[Event]) -> list[str]:
    problems = []
    placed = [event for event in events if event.kind != "latest"]
    by_end = sorted(placed, key=lambda event: event.end)
    newest, newest_of, ended = 0, "", 0
    for event in sorted(placed, key=lambda event: event.start):
        while by_end[ended].end < event.start:
            if by_end[ended].position > newest:
                newest, newest_of = by_end[ended].position, by_end[ended].who
            ended += 1
        if event.kind == "update" and event.version <= newest:
            problems.append(f"{event.who} committed at {event.version}, {newest_of} had ended before at {newest}")
        if 0 <= event.snapshot < newest:
            problems.append(f"{event.who} began at snapshot {event.snapshot}, {newest_of} had ended before at {newest}")
    return problems


def _latest(events: list[Event]) -> list[str]:
    """Check the reads that only real time places."""
    problems = []
    updates = sorted((event for event in events if event.kind == "update"), key=lambda event: event.version)
    written: dict[str, tuple[list[int], list[Any]]] = {}
    state: State = {}
    for event in updates:
        after, _ = run_steps(state, event.steps)
        for key in after.keys() | state.keys():
            if after.get(key) != state.get(key):
                versions, values = written.setdefault(key, ([0], [None]))
                versions.append(event.version)
                values.append(after.get(key))
        state = after
    floor = _newest_by(updates, [event.end for event in updates])
    ceiling = _newest_by(updates, [event.start for event in updates])
    for event in events:
        if event.kind != "latest":
            continue
        for _, key, _, result in event.steps:
            versions, values = written.get(key, ([0], [None]))
            first = bisect_right(versions, floor(event.start)) - 1
            last = bisect_right(versions, ceiling(event.end))
            if result not in values[first:last]:
                problems.append(f"{event.who}: get({key!r}) gave {result!r}, possible were {values[first:last]!r}")
    return problems


def _newest_by(updates: list[Event], times: list[float]) -> Any:
    """A function: the newest version among the updates whose moment in ``times`` lies before a given one."""
    moments: list[float] = []
    newest: list[int] = [0]
    for moment, version in sorted(zip(times, (event.version for event in updates), strict=True)):
        moments.append(moment)
        newest.append(max(newest[-1], version))
    return lambda when: newest[bisect_right(moments, when)]

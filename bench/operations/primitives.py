"""Operations on event logs, cells and traces, and on all primitives at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, cycle
from typing import Any

from ..peers import BenchError, Session
from .base import BySeed, Operation, Step

# The most workers that may each have a run of their own.
RUNS = 256
_EVENT_TYPES = ("task_started", "tool_called", "tool_returned", "task_done")
_TAGS = tuple(f"tag-{i}" for i in range(8))
_RUN = "run"
_CELL = "workflow"


class Append(Operation):
    """Appends of all workers to one log."""

    name = "append"
    title = "append: add a small event to one hash-chained log of all processes; no gap, no event lost"

    def targets(self) -> list[str]:
        """The run the log is in."""
        return [_RUN]

    def step(self, session: Session, targets: Sequence[str], worker: int, seed: int) -> Step:
        """All workers use the same few types of events."""
        numbers, types = count(), cycle(_EVENT_TYPES)
        append, run = session.append, targets[0]

        def step() -> None:
            append(run, next(types), _payload(worker, next(numbers)))

        return step

    def check(self, session: Session, targets: Sequence[str], operations: int, by_seed: BySeed = ()) -> None:
        """The log has one event per append, and every hash follows from its event and the hash before."""
        length = session.log_length(targets[0])
        if length != operations:
            raise BenchError(f"{operations} appends were acknowledged and the log has {length} events")


class CompareAndSwap(Operation):
    """Swaps that always find the version they expect."""

    name = "cas"
    title = "cas: compare-and-swap a cell, each process its own; the version known from the swap before"

    def targets(self) -> list[str]:
        """A run for each worker."""
        return _runs()

    def step(self, session: Session, targets: Sequence[str], worker: int, seed: int) -> Step:
        """A worker creates its cell before the clock runs, if it is not there."""
        run = _run_of(targets, worker)
        cas = session.cas
        version = session.version(run, _CELL) or session.create_cell(run, _CELL)

        def step() -> None:
            nonlocal version
            version = cas(run, _CELL, version, {"step": version, "status": "running"})

        return step

    def check(self, session: Session, targets: Sequence[str], operations: int, by_seed: BySeed = ()) -> None:
        """The versions have grown by one for each swap."""
        swaps = sum(version - 1 for run in targets if (version := session.version(run, _CELL)))
        if swaps != operations:
            raise BenchError(f"{operations} swaps were acknowledged and the cells show {swaps}")


class RecordTrace(Operation):
    """Traces recorded by all workers in one run."""

    name = "trace"
    title = "trace: record a thought with one tag, found by id, type, tag and time"

    def targets(self) -> list[str]:
        """The run the traces are in."""
        return [_RUN]

    def step(self, session: Session, targets: Sequence[str], worker: int, seed: int) -> Step:
        """All workers use the same few tags."""
        numbers, tags = count(), cycle(_TAGS)
        trace, run = session.trace, targets[0]

        def step() -> None:
            trace(run, _thought(next(numbers)), next(tags))

        return step

    def check(self, session: Session, targets: Sequence[str], operations: int, by_seed: BySeed = ()) -> None:
        """As many traces are found by their tags as were recorded."""
        found = sum(session.trace_count(targets[0], tag) for tag in _TAGS)
        if found != operations:
            raise BenchError(f"{operations} traces were acknowledged and {found} are found by their tags")


class Cross(Operation):
    """Transactions over all primitives."""

    name = "cross"
    title = "cross: a key, an event, a cell and a trace in one transaction; each process in a run of its own"

    def targets(self) -> list[str]:
        """A run for each worker."""
        return _runs()

    def step(self, session: Session, targets: Sequence[str], worker: int, seed: int) -> Step:
        """The same key and cell each time."""
        numbers = count()
        cross, run = session.cross, _run_of(targets, worker)

        def step() -> None:
            number = next(numbers)
            cross(run, _CELL, _EVENT_TYPES[0], _payload(worker, number), _thought(number), _TAGS[0])

        return step

    def check(self, session: Session, targets: Sequence[str], operations: int, by_seed: BySeed = ()) -> None:
        """Each run has as many events as versions and traces, and all runs together one event per transaction."""
        total = 0
        for run in targets:
            length = session.log_length(run)
            found = [session.version(run, _CELL), session.trace_count(run, _TAGS[0])]
            if found != [length, length]:
                raise BenchError(f"{run} has {length} events, but cell version and traces are {found}")
            total += length
        if total != operations:
            raise BenchError(f"{operations} transactions were acknowledged and the logs have {total} events")


def _runs() -> list[str]:
    return [f"{_RUN}-{i:03}" for i in range(RUNS)]


def _run_of(targets: Sequence[str], worker: int) -> str:
    if worker >= len(targets):
        raise BenchError(f"there are runs for {len(targets)} processes; give no more")
    return targets[worker]


def _payload(worker: int, number: int) -> dict[str, Any]:
    return {"note": "hello" * 10, "task": number, "worker": worker}


def _thought(number: int) -> str:
    return f"step {number}: the next file is smaller"

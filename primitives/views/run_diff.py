"""What two runs differ in: ``runs.diff``.

Both runs are read at one snapshot, side by side in the order of names; of event logs, only what follows the place where
they part is read, which is found by bisection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from shoal.primitives.engine import Engine
from shoal.primitives.event_types import Event
from shoal.primitives.keys import Namespace
from shoal.primitives.rules.hash_chain import canonical
from shoal.primitives.run_contents import holds_anything
from shoal.primitives.trace_types import Trace
from shoal.primitives.views import traces
from shoal.primitives.views.cells import State, StateView
from shoal.primitives.views.events import EventView, trimmed
from shoal.primitives.views.kv import KVView
from shoal.primitives.views.run_records import RunRecords
from shoal.primitives.views.traces import TraceView
from shoal.shm.errors import NotFoundError

T = TypeVar("T")


class Difference(NamedTuple):
    """One thing that two runs differ in.

    ``name``: the key, the name of the cell, the sequence of the event (int) or the id of the trace. ``a``, ``b``: what
    each run has of it: a value, a ``State``, an ``Event`` or a ``Trace``; None if it has none.

    >>> Difference("status", "running", None).a
    'running'
    """

    name: Any
    a: Any
    b: Any


class RunDiff(NamedTuple):
    """What two runs differ in, each part a list of ``Difference`` by name: ``kv``, ``state``, ``events``, ``traces``.

    >>> RunDiff([Difference("status", "running", None)], [], [], []).kv[0].name
    'status'
    """

    kv: list[Difference]
    state: list[Difference]
    events: list[Difference]
    traces: list[Difference]


def diff(engine: Engine, namespace: Namespace, run_a: str, run_b: str) -> RunDiff:
    """What two runs differ in; ``NotFoundError`` for one that is not registered and holds nothing."""
    for run_id in (run_a, run_b):
        prefix = namespace._run_prefix(run_id)
        if RunRecords(engine, namespace._runs_prefix()).find(run_id) is None and not holds_anything(engine, prefix):
            raise NotFoundError(f"run {run_id!r} is not registered and holds nothing; there is nothing to compare")
    kv_a, kv_b = (KVView(engine, namespace, run_id) for run_id in (run_a, run_b))
    state_a, state_b = (StateView(engine, namespace, run_id) for run_id in (run_a, run_b))
    traces_a, traces_b = (_by_id(TraceView(engine, namespace, run_id)) for run_id in (run_a, run_b))
    return RunDiff(
        _named(kv_a.list_with_values(), kv_b.list_with_values(), canonical),
        _named(_states(state_a), _states(state_b), _content_of_state),
        _events(EventView(engine, namespace, run_a), EventView(engine, namespace, run_b)),
        _named(traces_a, traces_b, _content_of_trace),
    )


def _named(a: Iterable[tuple[str, T]], b: Iterable[tuple[str, T]], content: Any) -> list[Difference]:
    """The names of which the two have different things, or only one has one. Both ascend by name."""
    differences = []
    for name, of_a, of_b in _side_by_side(iter(a), iter(b)):
        if of_a is _ABSENT or of_b is _ABSENT or content(of_a) != content(of_b):
            differences.append(Difference(name, *(None if each is _ABSENT else each for each in (of_a, of_b))))
    return differences


_ABSENT: Any = object()


def _side_by_side(a: Iterator[tuple[str, T]], b: Iterator[tuple[str, T]]) -> Iterator[tuple[str, Any, Any]]:
    end: Any = (None, _ABSENT)
    (name_a, of_a), (name_b, of_b) = next(a, end), next(b, end)
    while name_a is not None or name_b is not None:
        if name_b is None or (name_a is not None and _order(name_a) < _order(name_b)):
            yield name_a, of_a, _ABSENT
            name_a, of_a = next(a, end)
        elif name_a is None or _order(name_b) < _order(name_a):
            yield name_b, _ABSENT, of_b
            name_b, of_b = next(b, end)
        else:
            yield name_a, of_a, of_b
            (name_a, of_a), (name_b, of_b) = next(a, end), next(b, end)


def _order(name: str) -> bytes:
    return name.encode()


def _states(view: StateView) -> Iterator[tuple[str, State]]:
    for name in view.list():
        state = view.read(name)
        if state is not None:
            yield name, state


def _content_of_state(state: State) -> Any:
    """What is compared of a cell: not when it was set."""
    return state.version, canonical(state.value)


def _by_id(view: TraceView) -> list[tuple[str, Trace]]:
    return sorted(((trace.id, trace) for trace in traces.dump(view)), key=lambda each: _order(each[0]))


def _content_of_trace(trace: Trace) -> Any:
    """What is compared of a trace: not when it was recorded."""
    said = trace.trace_type
    fields = {name: getattr(said, name) for name in type(said).__dataclass_fields__}  # type: ignore[attr-defined]
    return trace.parent_id, type(said), canonical(fields), trace.tags, canonical(trace.metadata)


def _events(a: EventView, b: EventView) -> list[Difference]:
    """The events from where the logs part. Hashes are chained, so up to there both logs are the same.

    What was trimmed of one log is no difference, if the hashes show that the logs were still the same where both begin.
    If they were not, nobody knows where they part: all events that are left differ.
    """
    begins = a.first_sequence(), b.first_sequence()
    low, high = max(begins), min(a.len(), b.len())
    if low > 0 and _hash_at(a, low - 1) != _hash_at(b, low - 1):
        low = high = min(begins)
    while low < high:
        middle = (low + high) // 2
        if _hash_at(a, middle) == _hash_at(b, middle):
            low = middle + 1
        else:
            high = middle
    of_a, of_b = ({event.sequence: event for event in view.iter(low)} for view in (a, b))
    return [Difference(sequence, of_a.get(sequence), of_b.get(sequence)) for sequence in sorted(of_a.keys() | of_b)]


def _hash_at(view: EventView, sequence: int) -> bytes | None:
    beginning, _ = trimmed(view)
    if sequence == beginning.sequence - 1:  # trimmed, but its hash is kept
        return beginning.prev_hash
    event: Event | None = view.read(sequence)
    return None if event is None else event.hash

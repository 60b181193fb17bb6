"""Names that are members of a str enum, as programs keep theirs. ``str`` and formatting give the name of the member."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Any

import shoal
from shoal import TraceType


class Name(str, Enum):  # noqa: UP042 (a StrEnum gives its text)
    """What ``format`` makes of a member is not its text."""

    JOBS = "jobs"


def test_a_task_is_found_by_the_id_that_its_put_gave(any_db: shoal.Database, run: str) -> None:
    """The id of a task names its queue by the text of the member."""
    queue = shoal.TaskQueue(any_db)
    task_id = queue.put(run, Name.JOBS, 1, key=Name.JOBS)
    assert [info.id for info in queue.list(run, "jobs")] == [task_id]
    assert queue.put(run, "jobs", 3, key="jobs") == task_id
    assert queue.cancel(run, task_id)


def test_traces_are_found_by_their_type(any_db: shoal.Database, run: str) -> None:
    """A query with the member finds what was recorded with it, or with its text."""
    traces = shoal.TraceStore(any_db)
    kinds: list[Any] = [Name.JOBS, "jobs"]
    ids = [traces.record(run, TraceType.Custom(kind, {})) for kind in kinds]
    assert [[trace.id for trace in traces.query_by_type(run, kind)] for kind in kinds] == [ids, ids]


class Number(IntEnum):
    """What ``repr`` makes of a member is not its number."""

    FIRST = 0


def test_results_have_the_text(memory_db: shoal.Database, run: str) -> None:
    """What comes back is a str and an int, whether the name was given as a member or as its text, as in listings."""
    runs, traces, events = shoal.RunIndex(memory_db), shoal.TraceStore(memory_db), shoal.EventLog(memory_db)
    queue, budget = shoal.TaskQueue(memory_db), shoal.Budget(memory_db)
    events.append(run, "started", 1)
    queue.put(Name.JOBS, Name.JOBS, 1)
    budget.create(run, Name.JOBS, 1)
    texts = [
        runs.create_run(run_id=Name.JOBS).run_id,
        runs.add_tags(Name.JOBS, ["tag"]).run_id,
        traces.record(run, TraceType.Thought("x"), id=Name.JOBS),
        queue.list(Name.JOBS, Name.JOBS)[0].queue,
        budget.reserve(run, Name.JOBS, 1).name,
    ]
    found, thought, task = runs.get_run(Name.JOBS), traces.get(run, Name.JOBS), queue.claim(Name.JOBS, Name.JOBS)
    assert found is not None
    assert thought is not None
    assert task is not None
    texts += [found.run_id, thought.id, task.run_id, task.queue]
    with memory_db.lease(run, Name.JOBS) as lease, events.consumer(run, Name.JOBS) as consumer:
        texts += [lease.name, consumer.name]
    assert [(type(text), text) for text in texts] == [(str, "jobs")] * len(texts)
    event = events.read(run, Number.FIRST)
    assert event is not None
    assert type(event.sequence) is int

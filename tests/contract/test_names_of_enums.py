"""Names that are members of a str enum, as programs keep theirs. ``str`` and formatting give the name of the member."""

from __future__ import annotations

from enum import Enum
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

"""The types of ``RunIndex``: statuses, their transitions, metadata, queries, retention; and the stored form of a run.

    record   msgpack [parent or nil, status (1 to 6), created ms, updated ms, completed ms or nil, [tag, ...],
             metadata as encoded, error as encoded]

The run's id is in its key (``views.run_records``). The number of a status is durable and never changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from shoal.primitives.keys import encode_text
from shoal.shm import codec
from shoal.shm.arguments import FOREVER_S, check_bool, check_int, check_seconds, check_str, check_type, text_of
from shoal.shm.codec import Value
from shoal.shm.errors import CorruptionError, LimitExceededError, shown
from shoal.shm.limits import ADVICE_FOR_VALUES, MAX_ENCODED_VALUE_BYTES, MAX_RUN_ID_BYTES, MAX_TIME_MS


class RunStatus(StrEnum):
    """The status of a run. Each is a str equal to its name, so it can be printed, compared and exported as text.

    Active becomes any other; Paused becomes Active, Cancelled or Archived; Completed, Failed and Cancelled become
    Archived. Nothing else: what has ended does not begin again, and Archived is the end.

    >>> RunStatus.Paused.may_become(RunStatus.Active), RunStatus.Completed.may_become(RunStatus.Active)
    (True, False)
    """

    Active = "Active"
    Completed = "Completed"
    Failed = "Failed"
    Cancelled = "Cancelled"
    Paused = "Paused"
    Archived = "Archived"

    def may_become(self, status: RunStatus) -> bool:
        """Whether a run of this status may be given that one."""
        return status in _MAY_BECOME[self]


_TOO_MANY_EVENTS = 1 << 63
_ENDED = frozenset((RunStatus.Completed, RunStatus.Failed, RunStatus.Cancelled))
_ONLY_ARCHIVED = frozenset((RunStatus.Archived,))
_MAY_BECOME: dict[RunStatus, frozenset[RunStatus]] = {
    RunStatus.Active: _ENDED | {RunStatus.Paused, RunStatus.Archived},
    RunStatus.Paused: frozenset((RunStatus.Active, RunStatus.Cancelled, RunStatus.Archived)),
    RunStatus.Completed: _ONLY_ARCHIVED,
    RunStatus.Failed: _ONLY_ARCHIVED,
    RunStatus.Cancelled: _ONLY_ARCHIVED,
    RunStatus.Archived: frozenset(),
}
_NUMBERS: dict[RunStatus, int] = {
    RunStatus.Active: 1,
    RunStatus.Completed: 2,
    RunStatus.Failed: 3,
    RunStatus.Cancelled: 4,
    RunStatus.Paused: 5,
    RunStatus.Archived: 6,
}
_STATUSES = {number: status for status, number in _NUMBERS.items()}


def status_number(status: RunStatus) -> int:
    """The number of a status in records and index keys."""
    return _NUMBERS[status]


@dataclass(frozen=True)
class RunMetadata:
    """A run as the index has it. Times are integer ms since the epoch (UTC).

    ``completed_at`` is when it was completed, failed or cancelled, else None; ``error`` is what ``fail_run`` was given.
    ``parent_run`` may have been deleted since.

    >>> run = RunMetadata("run-1", None, RunStatus.Active, 1, 1, None, ["nightly"], {"model": "m"}, None)
    >>> run.status, run.tags
    (<RunStatus.Active: 'Active'>, ['nightly'])
    """

    run_id: str
    parent_run: str | None
    status: RunStatus
    created_at: int
    updated_at: int
    completed_at: int | None
    tags: list[str]
    metadata: Value
    error: str | None

    def __hash__(self) -> int:
        # Lists have no hash. With one, a run that is given in place of its id is refused by name, as any bad id is.
        return hash((self.run_id, self.updated_at))


@dataclass(frozen=True)
class RunQuery:
    """Which runs ``query_runs`` gives: those for which all that is given holds, ``limit`` at most.

    ``tags``: the run has all of them. ``created_after`` is inclusive and ``created_before`` exclusive, integer ms since
    the epoch. Archived runs only with ``include_archived``, or if ``status`` asks for them.
    Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.

    >>> RunQuery(tags=["nightly"], limit=10).tags
    ['nightly']
    """

    status: RunStatus | None = None
    tags: Iterable[str] | None = None
    created_after: int | None = None
    created_before: int | None = None
    parent_run: str | None = None
    limit: int | None = None
    include_archived: bool = False

    def __post_init__(self) -> None:
        if self.status is not None:
            check_status(self.status)
        object.__setattr__(self, "tags", [] if self.tags is None else check_tags(self.tags))
        for name, value in (("created_after", self.created_after), ("created_before", self.created_before)):
            if value is not None:
                check_int(name, value)
        if self.parent_run is not None:
            encode_text("parent_run", self.parent_run, MAX_RUN_ID_BYTES)
        if self.limit is not None and check_int("limit", self.limit) < 0:
            raise ValueError(f"limit is {self.limit}; give 0 or more, or None for all")
        check_bool("include_archived", self.include_archived)


def matches(query: RunQuery, run: RunMetadata) -> bool:
    """Whether ``run`` is one of those asked for (``limit`` apart)."""
    if query.status is None:
        if run.status is RunStatus.Archived and not query.include_archived:
            return False
    elif run.status is not query.status:
        return False
    return (
        (query.created_after is None or run.created_at >= query.created_after)
        and (query.created_before is None or run.created_at < query.created_before)
        and (query.parent_run is None or run.parent_run == query.parent_run)
        and set(run.tags).issuperset(query.tags or ())
    )


@dataclass(frozen=True)
class RunStats:
    """How many runs there are, and how many of each status; ``total_runs`` counts archived ones, too.

    >>> RunStats(2, 1, 1, 0, 0, 0, 0).total_runs
    2
    """

    total_runs: int
    active_runs: int
    completed_runs: int
    failed_runs: int
    cancelled_runs: int
    paused_runs: int
    archived_runs: int


@dataclass(frozen=True)
class CreateRunOptions:
    """The keywords of ``create_run`` in one object, for ``create_run_with_options``.

    Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.

    >>> CreateRunOptions(run_id="run-1", tags=("a", "b", "a")).tags
    ['a', 'b']
    """

    run_id: str | None = None
    parent_run: str | None = None
    tags: Iterable[str] = ()
    metadata: Value = None

    def __post_init__(self) -> None:
        for name, value in (("run_id", self.run_id), ("parent_run", self.parent_run)):
            if value is not None:
                encode_text(name, value, MAX_RUN_ID_BYTES)
        object.__setattr__(self, "tags", check_tags(self.tags))


@dataclass(frozen=True)
class RetentionPolicy:
    """What is kept of the runs of a namespace, or of one run; None keeps all. ``RunIndex.set_retention`` sets it.

    - ``events`` (int, 0 to 2**63 - 1): the newest events of each log.
    - ``event_age``: events younger than that.
    - ``trace_age``: traces younger than that, and those that have a younger one below them.
    - ``archived_age``: archived runs that were archived, and last changed, less than that ago. Others are deleted.
    - ``task_age``: tasks that ended (Done, Dead or Cancelled) less than that ago, and all that have not ended.

    Ages are seconds (int or float, 0 or more; ``math.inf`` keeps all) or a ``timedelta``. An event goes as soon as one
    of its two bounds says so. Raises ``TypeError`` or ``ValueError`` for a bad argument.

    >>> RetentionPolicy(events=1_000, trace_age=7 * 86_400).trace_age
    604800.0
    """

    events: int | None = None
    event_age: float | timedelta | None = None
    trace_age: float | timedelta | None = None
    archived_age: float | timedelta | None = None
    task_age: float | timedelta | None = None

    def __post_init__(self) -> None:
        if self.events is not None:
            count = check_int("events", self.events, "a whole number, or None to keep all")
            if not 0 <= count < _TOO_MANY_EVENTS:
                raise ValueError(f"events is {shown(count)}; give 0 to 2**63 - 1, or None to keep all")
        for name in ("event_age", "trace_age", "archived_age", "task_age"):
            object.__setattr__(self, name, _check_age(name, getattr(self, name)))


def _check_age(name: str, age: object) -> float | None:
    """An age in seconds; None for ever."""
    if age is None:
        return None
    if isinstance(age, timedelta):
        age = age.total_seconds()
    age_s = check_seconds(name, age, ", a timedelta, or None to keep all")
    return None if age_s >= FOREVER_S else age_s


def check_tags(tags: object) -> list[str]:
    """Tags as they are kept: in the order given, each once. Raises TypeError, ValueError or LimitExceededError."""
    if isinstance(tags, (str, bytes)) or not isinstance(tags, Iterable):
        raise TypeError(f"tags has type {type(tags).__name__}; give a list or tuple of str")
    kept: dict[str, None] = {}
    for tag in tags:
        encode_text("tag", tag)
        kept[tag] = None
    return list(kept)


def check_status(status: object) -> RunStatus:
    """``status`` if it is one, else ``TypeError``."""
    return check_type("status", status, RunStatus, "a shoal.RunStatus")


def encode_run(run: RunMetadata) -> bytes:
    """The stored form of a run, every field checked. Raises TypeError, ValueError or LimitExceededError."""
    if run.parent_run is not None:
        encode_text("parent_run", run.parent_run, MAX_RUN_ID_BYTES)
    for name in ("created_at", "updated_at", "completed_at"):
        time_ms = getattr(run, name)
        if time_ms is None and name == "completed_at":
            continue
        if not 0 <= check_int(name, time_ms) <= MAX_TIME_MS:
            raise ValueError(f"{name} is {time_ms}; give milliseconds since the epoch, below 2**63")
    if run.error is not None:
        check_str("error", run.error, ", as str(exception)")
    fields: list[Any] = [run.parent_run, status_number(check_status(run.status))]
    fields += [run.created_at, run.updated_at, run.completed_at]
    fields += [check_tags(run.tags), codec.encode(run.metadata), codec.encode(run.error)]
    raw = codec.pack(fields)
    if len(raw) > MAX_ENCODED_VALUE_BYTES:
        raise LimitExceededError(
            "size of metadata, tags and error in bytes", MAX_ENCODED_VALUE_BYTES, len(raw), ADVICE_FOR_VALUES
        )
    return raw


def decode_run(run_id: str, raw: bytes) -> RunMetadata:
    """The run whose stored form is ``raw``; ``CorruptionError`` for other bytes."""
    try:
        parent_run, number, created_at, updated_at, completed_at, tags, metadata, error = codec.unpackb(raw)
        run = RunMetadata(
            run_id=text_of(run_id),
            parent_run=parent_run,
            status=_STATUSES[number],
            created_at=created_at,
            updated_at=updated_at,
            completed_at=completed_at,
            tags=tags,
            metadata=codec.decode(metadata),
            error=codec.decode(error),
        )
        times = [created_at, updated_at, *([] if completed_at is None else [completed_at])]
        if parent_run is not None:
            encode_text("parent_run", parent_run, MAX_RUN_ID_BYTES)
        in_text = type(tags) is list and check_tags(tags) == tags and (run.error is None or type(run.error) is str)
        if in_text and all(type(time_ms) is int and 0 <= time_ms <= MAX_TIME_MS for time_ms in times):
            return run
    except (ValueError, TypeError, KeyError, LimitExceededError):
        pass
    expected = "parent, status, times, tags, metadata, error"
    raise CorruptionError(f"the record of run {run_id!r}", 0, expected, f"{len(raw)} bytes of something else")


def has_ended(status: RunStatus) -> bool:
    """Whether a run given this status is done: then its ``completed_at`` is set."""
    return status in _ENDED

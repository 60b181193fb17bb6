"""A write that would change nothing is refused as well where only reads are allowed, before anything is judged.

Each table has every writing method once, called so that there is nothing to write or something else is wrong, too.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import shoal
from tests.promises.read_only.contents import RUN

THOUGHT = shoal.TraceType.Thought("x")
READS = {
    "kv": {"get", "ttl", "exists", "list", "list_with_values"},
    "events": {
        *("read", "read_range", "head", "len", "first_sequence", "is_empty", "iter", "read_by_type"),
        *("verify_chain", "anchor"),
    },
    "state": {"read", "exists", "list"},
    "traces": {
        *("get", "query_by_type", "query_by_tag", "query_by_time", "query", "get_children", "get_tree", "list"),
        "count",
    },
    "runs": {"get_run", "query_runs", "list_runs", "get_child_runs", "get_stats", "diff", "get_retention"},
    "budget": {"read"},
    "queue": {"get", "result", "list", "stats"},
}
# What facades have beside the views. ``consumer`` and ``claim`` take something, so they are in the table.
FACADE_READS = {"transaction", "watch", "follow", "wait", "verify"}

Held = tuple[Any, Any, Any]  # a consumer, a reservation and a task that another database of this process has

OF_VIEWS: dict[str, dict[str, Callable[[Any, Held], object]]] = {
    "kv": {
        "put": lambda kv, _: kv.put("k01", 1),
        "put_with_ttl": lambda kv, _: kv.put_with_ttl("k01", 1, datetime.timedelta.max),
        "delete": lambda kv, _: kv.delete("no such key"),
        "increment": lambda kv, _: kv.increment("text", 0),
    },
    "events": {
        "append": lambda events, _: events.append("step", {}),
        "append_many": lambda events, _: events.append_many([]),
        "trim": lambda events, _: events.trim(0),
        "commit": lambda events, held: events.commit(held[0], 1_000_000),
        "update": lambda events, _: events.update(0),
        "delete": lambda events, _: events.delete(0),
    },
    "state": {
        "init": lambda state, _: state.init("cell", 1),
        "cas": lambda state, _: state.cas("no such cell", 7, 1),
        "set": lambda state, _: state.set("cell", "b"),
        "delete": lambda state, _: state.delete("no such cell"),
        "transition": lambda state, _: state.transition("no such cell", _never),
    },
    "traces": {
        "record": lambda traces, _: traces.record(THOUGHT, parent_id="no such trace"),
        "record_child": lambda traces, _: traces.record_child("no such trace", THOUGHT),
        "record_with_options": lambda traces, _: traces.record_with_options(THOUGHT, shoal.TraceOptions()),
    },
    "runs": {
        "create_run": lambda runs, _: runs.create_run(run_id=RUN),
        "create_run_with_options": lambda runs, _: runs.create_run_with_options(
            shoal.CreateRunOptions(parent_run="no such run")
        ),
        "update_status": lambda runs, _: runs.update_status(RUN, shoal.RunStatus.Active),
        "complete_run": lambda runs, _: runs.complete_run("no such run"),
        "fail_run": lambda runs, _: runs.fail_run("no such run", "why"),
        "pause_run": lambda runs, _: runs.pause_run("no such run"),
        "resume_run": lambda runs, _: runs.resume_run(RUN),
        "cancel_run": lambda runs, _: runs.cancel_run("no such run"),
        "archive_run": lambda runs, _: runs.archive_run("no such run"),
        "add_tags": lambda runs, _: runs.add_tags("no such run", []),
        "remove_tags": lambda runs, _: runs.remove_tags("no such run", ["none"]),
        "update_metadata": lambda runs, _: runs.update_metadata("no such run", None),
        "delete_run": lambda runs, _: runs.delete_run("no such run"),
        "fork_run": lambda runs, _: runs.fork_run("no such run", version=1_000_000),
        "set_retention": lambda runs, _: runs.set_retention(None, "no such run"),
    },
    "budget": {"settle": lambda budget, held: budget.settle(held[1], 0)},
    "queue": {
        "put": lambda queue, _: queue.put("jobs", 1, key="taken"),
        "complete": lambda queue, held: queue.complete(held[2]),
        "fail": lambda queue, held: queue.fail(held[2], "why"),
    },
}
# By the facades' own methods; those of views are called with the run id in front.
OF_FACADES: dict[str, dict[str, Callable[[Any], object]]] = {
    "events": {"consumer": lambda events: events.consumer("no such run", "c")},
    "budget": {
        "create": lambda budget: budget.create(RUN, "tokens", 0),
        "reserve": lambda budget: budget.reserve(RUN, "no such budget", 0),
        "adjust": lambda budget: budget.adjust(RUN, "no such budget", 0),
    },
    "queue": {
        "put": lambda queue: queue.put(RUN, "jobs", 1, key="taken"),
        "put_many": lambda queue: queue.put_many(RUN, "jobs", []),
        "claim": lambda queue: queue.claim(RUN, "empty"),
        "claim_many": lambda queue: queue.claim_many(RUN, "empty", 3),
        "retry": lambda queue: queue.retry(RUN, "no such task"),
        "cancel": lambda queue: queue.cancel(RUN, "no such task"),
        "purge": lambda queue: queue.purge(RUN, "empty", shoal.TaskStatus.Dead),
    },
}
FACADES: dict[str, type[Any]] = {
    "kv": shoal.KVStore,
    "events": shoal.EventLog,
    "state": shoal.StateCell,
    "traces": shoal.TraceStore,
    "runs": shoal.RunIndex,
    "budget": shoal.Budget,
    "queue": shoal.TaskQueue,
}


def _never(_: object) -> Any:
    raise AssertionError("a write that is refused calls nothing")


@pytest.fixture
def held(store: Path) -> Iterator[Held]:
    """What another database of this process holds, of the store that is served meanwhile."""
    with shoal.open(store, linger=0) as db:
        shoal.KVStore(db).put(RUN, "text", "no number")
        budget, queue = shoal.Budget(db), shoal.TaskQueue(db)
        budget.create(RUN, "tokens", 10)
        queue.put(RUN, "jobs", 1, key="taken")
        with (
            shoal.EventLog(db).consumer(RUN, "c") as consumer,
            budget.reserve(RUN, "tokens", 1) as reservation,
        ):
            task = queue.claim(RUN, "jobs")
            assert task is not None
            yield consumer, reservation, task
            reservation.settle(1)  # what was refused has left no trace
            task.complete()
        assert budget.read(RUN, "tokens").used == 1


def _methods(of: Any) -> set[str]:
    return {name for name in dir(of) if not name.startswith("_") and callable(getattr(of, name))}


def _refused(writes: Mapping[str, Callable[[], object]], why: str) -> None:
    wrong = {}
    for name, write in writes.items():
        try:
            wrong[name] = repr(write())
        except shoal.InvalidOperationError as error:
            if why not in str(error) and name not in ("events.update", "events.delete"):
                wrong[name] = str(error)
        except Exception as error:  # what it raises is listed with all the others
            wrong[name] = repr(error)
    assert not wrong


def _of_views(db: shoal.Database, snapshot: shoal.Transaction | None, held: Held) -> dict[str, Callable[[], object]]:
    """Every write through the views of a snapshot, or, without one, of a transaction of its own."""

    def write(name: str, call: Callable[[Any, Held], object]) -> object:
        with contextlib.nullcontext(snapshot) if snapshot is not None else db.transaction(RUN) as txn:
            return call(getattr(txn, name), held)

    return {
        f"{name}.{method}": partial(write, name, call)
        for name, table in OF_VIEWS.items()
        for method, call in table.items()
    }


@pytest.mark.long
@pytest.mark.parametrize("store", ["closed"], indirect=True)
def test_snapshot(store: Path, held: Held) -> None:
    """Through every view of a snapshot, also after its end."""
    with shoal.open(store, linger=0) as db:
        snapshot = db.snapshot(RUN)
        for name, table in OF_VIEWS.items():
            assert _methods(getattr(snapshot, name)) - READS[name] == set(table), name
        _refused(_of_views(db, snapshot, held), "a snapshot only reads")
        snapshot.close()
        _refused(_of_views(db, snapshot, held), "the snapshot has ended")


@pytest.mark.long
@pytest.mark.parametrize("store", ["closed"], indirect=True)
def test_database_that_only_reads(store: Path, held: Held) -> None:
    """Through every facade of it, and in its transactions."""
    with shoal.open(store, read_only=True) as db:
        writes = _of_views(db, None, held)
        _refused(writes, "read_only=True")
        for name, kind in FACADES.items():
            facade = kind(db)
            own = OF_FACADES.get(name, {})
            of_run = {} if name in ("budget", "queue") else OF_VIEWS[name]
            done = {"commit"} if name == "events" else set()  # of a consumer only in a transaction
            assert _methods(facade) - READS[name] - FACADE_READS == (set(of_run) | set(own)) - done, name
            in_front = facade if name == "runs" else _WithRun(facade)
            calls = {f"{name}.{method}": partial(call, facade) for method, call in own.items()}
            for method, of_view in of_run.items():
                if method not in done:
                    calls[f"{name}.{method}"] = partial(of_view, in_front, held)
            _refused(calls, "read_only=True")


class _WithRun:
    """A facade with the methods of its views."""

    def __init__(self, facade: Any) -> None:
        self._facade = facade

    def __getattr__(self, name: str) -> Callable[..., object]:
        method = getattr(self._facade, name)
        return lambda *arguments, **options: method(RUN, *arguments, **options)

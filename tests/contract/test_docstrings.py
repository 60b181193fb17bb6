"""Help for users: every public class and method has it, names every error and shows an example that is true."""

from __future__ import annotations

import dataclasses
import doctest
import enum
import inspect
import pickle
import re
from collections.abc import Iterator
from typing import Any

import pytest

import shoal
from shoal.primitives.facades.pipeline import RunPipeline
from shoal.primitives.trace_types import KINDS
from shoal.primitives.transaction import RunView
from shoal.primitives.views.cells import StateView
from shoal.primitives.views.events import EventView
from shoal.primitives.views.fleet.budgets import BudgetView
from shoal.primitives.views.fleet.queue import QueueView
from shoal.primitives.views.kv import KVView
from shoal.primitives.views.pipelined import PipelinedEvents, PipelinedKV, PipelinedState, PipelinedTraces
from shoal.primitives.views.run_records import RunRecords
from shoal.primitives.views.runs import RunsView
from shoal.primitives.views.traces import TraceView
from shoal.shared_memory_store import SharedMemoryStore

from .raised import raised_by

pytestmark = pytest.mark.plain

# Reached from a transaction, not importable from shoal.
VIEWS = {"kv": KVView, "events": EventView, "state": StateView, "traces": TraceView, "runs": RunsView,
         "queue": QueueView, "budget": BudgetView}  # fmt: skip
# Where a call leads whose object is not ``self``.
LEADS_TO = {**VIEWS, "_records": RunRecords, "_store": SharedMemoryStore}
FACADES = {
    shoal.KVStore: KVView,
    shoal.EventLog: EventView,
    shoal.StateCell: StateView,
    shoal.TraceStore: TraceView,
    shoal.RunIndex: RunsView,
}
CLASSES = {cls.__name__: cls for cls in [*(getattr(shoal, name) for name in shoal.__all__), *VIEWS.values(), RunView,
                                           RunPipeline, PipelinedKV, PipelinedEvents, PipelinedState, PipelinedTraces]
           if inspect.isclass(cls)}  # fmt: skip
ERRORS = [cls for cls in CLASSES.values() if issubclass(cls, Exception)]
TYPES = [cls for cls in [*CLASSES.values(), *KINDS.values()] if cls not in ERRORS]
# What is raised for arguments that this method does not have.
NOT_HERE: dict[tuple[type, str], set[str]] = {
    (TraceView, "query_by_time"): {"ValueError", "LimitExceededError"},
    (shoal.Consumer, "commit"): {"ValueError"},  # its own log is the right one
}
# What any call may raise, because the engine does: said once for each class.
OF_THE_ENGINE = {"CorruptionError", "SnapshotExpiredError", "InvalidOperationError"}
OF_A_FACADE = {*OF_THE_ENGINE, "CoordinatorLostError", "StoreMovedError", "StoreFullError"}


def methods(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties a class defines or has of a class of shoal's own."""
    for name in dir(cls):
        found = inspect.getattr_static(cls, name)
        function = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
        if not name.startswith("_") and inspect.isfunction(function) and function.__module__.startswith("shoal."):
            yield name, function


METHODS = [
    pytest.param(cls, name, function, id=f"{cls.__name__}.{name}")
    for cls in TYPES
    if cls is not shoal.WorkerPool  # an executor: what its methods promise is concurrent.futures' own
    for name, function in methods(cls)
]


def has_example(thing: Any) -> bool:
    return ">>> " in (thing.__doc__ or "")


@pytest.mark.parametrize("cls", TYPES, ids=lambda cls: cls.__name__)
def test_every_type_is_told(cls: type) -> None:
    """It says what it is, and shows an example."""
    doc = cls.__doc__ or ""
    assert len(doc.split()) > 4
    assert not doc.startswith(cls.__name__ + "("), "a docstring that was made by dataclass or NamedTuple"
    assert has_example(cls)


@pytest.mark.parametrize(("cls", "name", "function"), METHODS)
def test_every_method_names_its_errors(cls: type, name: str, function: Any) -> None:
    """Each error its source can raise is in its docstring, or, if it comes from the engine, in that of its class."""
    doc = function.__doc__ or ""
    assert len(doc.split()) > 2
    views = {**LEADS_TO, "_views": FACADES[cls]} if cls in FACADES else LEADS_TO
    expected = raised_by(function, cls, views) - NOT_HERE.get((cls, name), set())
    of_class = set(re.findall(r"``(\w+)``", cls.__doc__ or "")) & OF_A_FACADE
    said = set(re.findall(r"``(\w+)``", doc)) | (of_class & (OF_A_FACADE if cls in FACADES else OF_THE_ENGINE))
    assert expected <= said, f"does not name {', '.join(sorted(expected - said))}"
    assert has_example(function) or has_example(cls)


def test_open_names_its_errors() -> None:
    """As methods do: what is wrong with the options, and with what lies at the path."""
    expected = raised_by(shoal.open, None, LEADS_TO)
    assert {"TypeError", "ValueError", "ConfigurationError"} <= expected
    assert expected <= set(re.findall(r"``(\w+)``", shoal.open.__doc__ or ""))


@pytest.mark.parametrize("cls", [*FACADES, *VIEWS.values()], ids=lambda cls: cls.__name__)
def test_the_class_names_what_every_call_may_raise(cls: type) -> None:
    """Of a closed database, a lost coordinator, a moved store, a full one and damage."""
    of_engine = OF_A_FACADE if cls in FACADES else OF_THE_ENGINE
    assert of_engine <= set(re.findall(r"``(\w+)``", cls.__doc__ or ""))


@pytest.mark.parametrize("facade", FACADES, ids=lambda cls: cls.__name__)
def test_facade_and_view_have_the_same_methods(facade: type) -> None:
    """With the same parameters, but ``run_id``: one implementation. What needs a store of its own is the facade's."""
    own = {"transaction", "follow", "wait", "watch", "consumer", "verify"}
    of_view = {name: method for name, method in methods(FACADES[facade]) if name != "commit"}  # of a transaction only
    assert {name for name, _ in methods(facade)} - own == set(of_view)
    for name, function in methods(facade):
        if name not in own:
            given = [p for p in inspect.signature(function).parameters.values() if p.name != "run_id"]
            taken = [p for p in inspect.signature(of_view[name]).parameters.values() if p.name != "run_id"]
            assert [(p.name, p.default, p.kind) for p in given] == [(p.name, p.default, p.kind) for p in taken]


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        (PipelinedKV, KVView),
        (PipelinedEvents, EventView),
        (PipelinedState, StateView),
        (PipelinedTraces, TraceView),
        (QueueView, shoal.TaskQueue),
        (BudgetView, shoal.Budget),
    ],
)
def test_a_view_of_fewer_methods_has_their_parameters(narrow: type, wide: type) -> None:
    """What a pipeline or a transaction has of a primitive is called as there, but for ``run_id``."""
    shared = [name for name, _ in methods(narrow) if hasattr(wide, name)]
    assert shared
    for name in shared:
        of_narrow, of_wide = (inspect.signature(getattr(cls, name)).parameters.values() for cls in (narrow, wide))
        given = [(p.name, p.default, p.kind) for p in of_wide if p.name != "run_id"]
        assert [(p.name, p.default, p.kind) for p in of_narrow] == given, name


def test_the_search_for_errors_finds_some() -> None:
    """It sees through calls, operations, views and what is caught on the way."""
    of_increment = {"TypeError", "ValueError", "LimitExceededError", "CorruptionError"}
    assert raised_by(KVView.increment, KVView, LEADS_TO) == of_increment
    views = {**LEADS_TO, "_views": StateView}
    assert {"CASConflictError", "NotFoundError", "TypeError"} <= raised_by(shoal.StateCell.cas, shoal.StateCell, views)
    assert "InvalidStatusTransitionError" in raised_by(shoal.RunIndex.pause_run, shoal.RunIndex, LEADS_TO)


@pytest.mark.long
@pytest.mark.parametrize("name", [*sorted(CLASSES), *(f"TraceType.{kind}" for kind in KINDS), "open"])
def test_examples(name: str) -> None:
    """Every example of a public class, of its methods and of a public function does what it shows."""
    thing = KINDS[name.partition(".")[2]] if "." in name else CLASSES.get(name) or getattr(shoal, name)
    runner = doctest.DocTestRunner()
    found = doctest.DocTestFinder(exclude_empty=True).find(thing, name, module=False, globs=dict(vars(shoal)))
    for example in found:
        runner.run(example)
    assert runner.failures == 0
    if name in {cls.__name__ for cls in TYPES}:
        assert runner.tries > 0


@pytest.mark.parametrize("name", shoal.__all__)
def test_public_names_say_where_users_find_them(name: str) -> None:
    """In tracebacks, in help and in pickles: shoal.X. Their annotations mean something there, too."""
    public = getattr(shoal, name)
    if callable(public):
        assert public.__module__ == "shoal"
        assert pickle.loads(pickle.dumps(public)) is public
    has_fields = dataclasses.is_dataclass(public) and not isinstance(public, enum.EnumMeta)
    if has_fields:
        assert inspect.get_annotations(public, eval_str=True)


# What a user may reach, beside the public methods: fields, and what bases of the standard library bring along.
PUBLIC = {
    "Database": "backup check close info lease leases once path pipeline snapshot transact transaction",
    "Lease": "name release slot token",
    "Consumer": "close commit name position",
    "Task": "attempt complete fail id payload queue release run_id token",
    "TaskQueue": "cancel claim claim_many get list namespace purge put put_many result retry stats transaction",
    "QueueView": "complete fail put",
    "Budget": "adjust create namespace read reserve transaction",
    "Reservation": "amount name settle",
    "BudgetView": "read settle",
    "Transaction": "budget close events kv on queue runs state traces version",
    "Pipeline": "events kv on state traces",
    "RunPipeline": "events kv state traces",
    "PipelinedKV": "delete increment put put_with_ttl",
    "PipelinedEvents": "append append_many",
    "PipelinedState": "cas delete init set",
    "PipelinedTraces": "record record_child record_with_options",
    "RunView": "budget events kv queue runs state traces",
    "Namespace": "agent app tenant",
    "KVStore": "delete exists get increment list list_with_values namespace put put_with_ttl transaction ttl watch",
    "KVView": "delete exists get increment list list_with_values put put_with_ttl ttl",
    "RunQuery": "created_after created_before include_archived limit parent_run status tags",
    "TraceType": "Custom Decision Error Query Thought ToolCall type_name",
}


@pytest.mark.parametrize("name", PUBLIC)
def test_nothing_internal_is_reached(name: str, memory_db: shoal.Database) -> None:
    """An attribute without an underscore is one that users are told of, also of an object."""
    reached = {attribute for attribute in dir(CLASSES[name]) if not attribute.startswith("_")}
    if name == "Database":
        reached |= {attribute for attribute in vars(memory_db) if not attribute.startswith("_")}
    assert reached == set(PUBLIC[name].split())

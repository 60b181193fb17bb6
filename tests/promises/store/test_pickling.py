"""What may be handed to another process, copied and compared: facades, what they return, and every error."""

import copy
import inspect
import multiprocessing
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.shm import errors
from tests.support.present import present
from tests.support.slow import slow

PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)
WAYS = [
    copy.copy,
    copy.deepcopy,
    *(lambda item, p=protocol: pickle.loads(pickle.dumps(item, p)) for protocol in PROTOCOLS),
]
WAY_IDS = ["copy", "deepcopy", *(f"pickle{protocol}" for protocol in PROTOCOLS)]
SPACE = shoal.Namespace(tenant="acme")


class Notes(shoal.KVStore):
    """A user's facade, with an attribute of its own."""

    def __init__(self, db: shoal.Database, title: str) -> None:
        super().__init__(db, namespace=SPACE)
        self.title = title


class Agent:
    def __init__(self, db: shoal.Database) -> None:
        self.db = db
        self.memory = shoal.KVStore(db, namespace=SPACE)
        self.log = shoal.EventLog(db, chain="sha256")
        self.notes = Notes(db, "notes")

    def step(self, run: str, number: int) -> int:
        self.memory.put(run, "number", number)
        self.notes.put(run, "title", self.notes.title)
        self.log.append(run, "step", number)
        found: int = self.memory.get(run, "number")
        return found


def step_in_another_process(agent: Any, run: str) -> None:
    assert agent.memory._db is agent.db is agent.log._db
    agent.step(run, 7)


@pytest.mark.parametrize("way", WAYS, ids=WAY_IDS)
class TestRoundTrips:
    @pytest.mark.parametrize("kind", ["KVStore", "EventLog", "StateCell", "TraceStore", "RunIndex"])
    def test_facades(self, memory_db: shoal.Database, way: Any, kind: str) -> None:
        """Each reads and writes the same store, in the same namespace."""
        facade = way(getattr(shoal, kind)(memory_db, namespace=SPACE))
        assert type(facade) is getattr(shoal, kind)
        assert facade.namespace == SPACE
        run = f"run of {kind}"
        with facade.transaction(run) as txn:
            txn.kv.put("k", way.__name__)
        assert shoal.KVStore(memory_db, namespace=SPACE).get(run, "k") == way.__name__

    def test_calls_of_every_facade(self, memory_db: shoal.Database, run: str, way: Any) -> None:
        """Their single calls work, too; the chain of a log and the attributes of a subclass come along."""
        way(shoal.KVStore(memory_db)).put(run, "k", 1)
        way(shoal.StateCell(memory_db)).init(run, "c", 1)
        way(shoal.TraceStore(memory_db)).record(run, shoal.TraceType.Thought("so"))
        way(shoal.RunIndex(memory_db)).create_run(run_id=run)
        way(shoal.EventLog(memory_db, chain="sha256")).append(run, "e", 1)
        assert any(present(shoal.EventLog(memory_db).head(run)).hash[16:])  # of xxh3 these bytes are zero
        notes = way(Notes(memory_db, "mine"))
        notes.put(run, "k", 2)
        assert (notes.title, Notes(memory_db, "").get(run, "k")) == ("mine", 2)

    def test_database(self, memory_db: shoal.Database, run: str, way: Any) -> None:
        """A copy is an attachment of its own: closing it closes nothing else."""
        with way(memory_db) as db:
            shoal.KVStore(db).put(run, "k", 1)
        assert shoal.KVStore(memory_db).get(run, "k") == 1
        with pytest.raises(shoal.InvalidOperationError, match="closed"):
            shoal.KVStore(db).get(run, "k")

    def test_what_calls_return(self, memory_db: shoal.Database, run: str, way: Any) -> None:
        """Events, states, traces, runs, their options and the rest are equal to what they were."""
        runs, log, traces = shoal.RunIndex(memory_db), shoal.EventLog(memory_db), shoal.TraceStore(memory_db)
        runs.create_run(run_id=run, tags=["t"], metadata={"a": [1]})
        appended = log.append(run, "e", {"a": [1]})
        shoal.StateCell(memory_db).init(run, "c", [1])
        root = traces.record(run, shoal.TraceType.ToolCall("grep", {"a": 1}))
        traces.record_child(run, root, shoal.TraceType.Custom("mine", [1]))
        items = [
            appended,
            log.read(run, 0),
            log.anchor(run),
            log.verify_chain(run),
            shoal.StateCell(memory_db).read(run, "c"),
            traces.get(run, root),
            traces.get_tree(run, root),
            runs.get_run(run),
            runs.get_stats(),
            memory_db.info(),
            shoal.Namespace("a", "b", "c"),
            shoal.RunQuery(status=shoal.RunStatus.Active, tags=["t"]),
            shoal.CreateRunOptions(run_id="x", tags=["t"]),
            shoal.TraceOptions(tags=["t"], metadata={"a": 1}),
            shoal.RunStatus.Paused,
            shoal.TraceType.Decision("q", ["a", "b"], "a"),
            shoal.TraceType.Query("t", "q", 1),
            shoal.TraceType.Thought("so", 0.5),
            shoal.TraceType.Error("E", "m", False),
        ]
        for item in items:
            assert way(item) == item
            assert type(way(item)) is type(item)

    def test_every_error(self, way: Any) -> None:
        """Type, text, attributes and notes; with the arguments of its class, and with an attribute set later."""
        for kind in _error_classes():
            error: Any = kind(*_arguments_of(kind))
            error.add_note("in a worker")
            error.where = "here"
            other = way(error)
            assert type(other) is kind
            assert (str(other), other.args, vars(other)) == (str(error), error.args, vars(error))

    def test_transactions_refuse(self, memory_db: shoal.Database, run: str, way: Any) -> None:
        """A transaction, a snapshot and what they give out stay where they are, and say so."""
        with memory_db.transaction(run) as txn, memory_db.snapshot(run) as view:
            owned: list[Any] = [txn, view, txn.on("other")]
            if way is not copy.copy:  # a second name for the same view is harmless
                owned += [txn.kv, txn.events, txn.state, txn.traces, txn.runs, view.kv]
            for item in owned:
                with pytest.raises(TypeError, match="belongs to the thread and process that began it"):
                    way(item)


def _error_classes() -> list[type[shoal.ShoalError]]:
    classes = [item for item in vars(errors).values() if inspect.isclass(item) and issubclass(item, shoal.ShoalError)]
    assert len(classes) >= 14
    return classes


def _arguments_of(kind: Any) -> Sequence[Any]:
    if kind.__init__ is shoal.ShoalError.__init__:
        return ("a fact; a remedy",)
    samples = {"int": 7, "float": 1.5, "bool": True, "str": "text", "int | str": 10**30}
    given = list(inspect.signature(kind).parameters.values())
    return [samples.get(str(parameter.annotation), "text") for parameter in given]


@pytest.mark.parametrize("method", ["spawn", *slow("forkserver", "fork")])
def test_an_object_full_of_facades_goes_to_a_process(store: Path, run: str, method: str) -> None:
    """The database in it stays one object, which attaches by itself where it arrives."""
    with shoal.open(store, durability="memory") as db:
        agent = Agent(db)
        context: Any = multiprocessing.get_context(method)
        process = context.Process(target=step_in_another_process, args=(agent, run))
        process.start()
        process.join(60)
        assert process.exitcode == 0
        assert agent.memory.get(run, "number") == 7
        assert agent.notes.get(run, "title") == "notes"
        assert present(agent.log.head(run)).payload == 7


@pytest.mark.long
def test_a_method_of_such_an_object_is_a_task(store: Path, run: str) -> None:
    """And it can be submitted to a pool."""
    with shoal.WorkerPool(store, 1, durability="memory") as pool:
        assert pool.submit(Agent(pool.database).step, run, 21).result(60) == 21


@pytest.mark.parametrize("way", WAYS, ids=WAY_IDS)
def test_a_pool_refuses(store: Path, way: Any) -> None:
    """A pool, and an object that has one, cannot be copied or go to a worker: the error says what can."""
    with shoal.WorkerPool(store, 1, durability="memory", linger=0.2) as pool:
        with pytest.raises(TypeError, match="WorkerPool belongs to the process that made it"):
            way(pool)
        with pytest.raises(TypeError, match="current_database"):
            pool.submit(len, [pool]).result(30)


@pytest.mark.long
@pytest.mark.parametrize("levels", [10_000, *slow(300_000)])
def test_a_deep_tree_does_not_recurse(levels: int) -> None:
    """A tree of 10,000 levels, and of 300,000, pickles, copies, compares, has a repr, and goes as any other."""
    tree = _deep_tree(levels)
    for way in WAYS if levels < 20_000 else WAYS[-1:]:
        other = way(tree)
        assert other == tree
        assert other is not tree
    assert tree != _deep_tree(levels - 1)
    assert repr(tree).count("TraceTree(") == levels
    with pytest.raises(TypeError, match="unhashable"):
        hash(tree)


def test_the_shape_of_a_tree_survives() -> None:
    """Siblings stay siblings, in their order; a shallow copy has the same children."""
    leaf: Callable[[str], shoal.TraceTree] = lambda name: shoal.TraceTree(_trace(name), [])  # noqa: E731
    tree = shoal.TraceTree(
        _trace("a"),
        [shoal.TraceTree(_trace("b"), [leaf("c"), leaf("d")]), leaf("e"), shoal.TraceTree(_trace("f"), [leaf("g")])],
    )
    assert list(pickle.loads(pickle.dumps(tree)).walk()) == list(tree.walk())
    assert copy.copy(tree).children is tree.children
    assert copy.deepcopy(tree).children[0] is not tree.children[0]


def _deep_tree(levels: int) -> shoal.TraceTree:
    tree = shoal.TraceTree(_trace(str(levels)), [])
    for level in range(levels - 1, 0, -1):
        tree = shoal.TraceTree(_trace(str(level)), [tree])
    return tree


def _trace(name: str) -> shoal.Trace:
    return shoal.Trace(name, None, shoal.TraceType.Thought("so"), 1, [], {"a": 1})

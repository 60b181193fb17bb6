"""Fleets: what a fleet keeps in the store, and what becomes of each input, whatever its function does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import shoal
from shoal import RunStatus
from shoal.fleet import Fleet
from shoal.fleet_input import DONE, FAILED, InputOutcome, InputRun, fleet_run_id, input_run_id
from tests.support.present import present

pytestmark = pytest.mark.uncompiled

STEP = "tests.support.workers.fleet_functions:step"
FLEET = fleet_run_id(STEP)


@pytest.fixture(scope="module")
def shared_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[shoal.WorkerPool]:
    """One pool for all tests that use inputs of their own."""
    path = tmp_path_factory.mktemp("fleets") / "store"
    with shoal.WorkerPool(path, workers=2, retries=1, durability="memory", linger=0.2) as pool:
        yield pool


@pytest.fixture
def pool(shared_pool: shoal.WorkerPool) -> Iterator[shoal.WorkerPool]:
    """The shared pool; what the fleet of ``step`` keeps is gone after the test."""
    yield shared_pool
    if shoal.RunIndex(shared_pool.database).get_run(FLEET) is not None:
        shoal.RunIndex(shared_pool.database).delete_run(FLEET, cascade_children=True)
    for key in shoal.KVStore(shared_pool.database).list("fixed"):
        shoal.KVStore(shared_pool.database).delete("fixed", key)


def run_fleet(pool: shoal.WorkerPool, *inputs: str, function: str = STEP) -> dict[str, InputOutcome]:
    """What ``shoal run`` does, without the command line."""
    fleet = Fleet(pool.database, function)
    return {outcome.input: outcome for outcome in fleet.run(pool, fleet.to_do(list(inputs)))}


def steps(db: shoal.Database, text: str) -> list[tuple[str, int]]:
    """Type and attempt of the events of an input's run."""
    events = shoal.EventLog(db).iter(input_run_id(STEP, text))
    return [(event.event_type, event.payload["attempt"]) for event in events]


def counters(db: shoal.Database) -> tuple[int, int]:
    """How many inputs the fleet counts as done and failed."""
    cells = [shoal.StateCell(db).read(FLEET, f"inputs/{status}") for status in (DONE, FAILED)]
    done, failed = (0 if cell is None else cell.value for cell in cells)
    return done, failed


@pytest.mark.long
def test_a_fleet_is_a_run_and_each_input_a_child(pool: shoal.WorkerPool) -> None:
    """Fleet and inputs are registered, with lifecycle, result or error, events and counters."""
    db = pool.database
    assert run_fleet(pool, "a", "bad", "b")["bad"].error == "ValueError: cannot do bad"
    runs = shoal.RunIndex(db)
    fleet = present(runs.get_run(FLEET))
    assert (fleet.status, fleet.parent_run, fleet.metadata) == (RunStatus.Active, None, {"function": STEP})
    children = {run.metadata["input"]: run for run in runs.get_child_runs(FLEET)}
    assert {text: run.run_id for text, run in children.items()} == {
        text: input_run_id(STEP, text) for text in ("a", "bad", "b")
    }
    assert children["a"].status is RunStatus.Completed
    assert shoal.KVStore(db).get(children["a"].run_id, "result") == "A"
    assert (children["bad"].status, children["bad"].error) == (RunStatus.Failed, "ValueError: cannot do bad")
    assert steps(db, "a") == [("started", 1), ("finished", 1)]
    assert steps(db, "bad") == [("started", 1), ("failed", 1)]
    assert present(shoal.EventLog(db).head(children["bad"].run_id)).payload["error"] == "ValueError: cannot do bad"
    assert counters(db) == (2, 1)


@pytest.mark.long
def test_what_failed_begins_afresh_and_its_log_goes_on(pool: shoal.WorkerPool) -> None:
    """Run again, a failed input has the same run id, one child, the whole story in a sound log, nothing else kept."""
    db, run_id = pool.database, input_run_id(STEP, "bad")
    run_fleet(pool, "a", "bad")
    shoal.KVStore(db).put(run_id, "left behind", 1)
    anchor = shoal.EventLog(db).anchor(run_id)
    assert set(run_fleet(pool, "a", "bad")) == {"bad"}
    assert counters(db) == (1, 1)
    shoal.KVStore(db).put("fixed", "bad", True)
    assert run_fleet(pool, "a", "bad") == {"bad": InputOutcome("bad", DONE, result="BAD")}
    assert run_fleet(pool, "a", "bad") == {}
    assert steps(db, "bad") == [
        ("started", 1), ("failed", 1), ("started", 2), ("failed", 2), ("started", 3), ("finished", 3)
    ]  # fmt: skip
    assert shoal.EventLog(db).verify_chain(run_id, anchor=anchor).is_valid
    run = present(shoal.RunIndex(db).get_run(run_id))
    assert (run.status, run.error) == (RunStatus.Completed, None)
    assert len(shoal.RunIndex(db).get_child_runs(FLEET)) == 2
    assert shoal.KVStore(db).list(run_id) == ["note", "result"]
    assert counters(db) == (2, 0)


def test_what_was_cut_short_is_begun_again_as_it_is(pool: shoal.WorkerPool) -> None:
    """An Active input that nobody works on keeps what it has; a next attempt ends it."""
    db, cut = pool.database, input_run_id(STEP, "cut")
    run_fleet(pool, "a")
    assert InputRun(STEP, "cut").begin(db) is None
    shoal.KVStore(db).put(cut, "so far", 3)
    assert Fleet(db, STEP).outcome("cut") is None
    assert run_fleet(pool, "a", "cut") == {"cut": InputOutcome("cut", DONE, result="CUT")}
    assert steps(db, "cut") == [("started", 1), ("started", 2), ("finished", 2)]
    assert shoal.KVStore(db).get(cut, "so far") == 3


def test_an_input_that_kills_its_workers_fails_with_every_attempt_noted(pool: shoal.WorkerPool) -> None:
    """Each worker that dies on an input was an attempt of the same run; then it is Failed, and may begin afresh."""
    db = pool.database
    assert "WorkerLostError" in (run_fleet(pool, "deadly")["deadly"].error or "")
    assert steps(db, "deadly") == [("started", 1), ("started", 2), ("failed", 2)]
    assert present(shoal.RunIndex(db).get_run(input_run_id(STEP, "deadly"))).status is RunStatus.Failed
    assert counters(db) == (0, 1)


def test_an_input_ends_once(pool: shoal.WorkerPool) -> None:
    """Of two that work on an input at once, the first to end it decides, and it is counted once."""
    db, run = pool.database, InputRun(STEP, "twice")
    run_fleet(pool, "a")
    assert run.begin(db) is None
    assert run.begin(db) is None
    done = InputOutcome("twice", DONE, result=[1])
    assert run.finish(db, [1]) == done
    assert run.finish(db, [2]) == done
    assert run.fail(db, "too late") == done
    assert run.begin(db) == done
    assert steps(db, "twice") == [("started", 1), ("started", 2), ("finished", 2)]
    assert counters(db) == (2, 0)


def test_a_worker_lost_before_it_could_begin(pool: shoal.WorkerPool) -> None:
    """An input whose worker died before anything was noted is Failed all the same, of no attempt."""
    run_fleet(pool, "a")
    assert InputRun(STEP, "early").fail(pool.database, "lost") == InputOutcome("early", FAILED, error="lost")
    assert steps(pool.database, "early") == [("failed", 0)]
    assert run_fleet(pool, "early")["early"].status == DONE


@pytest.mark.parametrize("change", ["pause_run", "cancel_run", "archive_run"])
def test_a_run_somebody_put_aside_is_left_alone(pool: shoal.WorkerPool, change: str) -> None:
    """An unfinished input that was paused, cancelled or archived is not run, and its error says so; deleted, it is."""
    db, run_id = pool.database, input_run_id(STEP, "aside")
    run_fleet(pool, "a")
    InputRun(STEP, "aside").begin(db)
    status = getattr(shoal.RunIndex(db), change)(run_id).status
    assert run_fleet(pool, "aside")["aside"].error == (
        f"its run {run_id} is {status.value}; resume or delete the run, then run the input again"
    )
    assert steps(db, "aside") == [("started", 1)]
    shoal.RunIndex(db).delete_run(run_id)
    assert run_fleet(pool, "aside")["aside"].status == DONE


def test_what_is_done_stays_done_when_archived(pool: shoal.WorkerPool) -> None:
    """Putting a finished run away does not make its input new."""
    run_fleet(pool, "a")
    shoal.RunIndex(pool.database).archive_run(input_run_id(STEP, "a"))
    assert run_fleet(pool, "a") == {}
    assert Fleet(pool.database, STEP).outcome("a") == InputOutcome("a", DONE, result="A")


def test_inputs_are_any_text(pool: shoal.WorkerPool) -> None:
    """Empty, long, with zero bytes, line ends, bytes of no encoding: each is an input of its own."""
    texts = ["", " ", "\0", "a\nb", "a\udcffb", "\U0001f41f" * 100_000, "inputs/done", FLEET, "A", "a"]
    outcomes = run_fleet(pool, *texts)
    assert {text: outcome.result for text, outcome in outcomes.items()} == {text: text.upper() for text in texts}
    runs = shoal.RunIndex(pool.database).get_child_runs(FLEET)
    assert {run.metadata["input"] for run in runs} == set(texts)
    assert run_fleet(pool, *texts) == {}


def test_run_ids_are_stable_short_and_never_the_same() -> None:
    """Ids fit whatever the names are, differ if fleet or input does, and are the same for ever."""
    long = "package." * 40 + "module:function"
    assert fleet_run_id("m:f") == "fleet:m:f"
    assert fleet_run_id("m:" + "f" * 120) == "fleet:m:" + "f" * 120
    assert fleet_run_id(long) == "fleet:d57f0c234ceec7413e226b394e83d275"
    assert fleet_run_id("m:" + "\xe9" * 61) != fleet_run_id("m:" + "\xe9" * 62)
    assert len(fleet_run_id("m:" + "\xe9" * 61)) == len("fleet:") + 32
    assert input_run_id("m:f", "a") == "f65ba52f54c946bc7488e8d5e51302ca"
    ids = {input_run_id(function, text) for function in ("m:f", "m:g", long) for text in ("", "a", "a\0", "\udcff")}
    assert len(ids) == 12


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("exit", "SystemExit: 3"),
        ("interrupt", "KeyboardInterrupt: by hand"),
        ("no text", "NoTextError, whose text cannot be read: ZeroDivisionError"),
        ("exit when read", "ExitsWhenReadError, whose text cannot be read: SystemExit"),
        ("long", "ValueError: " + "x" * (10_000 - len("ValueError: ")) + "..."),
        ("not utf-8", "OSError: no such file: a\udcff"),
        ("zero byte", "ValueError: a\0b"),
    ],
)
def test_whatever_a_function_raises_is_its_inputs_error(pool: shoal.WorkerPool, text: str, error: str) -> None:
    """Nothing raised by a function ends more than its own input; what is kept of the error is its text, shortened."""
    function = "tests.support.workers.fleet_functions:fail_oddly"
    assert run_fleet(pool, text, function=function) == {text: InputOutcome(text, FAILED, error=error)}
    assert Fleet(pool.database, function).outcome(text) == InputOutcome(text, FAILED, error=error)


@pytest.mark.long
def test_a_function_may_close_the_database_and_remove_its_directory(tmp_path: Path) -> None:
    """Its input is done, its lease does not end meanwhile, and the next inputs of the worker are done, too."""
    function = "tests.support.workers.fleet_functions:leave_nothing_as_it_was"
    with shoal.WorkerPool(tmp_path / "s", workers=1, durability="memory", linger=0.2) as pool:
        outcomes = run_fleet(pool, "a", "b", "c", function=function)
    assert outcomes == {text: InputOutcome(text, DONE, result=text) for text in ("a", "b", "c")}


@pytest.mark.long
def test_what_a_function_forks_ends_as_its_own(pool: shoal.WorkerPool) -> None:
    """A child that comes out of the function ends at once with its own exit code, and stores no outcome."""
    function = "tests.support.workers.fleet_functions:wait_for_a_child"
    outcomes = run_fleet(pool, "returns", "exits", "raises", function=function)
    assert {text: outcome.result for text, outcome in outcomes.items()} == {"returns": 0, "exits": 3, "raises": 1}


@pytest.mark.long
def test_a_result_there_is_no_room_for_fails_its_input_only(tmp_path: Path) -> None:
    """Too large for the store or for any store: that input failed and says why; the others are done."""
    function = "tests.support.workers.fleet_functions:large"
    with shoal.WorkerPool(tmp_path / "s", workers=1, durability="memory", max_bytes=8 << 20, linger=0.2) as pool:
        outcomes = run_fleet(pool, "1", "12", "17", "2", function=function)
        assert {text: outcome.status for text, outcome in outcomes.items()} == {
            "1": DONE, "12": FAILED, "17": FAILED, "2": DONE
        }  # fmt: skip
        assert "StoreFullError" in (outcomes["12"].error or "")
        assert "LimitExceededError" in (outcomes["17"].error or "")
        assert Fleet(pool.database, function).outcome("12") == outcomes["12"]

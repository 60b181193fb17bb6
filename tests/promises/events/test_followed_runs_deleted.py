"""What is being followed, read page by page or waited for while its run is deleted: never two logs taken for one."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import shoal
from shoal.primitives.views.events import restore

ENOUGH_S = 20  # "does not hang": far beyond what any of this takes


@pytest.fixture
def log(memory_db: shoal.Database) -> shoal.EventLog:
    return shoal.EventLog(memory_db)


@pytest.fixture
def runs(memory_db: shoal.Database) -> shoal.RunIndex:
    return shoal.RunIndex(memory_db)


def append(log: shoal.EventLog, run: str, what: str, count: int) -> None:
    log.append_many(run, [(what, i) for i in range(count)])


class TestFollow:
    @pytest.mark.parametrize("new_events", [0, 1, 2, 3, 4, 1000])
    @pytest.mark.parametrize("seen", [0, 2, 3], ids="seen{}".format)
    def test_a_log_begun_anew_does_not_continue_the_old_one(
        self, log: shoal.EventLog, runs: shoal.RunIndex, run: str, seen: int, new_events: int
    ) -> None:
        """With fewer events than the follower has had, as many, or more: NotFoundError, after the events it has had."""
        append(log, run, "old", 3)
        following: Any = log.follow(run, start=3 - seen, timeout=ENOUGH_S)
        for _ in range(seen):
            assert next(following).event_type == "old"
        if not seen:  # the follower stands at the end of the log and has had no event
            following = Waiting(following)
        runs.delete_run(run)
        append(log, run, "new", new_events)
        with pytest.raises(shoal.NotFoundError, match="was deleted"):
            next(following)
        fresh = [event.event_type for event in log.follow(run, timeout=0)]
        assert fresh == ["new"] * new_events

    def test_all_in_one_commit(
        self, memory_db: shoal.Database, log: shoal.EventLog, runs: shoal.RunIndex, run: str
    ) -> None:
        """The same if the run is deleted and begun anew by one transaction."""
        append(log, run, "old", 3)
        following = log.follow(run, timeout=ENOUGH_S)
        for _ in range(3):
            next(following)
        with memory_db.transaction(run) as txn:
            txn.runs.delete_run(run)
            txn.events.append_many([("new", i) for i in range(6)])
        with pytest.raises(shoal.NotFoundError):
            next(following)

    def test_a_log_restored_event_for_event_goes_on(
        self, memory_db: shoal.Database, log: shoal.EventLog, run: str
    ) -> None:
        """Deleted and restored by one transaction the log is the same: its follower gets what is appended then."""
        append(log, run, "old", 3)
        following = log.follow(run, timeout=ENOUGH_S)
        for _ in range(3):
            next(following)
        with memory_db.transaction(run) as txn:
            events = list(txn.events.iter())
            txn.runs.delete_run(run)
            restore(txn.events, events)
            txn.events.append("next", 1)
        assert next(following).event_type == "next"

    def test_a_log_that_begins_is_waited_for(self, log: shoal.EventLog, run: str) -> None:
        """Of a run of which there is nothing yet no log was deleted: the follower gets its events as they come."""
        following = Waiting(log.follow(run, timeout=ENOUGH_S))
        append(log, run, "first", 1)
        assert next(following).event_type == "first"

    def test_a_start_beyond_the_end(self, log: shoal.EventLog, runs: shoal.RunIndex, run: str) -> None:
        """Who waits for event 5 of a log of 3 does not get event 5 of the log that takes its place."""
        append(log, run, "old", 3)
        following = Waiting(log.follow(run, start=5, timeout=ENOUGH_S))
        runs.delete_run(run)
        append(log, run, "new", 9)
        with pytest.raises(shoal.NotFoundError):
            next(following)

    def test_a_fork_follows_on_its_own(self, log: shoal.EventLog, runs: shoal.RunIndex, run: str) -> None:
        """The log of a fork goes on when the run it came from is deleted."""
        append(log, run, "old", 2)
        runs.create_run(run_id=run)
        fork = runs.fork_run(run).run_id
        following = log.follow(fork, timeout=ENOUGH_S)
        assert [next(following).event_type for _ in range(2)] == ["old", "old"]
        runs.delete_run(run)
        append(log, fork, "of the fork", 1)
        assert next(following).event_type == "of the fork"


class TestPages:
    def test_iter_never_mixes_two_logs(self, log: shoal.EventLog, runs: shoal.RunIndex, run: str) -> None:
        """A log that is deleted while iter is between two pages ends with NotFoundError, begun anew or not."""
        for new_events in (0, 700, 2000):
            append(log, run, "old", 1000)
            events = log.iter(run)
            first = [next(events) for _ in range(100)]
            runs.delete_run(run)
            append(log, run, "new", new_events)
            seen: list[shoal.Event] = []
            with pytest.raises(shoal.NotFoundError):
                seen.extend(events)
            assert {event.event_type for event in first + seen} == {"old"}
            assert [event.sequence for event in first + seen] == list(range(len(first + seen)))
            if new_events:
                runs.delete_run(run)

    def test_iter_that_has_not_begun(self, log: shoal.EventLog, runs: shoal.RunIndex, run: str) -> None:
        """The same between the call and the first event."""
        append(log, run, "old", 10)
        events = log.iter(run)
        runs.delete_run(run)
        append(log, run, "new", 20)
        with pytest.raises(shoal.NotFoundError):
            next(events)

    def test_iter_ends_where_the_log_ended(self, log: shoal.EventLog, run: str) -> None:
        """Events appended meanwhile are not of it, whatever the start."""
        append(log, run, "old", 600)
        for start in (0, 1, 255, 256, 599, 600, 10**30, -5):
            events, length = log.iter(run, start), log.len(run)
            append(log, run, "later", 1)
            assert [event.sequence for event in events] == list(range(max(start, 0), length))

    @pytest.mark.long
    def test_readers_while_a_run_is_deleted_again_and_again(
        self, log: shoal.EventLog, runs: shoal.RunIndex, run: str
    ) -> None:
        """iter, read_by_type and read_range give events of one log only, whatever happens between."""
        done = threading.Event()

        def churn() -> None:
            for number in range(60):
                append(log, run, f"log {number}", 600 + number)
                runs.delete_run(run)
            done.set()

        thread = threading.Thread(target=churn)
        thread.start()
        while not done.is_set():
            read: Callable[[], object]
            for read in (lambda: list(log.iter(run)), lambda: log.read_range(run, 0, 10**6)):
                try:
                    events = read()
                except shoal.NotFoundError:
                    continue
                assert len({event.event_type for event in events}) <= 1
                assert shoal.EventLog.verify(events)
        thread.join(ENOUGH_S)
        assert not thread.is_alive()


class TestWait:
    @pytest.mark.parametrize("new_sets", [0, 1, 5])
    def test_a_waiter_is_told_that_the_versions_begin_again(
        self, memory_db: shoal.Database, runs: shoal.RunIndex, run: str, new_sets: int
    ) -> None:
        """Deleted with its run a cell has no newer version to wait for: NotFoundError, also at the same version."""
        cells = shoal.StateCell(memory_db)
        for value in range(5):
            cells.set(run, "c", value)
        waiter = Call(lambda: cells.wait(run, "c", 5, timeout=ENOUGH_S))
        with memory_db.transaction(run) as txn:
            txn.runs.delete_run(run)
            for value in range(new_sets):
                txn.state.set("c", value)
        assert isinstance(waiter.outcome(), shoal.NotFoundError)

    def test_delete_and_init_of_the_cell_alone_are_waited_through(self, memory_db: shoal.Database, run: str) -> None:
        """A deleted cell keeps its versions: its waiter gets the state it is given next."""
        cells = shoal.StateCell(memory_db)
        cells.init(run, "c", "a")
        waiter = Call(lambda: cells.wait(run, "c", 1, timeout=ENOUGH_S))
        cells.delete(run, "c")
        time.sleep(0.05)
        cells.init(run, "c", "b")
        assert waiter.outcome() == cells.read(run, "c")

    @pytest.mark.long
    def test_a_cell_that_is_not_there_yet(self, memory_db: shoal.Database, run: str) -> None:
        """It is waited for, and for versions nobody has set yet, too."""
        cells = shoal.StateCell(memory_db)
        first, third = (Call(lambda v=version: cells.wait(run, "c", v, timeout=ENOUGH_S)) for version in (0, 2))
        for value in "abc":
            cells.set(run, "c", value)
        assert first.outcome().version >= 1
        assert third.outcome().version == 3


class Call:
    """A call in a thread, which has begun to wait."""

    def __init__(self, call: Any) -> None:
        self._outcome = None

        def work() -> None:
            try:
                self._outcome = call()
            except BaseException as error:
                self._outcome = error

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()
        time.sleep(0.15)

    def outcome(self) -> Any:
        self._thread.join(ENOUGH_S)
        assert not self._thread.is_alive()
        return self._outcome


class Waiting:
    """An iterator that is being asked for its next item."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._call = Call(lambda: next(items))

    def __next__(self) -> Any:
        outcome = self._call.outcome()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

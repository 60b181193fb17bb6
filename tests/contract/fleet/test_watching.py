"""Watching over each engine: which changes come, in which order, from where on, and when it ends."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shoal
from tests.contract.toy_fleet import ToyFleetStore

OTHER_TYPES = (True, "1", 1.5, -1)


def test_each_key_and_commit_once(any_db: shoal.Database, run: str) -> None:
    """In the order of commits, those of one commit by key; other runs, prefixes and primitives are not told."""
    kv, runs = shoal.KVStore(any_db), shoal.RunIndex(any_db)
    changes = kv.watch(run, "a/", timeout=0.2)
    kv.put(run, "a/2", [1])
    kv.put(run, "b", 1)
    kv.put(run + "x", "a/2", 1)
    with any_db.transaction(run) as txn:
        txn.kv.put("a/9", 1)
        txn.kv.put("a/1", 1)
        txn.kv.put("a/1", None)
        txn.events.append("a/", 1)
        txn.state.init("a/1", 1)
    kv.delete(run, "a/2")
    kv.increment(run, "a/9", 2)
    runs.delete_run(run)
    told = list(changes)
    versions = [change.version for change in told]
    assert versions == sorted(versions)
    assert len(set(versions)) == 5
    assert versions[1] == versions[2] == txn.version
    expected = [("a/2", [1]), ("a/1", None), ("a/9", 1), ("a/2", None), ("a/9", 3), ("a/1", None), ("a/9", None)]
    assert [change[1:] for change in told] == expected
    runs.delete_run(run + "x")


@pytest.mark.long
def test_since(any_db: shoal.Database, run: str) -> None:
    """After that version; None is from the call on, and not from the first change that is asked for."""
    kv = shoal.KVStore(any_db)
    kv.put(run, "k", 0)
    version = any_db.info().commit_version
    snapshot, changes = any_db.snapshot(run), kv.watch(run, timeout=0.2)  # the snapshot keeps all versions from here on
    for n in range(1, 4):
        kv.put(run, "k", n)
    assert [change.value for change in changes] == [1, 2, 3]
    again = list(kv.watch(run, since=version, timeout=0.2))
    assert [change.value for change in again] == [1, 2, 3]
    assert [change.value for change in kv.watch(run, since=again[0].version, timeout=0)] == [2, 3]
    assert list(kv.watch(run, since=again[2].version, timeout=0)) == []
    snapshot.close()


@pytest.mark.long
def test_timeout_is_for_the_next_change(any_db: shoal.Database, run: str) -> None:
    """It begins again with each change, and what the caller does in between does not count."""
    kv = shoal.KVStore(any_db)
    changes = kv.watch(run, timeout=0.5)
    timers = [threading.Timer(after_s, kv.put, (run, "k", after_s)) for after_s in (0.1, 0.4, 0.7)]
    for timer in timers:
        timer.start()
    values = []
    for change in changes:
        values.append(change.value)
        if change.value == 0.7:
            time.sleep(0.6)
            kv.put(run, "k", "late")
    assert values == [0.1, 0.4, 0.7, "late"]
    begin_s = time.monotonic()
    assert list(kv.watch(run, timeout=0.2)) == []
    assert time.monotonic() - begin_s >= 0.2


def test_a_version_that_is_not_committed(any_db: shoal.Database, run: str) -> None:
    """Refused at the call: what is committed up to it would be left out."""
    kv, runs = shoal.KVStore(any_db), shoal.RunIndex(any_db)
    with pytest.raises(ValueError, match="newest version is"):
        kv.watch(run, since=any_db.info().commit_version + 1_000_000)  # the coordinator commits as well
    with pytest.raises(ValueError, match="newest version is"):
        runs.follow(since=2**80)


def test_the_newest_version_is_committed_and_the_next_is_not(run: str) -> None:
    """The newest version is a place to go on from; the one after it is refused."""
    with shoal.Database(ToyFleetStore()) as alone:  # type: ignore[arg-type]
        shoal.KVStore(alone).put(run, "k", 1)
        newest = alone.info().commit_version
        with pytest.raises(ValueError, match=f"newest version is {newest}"):
            shoal.KVStore(alone).watch(run, since=newest + 1)
        assert list(shoal.KVStore(alone).watch(run, since=newest, timeout=0)) == []


@pytest.mark.parametrize("since", OTHER_TYPES, ids=repr)
def test_bad_arguments_are_refused_at_the_call(any_db: shoal.Database, run: str, since: object) -> None:
    """Before anything is asked for."""
    kv, runs = shoal.KVStore(any_db), shoal.RunIndex(any_db)
    with pytest.raises((TypeError, ValueError)):
        kv.watch(run, since=since)  # type: ignore[arg-type]
    with pytest.raises((TypeError, ValueError)):
        runs.follow(since=since)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        kv.watch(run, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="run_id"):
        kv.watch("")
    with pytest.raises(ValueError, match="timeout"):
        kv.watch(run, timeout=-1)
    with pytest.raises(shoal.LimitExceededError):
        kv.watch(run, "k" * 2000)


def test_runs(any_db: shoal.Database, run: str, space: shoal.Namespace) -> None:
    """Each change of a run's record, with what the run is then; its deletion; no other namespace."""
    runs = shoal.RunIndex(any_db, namespace=space)
    changes = runs.follow(timeout=0.2)
    shoal.RunIndex(any_db).create_run(run_id=run)
    runs.create_run(run_id="a", tags=["t"])
    shoal.KVStore(any_db, namespace=space).put("a", "k", 1)
    runs.complete_run("a")
    runs.archive_run("a")
    runs.fork_run("a", new_run_id="b")
    runs.delete_run("a", cascade_children=True)
    shoal.RunIndex(any_db).delete_run(run)
    told = [(change.run_id, change.metadata and change.metadata.status.name) for change in changes]
    expected = [("a", "Active"), ("a", "Completed"), ("a", "Archived"), ("b", "Active"), ("a", None), ("b", None)]
    assert told == expected


def test_a_consumer_goes_on_where_the_last_one_was_done(any_db: shoal.Database, run: str) -> None:
    """What was given and not committed is given again."""
    log = shoal.EventLog(any_db)
    log.append_many(run, [("n", n) for n in range(10)])
    with log.consumer(run, "a") as consumer:
        assert (consumer.name, consumer.position) == ("a", 0)
        given = []
        for event in consumer:
            given.append(event.sequence)
            if event.sequence == 5:
                break
            consumer.commit(event.sequence)
        assert consumer.position == 5
        assert next(iter(consumer)).sequence == 5
    with log.consumer(run, "a") as consumer:
        assert next(iter(consumer)).sequence == 5
    with log.consumer(run, "b") as other:
        assert other.position == 0


def test_a_consumer_waits_for_events(any_db: shoal.Database, run: str) -> None:
    """As ``follow`` does; a log may begin later."""
    log = shoal.EventLog(any_db)
    with log.consumer(run, "a") as consumer:
        timer = threading.Timer(0.2, log.append, (run, "n", 1))
        timer.start()
        event = next(iter(consumer))
        assert event.payload == 1
        timer.join()


@pytest.mark.long
def test_one_at_a_time_holds_the_name_of_a_consumer(any_db: shoal.Database, run: str) -> None:
    """Also in one process; a closed one commits nothing any more."""
    log = shoal.EventLog(any_db)
    log.append(run, "n", 1)
    consumer = log.consumer(run, "a")
    with pytest.raises(shoal.LeaseHeldError) as caught:
        log.consumer(run, "a", wait=0.1)
    assert caught.value.name == "a"
    assert any_db.leases(run) == []
    with any_db.lease(run, "a"):
        pass
    timer = threading.Timer(0.2, consumer.close)
    timer.start()
    with log.consumer(run, "a", wait=None) as second:
        timer.join()
        consumer.close()
        with pytest.raises(shoal.FencedError):
            consumer.commit(0)
        with pytest.raises(shoal.FencedError), any_db.transaction(run) as txn:
            txn.events.commit(consumer, 0)
        assert second.position == 0


def test_effect_and_position_in_one_commit(any_db: shoal.Database, run: str) -> None:
    """Both or none; an event of the same transaction, too, or one trimmed meanwhile. Other appends are no conflict."""
    log, kv = shoal.EventLog(any_db), shoal.KVStore(any_db)
    log.append_many(run, [("n", 1), ("n", 2)])
    with log.consumer(run, "a") as consumer:
        with pytest.raises(ZeroDivisionError), any_db.transaction(run) as txn:  # noqa: PT012 (what comes before it)
            txn.kv.put("done", 0)
            txn.events.commit(consumer, 0)
            raise ZeroDivisionError
        assert (consumer.position, kv.get(run, "done")) == (0, None)
        with any_db.transaction(run) as txn:
            txn.kv.put("done", 0)
            txn.events.commit(consumer, 0)
            log.append(run, "n", 3)
        assert (consumer.position, kv.get(run, "done")) == (1, 0)
        with any_db.transaction(run) as txn:
            txn.events.commit(consumer, txn.events.append("n", 4).sequence)
        assert consumer.position == 4
        log.append(run, "n", 5)
        event = next(iter(consumer))
        log.trim(run, 5)
        with any_db.transaction(run) as txn:
            txn.kv.put("done", 4)
            txn.events.commit(consumer, event.sequence)
        assert (consumer.position, kv.get(run, "done")) == (5, 4)


def test_a_consumer_reads_while_it_holds_its_name(any_db: shoal.Database, run: str) -> None:
    """Closed, also while it waits, it gives no more events: another process may be at them. The error says so."""
    log = shoal.EventLog(any_db)
    log.append(run, "type", 0)
    consumer = log.consumer(run, "reader")
    events = iter(consumer)
    assert next(events).sequence == 0
    told: list[object] = []

    def wait() -> None:
        try:
            told.append(next(events))
        except shoal.FencedError as error:
            told.append(error.name)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    consumer.close()
    thread.join(30)
    assert told == ["reader"]
    with log.consumer(run, "reader") as other:
        assert next(iter(other)).sequence == 0
        with pytest.raises(shoal.FencedError):
            next(iter(consumer))


def test_a_consumer_gives_nothing_after_its_end_that_it_has_read_ahead(any_db: shoal.Database, run: str) -> None:
    """Neither when it was closed, nor when its name is held by another one since."""
    log = shoal.EventLog(any_db)
    log.append_many(run, [("type", i) for i in range(4)])
    with log.consumer(run, "reader") as consumer:
        events = iter(consumer)
        assert next(events).sequence == 0
    with pytest.raises(shoal.FencedError, match="reader"):
        next(events)
    with log.consumer(run, "reader") as again:
        with pytest.raises(shoal.FencedError):  # the name is held again, and not by this one
            next(iter(consumer))
        assert next(iter(again)).sequence == 0


def test_what_a_consumer_cannot_commit(any_db: shoal.Database, run: str) -> None:
    """An event that is not there, one of another log, anything else than a sequence; nothing is written."""
    log = shoal.EventLog(any_db)
    log.append(run, "n", 1)
    with log.consumer(run, "a") as consumer:
        for sequence in (1, -1):
            with pytest.raises(shoal.NotFoundError):
                consumer.commit(sequence)
        for other in ("0", True, None):
            with pytest.raises(TypeError):
                consumer.commit(other)  # type: ignore[arg-type]
        with any_db.transaction(run + "x") as txn:
            with pytest.raises(ValueError, match="another run"):
                txn.events.commit(consumer, 0)
            with pytest.raises(TypeError):
                txn.events.commit("a", 0)  # type: ignore[arg-type]
            txn.on(run).events.commit(consumer, 0)
        assert consumer.position == 1
        with pytest.raises(shoal.InvalidOperationError), any_db.snapshot(run) as snapshot:
            snapshot.events.commit(consumer, 0)


def test_a_fork_has_no_consumers_and_a_deleted_run_forgets_them(any_db: shoal.Database, run: str) -> None:
    """The position goes with the run, and so does the name."""
    log, runs = shoal.EventLog(any_db), shoal.RunIndex(any_db)
    log.append(run, "n", 1)
    consumer = log.consumer(run, "a")
    consumer.commit(0)
    runs.fork_run(run, new_run_id=run + "f")
    with log.consumer(run + "f", "a") as other:
        assert other.position == 0
    runs.delete_run(run)
    log.append(run, "n", 1)
    with pytest.raises(shoal.FencedError):
        consumer.commit(0)
    with log.consumer(run, "a") as again:
        assert again.position == 0


KEYS = st.sampled_from(["", "a", "ab", "b", "b\0", "c"])
WRITES = st.lists(st.tuples(KEYS.filter(bool), st.none() | st.integers(0, 3)), min_size=1, max_size=4)
COMMITS = st.lists(st.tuples(st.sampled_from("rs"), WRITES | st.just("delete run")), max_size=12)


def commit(db: shoal.Database, model: dict[str, dict[str, int]], run: str, writes: object) -> list[shoal.Change]:
    """Do one commit to the store and to the model; what changed in the run, as the model says."""
    before, changed = model[run], dict[str, object]()
    if not isinstance(writes, list):
        changed.update(dict.fromkeys(before))
        model[run] = {}
        with db.transaction(run) as txn:  # it tells its version; others commit to the same store
            if before:
                txn.runs.delete_run(run)
        return [shoal.Change(txn.version, key, None) for key in sorted(changed)]
    with db.transaction(run) as txn:
        for key, value in writes:
            if value is not None:
                txn.kv.put(key, value)
                changed[key] = value
            elif txn.kv.delete(key):
                changed[key] = None
            before.pop(key, None)
            before.update({} if value is None else {key: value})
    return [shoal.Change(txn.version, key, changed[key]) for key in sorted(changed)]


@pytest.mark.long
@given(commits=COMMITS, prefix=KEYS, skipped=st.integers(0, 12), engine=st.sampled_from(["memory", "toy"]))
def test_against_a_model(
    memory_db: shoal.Database, commits: list[tuple[str, object]], prefix: str, skipped: int, engine: str
) -> None:
    """Whatever is written, deleted and cleared: what a watch tells is what the commits changed, from any version on."""
    db = memory_db if engine == "memory" else shoal.Database(ToyFleetStore())  # type: ignore[arg-type]
    model: dict[str, dict[str, int]] = {"r": {}, "s": {}}
    for run in model:
        shoal.KVStore(db).put(run, "first", 1)
        shoal.RunIndex(db).delete_run(run)
    begun = db.info().commit_version
    watching = shoal.KVStore(db).watch("r", prefix, timeout=0)
    since, expected = begun, list[shoal.Change]()
    every = list[shoal.Change]()
    for number, (run, writes) in enumerate(commits):
        told = commit(db, model, run, writes)
        told = [change for change in told if run == "r" and change.key.startswith(prefix)]
        every += told
        if number < skipped:
            since = db.info().commit_version
        else:
            expected += told
    again = shoal.KVStore(db).watch("r", prefix, since=since, timeout=0)  # while the first one keeps what it needs
    assert list(watching) == every
    assert list(again) == expected

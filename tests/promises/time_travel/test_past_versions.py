"""Snapshots of past versions: by version, by moment, of every primitive; what is refused; how the option is kept."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

import shoal
from shoal import EventLog, KVStore, RunIndex, StateCell, TraceStore, TraceType


@pytest.fixture
def db(store: Path) -> Iterator[shoal.Database]:
    with shoal.open(store, history=3600) as opened:
        yield opened


def put(db: shoal.Database, key: str, value: object, run_id: str = "r") -> int:
    """Put in a transaction; the commit version."""
    with db.transaction(run_id) as txn:
        txn.kv.put(key, value)
    return txn.version


def test_every_version_reads_as_it_was(db: shoal.Database) -> None:
    """Overwritten, deleted and new keys, point reads and listings."""
    versions = [put(db, f"k{i % 3}", i) for i in range(30)]
    KVStore(db).delete("r", "k0")
    for i, version in enumerate(versions):
        expected = {f"k{j % 3}": j for j in range(i + 1)}
        with db.snapshot("r", version=version) as past:
            assert past.version == version
            assert dict(past.kv.list_with_values()) == expected
            assert past.kv.get("k0") == expected["k0"]
    with db.snapshot("r", version=versions[0] - 1) as past:
        assert past.kv.list() == []


@pytest.mark.long
def test_a_moment_is_the_newest_version_committed_by_then(db: shoal.Database) -> None:
    """Exact: a moment taken after a commit has it, and one taken before the next does not have that one."""
    moments = []
    for i in range(50):
        version = put(db, "k", i)
        moments.append((datetime.now(UTC), version))
    for moment, version in moments:
        with db.snapshot("r", at=moment) as past:
            assert past.version == version
    elsewhere = moments[7][0].astimezone(timezone(timedelta(hours=-7)))
    with db.snapshot("r", at=elsewhere) as past:
        assert past.kv.get("k") == 7


def test_all_primitives_and_deleted_runs(db: shoal.Database) -> None:
    """A past version shows everything of a run as it was, also of one that is deleted since. It only reads."""
    runs, events, cells, traces = RunIndex(db), EventLog(db), StateCell(db), TraceStore(db)
    runs.create_run(run_id="r", tags=["t"])
    events.append("r", "started", {"n": 1})
    cells.init("r", "step", "one")
    traces.record("r", TraceType.Thought("hm"), id="t")
    version = put(db, "k", "old")
    events.append("r", "went on", None)
    cells.set("r", "step", "two")
    runs.complete_run("r")
    put(db, "k", "new")
    runs.delete_run("r")
    put(db, "k", "again")
    with db.snapshot("r", version=version) as past:
        assert past.kv.list_with_values() == [("k", "old")]
        assert [event.event_type for event in past.events.iter()] == ["started"]
        assert past.events.verify_chain().is_valid
        assert past.state.read("step").value == "one"  # type: ignore[union-attr]
        assert past.traces.list() == ["t"]
        assert past.runs.list_runs() == ["r"]
        with pytest.raises(shoal.InvalidOperationError):
            past.kv.put("k", 1)


def test_a_fork_of_a_past_version_goes_on_from_there(db: shoal.Database) -> None:
    """By the facade and in a transaction, of a run that was deleted since."""
    runs, events, cells = RunIndex(db), EventLog(db), StateCell(db)
    events.append_many("r", [("a", 1), ("b", 2)])
    cells.set("r", "c", 1)
    version = put(db, "k", "then")
    runs.delete_run("r")
    fork = runs.fork_run("r", new_run_id="f", version=version)
    assert (fork.parent_run, fork.status) == ("r", shoal.RunStatus.Active)
    assert KVStore(db).get("f", "k") == "then"
    assert events.append("f", "c", 3).sequence == 2
    assert events.verify_chain("f").is_valid
    assert cells.set("f", "c", 2) == 2
    with db.transaction("r") as txn:
        made = txn.runs.fork_run("r", version=version)
        assert txn.on(made.run_id).kv.get("k") == "then"
    with pytest.raises(shoal.NotFoundError):
        runs.fork_run("r", version=0)
    with pytest.raises(shoal.AlreadyExistsError):
        runs.fork_run("r", new_run_id="f", version=version)


@pytest.mark.long
def test_a_deleted_run_is_no_fork_of_itself(db: shoal.Database) -> None:
    """A run cannot be its own child: a fork of its past takes another id, and nothing is written under its own."""
    runs = RunIndex(db)
    runs.create_run(run_id="r")
    version = put(db, "k", 1)
    runs.delete_run("r")
    for fork in (runs.fork_run, lambda *args, **options: db.transact("s", lambda t: t.runs.fork_run(*args, **options))):
        with pytest.raises(ValueError, match="new_run_id is 'r', the run itself"):
            fork("r", new_run_id="r", version=version)
    assert runs.list_runs() == []
    assert runs.fork_run("r", new_run_id="again", version=version).parent_run == "r"
    assert KVStore(db).get("again", "k") == 1


def test_what_is_refused(db: shoal.Database) -> None:
    """No version or moment, both, a future one, one that is not kept: each has its error, which says what is wrong."""
    version = put(db, "k", 1)
    now = datetime.now(UTC)
    for wrong in (version + 1, -1, 2**70):
        with pytest.raises(ValueError, match="version is"):
            db.snapshot("r", version=wrong)
        with pytest.raises(ValueError, match="version is"):
            RunIndex(db).fork_run("r", version=wrong)
    for wrong_type in (True, "1", 1.0):
        with pytest.raises(TypeError, match="version has type"):
            db.snapshot("r", version=wrong_type)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="at has type"):
        db.snapshot("r", at=1_700_000_000)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="time zone"):
        db.snapshot("r", at=datetime.now())
    with pytest.raises(ValueError, match="both"):
        db.snapshot("r", version=version, at=now)
    for later in (now + timedelta(hours=1), datetime.max.replace(tzinfo=timezone(timedelta(hours=-23)))):
        with pytest.raises(ValueError, match="future"):
            db.snapshot("r", at=later)
    with pytest.raises(shoal.SnapshotExpiredError, match="2020-01-01"):
        db.snapshot("r", at=datetime(2020, 1, 1, tzinfo=UTC))
    with pytest.raises(shoal.SnapshotExpiredError):
        db.snapshot("r", at=datetime(1, 1, 2, tzinfo=UTC))
    again = pickle.loads(pickle.dumps(shoal.SnapshotExpiredError(3, 9, "version 3")))
    assert (str(again), again.snapshot_version) == (str(shoal.SnapshotExpiredError(3, 9, "version 3")), 3)


@pytest.mark.long
def test_without_history_the_past_expires(store: Path) -> None:
    """The newest version can always be named; older ones are gone once their memory is reused."""
    with shoal.open(store, durability="memory") as db:
        first = put(db, "k", 0)
        with db.pipeline("r") as pipe:
            for i in range(5_000):
                pipe.kv.put("k", i)
        newest = db.info().commit_version
        with db.snapshot("r", version=newest) as past:
            assert past.kv.get("k") == 4_999
        with pytest.raises(shoal.SnapshotExpiredError) as expired:
            db.snapshot("r", version=first)
        assert expired.value.snapshot_version == first < expired.value.oldest_version
        with pytest.raises(shoal.SnapshotExpiredError):
            db.snapshot("r", at=datetime.now(UTC))
        runs = list[str]()

        def fork(txn: shoal.Transaction) -> None:
            runs.append("again")  # it would end the same way each time
            txn.runs.fork_run("r", version=first)

        with pytest.raises(shoal.SnapshotExpiredError):
            db.transact("r", fork)
        assert runs == ["again"]
        info = db.info()
        assert (info.history, info.history_version, info.history_since) == (0.0, None, None)


@pytest.mark.long
def test_history_ends_with_its_time(store: Path) -> None:
    """Older than the stated time is SnapshotExpiredError by version and by moment, and its memory is free again."""
    with shoal.open(store, durability="memory", history=1) as db:
        first = put(db, "k", bytes(4_000_000))
        moment = datetime.now(UTC)
        second = put(db, "k", b"small")
        while db.info().history_bytes < 4_000_000:  # shown a little later
            time.sleep(0.01)
        while db.info().history_bytes > 4_000_000:
            time.sleep(0.01)
        assert (db.info().history_version or 0) >= second
        with pytest.raises(shoal.SnapshotExpiredError):
            db.snapshot("r", version=first)
        with pytest.raises(shoal.SnapshotExpiredError):
            db.snapshot("r", at=moment)
        assert KVStore(db).get("r", "k") == b"small"
        assert db.check() == []


@pytest.mark.long
def test_a_held_snapshot_outlives_the_history(store: Path) -> None:
    """An open snapshot of a past version reads on when the time of that version is over."""
    with shoal.open(store, durability="memory", history=0.2) as db:
        first = put(db, "k", 0)
        with db.snapshot("r", version=first) as past:
            while (db.info().history_version or 0) <= first:
                put(db, "k", 1)
            assert past.kv.get("k") == 0


@pytest.mark.long
def test_the_option_is_remembered_and_the_same_for_all(store: Path) -> None:
    """``history`` is that of the store: another is refused while it is served; 0 removes what was kept."""
    with shoal.open(store, history=timedelta(minutes=1), linger=0) as db:
        assert db.info().history == 60
        with shoal.open(store) as other:
            assert other.info().history == 60
        with shoal.open(store, history=60.0) as other:
            assert pickle.loads(pickle.dumps(other)).info().history == 60
        with pytest.raises(shoal.ConfigurationError, match=r"history 60 s.* 30 s"):
            shoal.open(store, history=30)
    with shoal.open(store, linger=0) as db:
        assert db.info().history == 60
        version = put(db, "k", 1)
    with shoal.open(store, read_only=True) as db, db.snapshot("r", version=version) as past:
        assert past.kv.get("k") == 1
    with shoal.open(store, history=0, linger=0) as db:
        assert db.info().history == 0
    with shoal.open(store) as db:
        assert db.info().history == 0
    assert not [path for path in store.iterdir() if path.name.startswith("moments")]


@pytest.mark.parametrize("wrong", [-1, float("nan")])
def test_a_history_that_is_none(store: Path, wrong: float) -> None:
    """A wrong ``history`` is refused before the directory is made."""
    with pytest.raises(ValueError, match="history"):
        shoal.open(store, history=wrong)
    with pytest.raises(TypeError, match="history"):
        shoal.open(store, history="1h")  # type: ignore[arg-type]
    assert not store.exists()

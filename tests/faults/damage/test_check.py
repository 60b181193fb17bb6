"""``check()`` while commits go on: it finds nothing in a sound store, ends, and keeps nobody waiting."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Event
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest

import shoal
from shoal.coordinator.memory.check_report import check_segment
from shoal.shm import limits
from shoal.shm.errors import SnapshotExpiredError
from shoal.shm.limits import DEFAULT_LIMITS, Limits
from shoal.shm.memory import check_parts
from shoal.shm.memory.integrity import SegmentCheck
from shoal.shm.memory.layout import W_HORIZON
from shoal.shm.wire.answer import COMMITTED, REFUSED
from shoal.shm.wire.frames import frame
from tests.mutants.catching import rig as rigs
from tests.mutants.catching.rig import request
from tests.support.raw_client import assert_unharmed, send_and_hear
from tests.support.shared_memory import store_of
from tests.support.stores.checked_store import SMALL_NODES, Checked, checked_store  # noqa: F401 (a fixture)

RUN = "run"
SLOW = pytest.mark.slow


@pytest.mark.long
@pytest.mark.parametrize("seeds", [range(1, 11), pytest.param(range(11, 100), marks=SLOW)], ids=str)
def test_no_findings_while_commits_go_on(checked: Callable[..., Checked], seeds: range) -> None:
    """However commits and maintenance fall between the parts of a check, a sound store has no problems."""
    for seed in seeds:
        _check_while_commits_go_on(checked(seed, SMALL_NODES, 64 << 20), seed)
        rigs.opened.pop().close_descriptor()


def _check_while_commits_go_on(store: Checked, seed: int) -> None:
    for _ in range(60):
        store.commit()
    store.busy = store.commit
    finished = 0
    for _ in range(3):
        try:
            assert store.problems() == [], f"seed {seed}"
            finished += 1
        except SnapshotExpiredError:  # 8 MiB do not last: begin again, as Database.check does
            assert not store.rig.reclaimer.paused
        assert store.rig.writer.heap.allocated is None or not store.rig.reclaimer.paused
    assert finished
    store.busy = lambda: None
    assert store.problems() == []
    assert check_segment(store.rig.segment, store.rig.published, store.rig.writer) == []


def test_the_horizon_stands_still(checked: Callable[[int], Checked]) -> None:
    """While a check is under way nothing is freed; after it, everything that can be."""
    store = checked(3)
    rig = store.rig
    rig.submit((1, request(1, [b"key", bytes(300), 0])))
    before = rig.words[W_HORIZON]
    store.ask(check_parts.BEGIN, 0)
    for n in range(2, 30):
        rig.submit((1, request(n, [b"key", bytes(300), 0])))
    rig.reclaim()
    assert rig.words[W_HORIZON] == before
    assert len(rig.writer.garbage) == 28
    assert store.ask(check_parts.END, 0) == [29]
    rig.reclaim()
    assert rig.words[W_HORIZON] > before
    assert len(rig.writer.garbage) <= 1
    assert rig.writer.heap.allocated is None


@pytest.mark.parametrize("why", ["room", "history", "allocations", "its client has gone", "too many"])
def test_a_check_is_given_up(checked: Callable[..., Checked], monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """It finds out with the next question, and keeps nothing back any more."""
    store = checked(4, Limits(max_check_allocations=0) if why == "allocations" else DEFAULT_LIMITS)
    rig = store.rig
    rig.submit((1, request(1, [b"key", bytes(300), 0])))
    store.ask(check_parts.BEGIN, 0)
    if why == "room":
        rig.engine.free_more()
    elif why == "history":
        rig.reclaimer.limits = rig.reclaimer.limits._replace(history_bytes=-(10**9))
        rig.reclaim()
    elif why == "allocations":
        rig.submit((1, request(2, [b"key", bytes(300), 0])))
    elif why == "too many":
        for _ in range(limits.MAX_CHECKS):
            another: Any = SimpleNamespace()
            assert store.checks.answer(another, [0, check_parts.BEGIN, 0], rig.published, 0.0)
    else:
        store.checks.forget(store.client)
    assert store.ask(check_parts.BLOCKS, 0) == []
    with pytest.raises(SnapshotExpiredError):
        SegmentCheck(store.segment, lambda part, position: []).run()
    if why != "too many":
        rig.reclaim()
        assert not rig.reclaimer.paused
        assert rig.writer.heap.allocated is None


def test_a_commit_that_needs_room_gets_it(checked: Callable[[int], Checked]) -> None:
    """A check is given up when a commit needs what it holds back. One that insists is not, for a second."""
    store = checked(5)
    commits = (request(n, [b"key", bytes(200_000), 0]) for n in range(1, 1000))
    store.ask(check_parts.BEGIN, 0)
    for _ in range(200):
        assert store.rig.submit((1, next(commits)))[0][1] == COMMITTED
    assert store.ask(check_parts.BLOCKS, 0) == []
    store.ask(check_parts.BEGIN, 1)
    statuses = [store.rig.submit((1, next(commits)))[0][1] for _ in range(200)]
    assert statuses == sorted(statuses)
    assert statuses[-1] == REFUSED
    assert store.ask(check_parts.BLOCKS, 0) != []
    store.rig.now_ms += round(limits.SNAPSHOT_GRACE_S * 1000)
    assert store.rig.submit((1, next(commits)))[0][1] == COMMITTED
    assert store.ask(check_parts.BLOCKS, 0) == []


@pytest.mark.long
def test_memory_that_time_travel_may_fill_holds_up_no_check(checked: Callable[..., Checked]) -> None:
    """A store that keeps past versions may always be nearly full: that is no reason to give a check up."""
    store = checked(6, max_bytes=32 << 20)
    rig = store.rig
    rig.reclaimer.keep_from(1)
    heap, numbers = rig.writer.heap, iter(range(1, 10_000))
    while heap.free_blocks * 10 > heap.block_count:
        number = next(numbers)
        rig.submit((1, request(number, [b"%d" % number, bytes(9_000), 0])))
    store.ask(check_parts.BEGIN, 0)
    for _ in range(20):
        number = next(numbers)
        rig.submit((1, request(number, [b"1", bytes(100), 0])))
        rig.reclaimer.step(store.now_s)
    assert store.ask(check_parts.BLOCKS, 0) != []
    assert store.problems() == []


@pytest.mark.long
def test_a_full_store_is_checked_beside_a_writer(store: Path) -> None:
    """A process overwrites half of a small store all the time: a check comes to an end all the same."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with shoal.open(store, max_bytes=8 << 20, linger=0.2) as db:
        shoal.KVStore(db).put(RUN, "key", 0)
        other = context.Process(target=_overwrite, args=(str(store), stop))
        other.start()
        try:
            for _ in range(5):
                assert db.check() == []
        finally:
            stop.set()
            other.join(20)
        assert other.exitcode == 0


def _overwrite(path: str, stop: Event) -> None:
    with shoal.open(path) as db:
        kv, n = shoal.KVStore(db), 0
        while not stop.is_set():
            n += 1
            with contextlib.suppress(shoal.StoreFullError):
                kv.put(RUN, f"large {n % 4}", "x" * 1_000_000)


@pytest.mark.long
@pytest.mark.parametrize(
    "arguments",
    [
        *([], None, 7, [0], ["begin", 0, 0], [0, 0, 0], [0, "begin", "0"], [0, "begin", -1], [0, "begin", 2**63]),
        *([0, "begin", 0, 0], [True, "begin", 0], [0, b"begin", 0], {"begin": 0}),
    ],
    ids=str,
)
def test_questions_that_make_no_sense(memory_db: shoal.Database, arguments: Any) -> None:
    """They end their client only."""
    pid = memory_db.info().coordinator_pid
    message = _question(arguments)
    assert send_and_hear(memory_db, message) == b""
    assert_unharmed(memory_db, pid)


def _question(arguments: Any) -> bytes:
    return frame(bytes(28) + msgpack.packb([[], None, None, ["check", arguments]]))


def test_questions_at_any_position(checked: Callable[[int], Checked]) -> None:
    """Whatever is asked of a check that is under way, in whatever order, is answered; no part of it is an error."""
    store = checked(6)
    for _ in range(30):
        store.commit()
    store.ask(check_parts.BEGIN, 0)
    parts = [check_parts.BLOCKS, check_parts.BUCKETS, check_parts.BRANCHES, check_parts.WAITING, check_parts.ALLOCATED]
    for position in (1, 5, 1000, 2**20, 2**31, 2**32, 2**47, 0, 3):
        for part in parts:
            answer = store.ask(part, position)
            assert type(answer[0]) is int
    assert store.checks.answer(store.client, [store.number, "no such part", 0], 0, 0.0) is None
    another: Any = SimpleNamespace()
    assert store.checks.answer(another, [store.number, check_parts.BLOCKS, 0], 0, 0.0) == []


def _write(path: str, stop: Event, number: int) -> None:
    """A process that writes as fast as it can: overwrites, new keys, deletes, expiry, whole runs."""
    rng = random.Random(number)
    with shoal.open(path) as db:
        kv, log, runs = shoal.KVStore(db), shoal.EventLog(db), shoal.RunIndex(db)
        n = 0
        while not stop.is_set():
            n += 1
            key = f"{rng.randrange(300)}"
            kv.put(RUN, key, "x" * rng.choice((1, 50, 400, 9000)))
            kv.put(RUN, f"short {key}", n, ttl=0.01)
            kv.delete(RUN, f"{rng.randrange(300)}")
            log.append(RUN, "step", n)
            if n % 20 == 0:
                kv.put(f"run {number}", "key", n)
                runs.delete_run(f"run {number}")


@pytest.mark.long
@pytest.mark.parametrize("checks", [30, pytest.param(400, marks=SLOW)])
def test_no_findings_beside_writing_processes(store: Path, checks: int) -> None:
    """Check after check of a store that two processes write to without a pause, by two threads at the same time."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with shoal.open(store, max_bytes=64 << 20, linger=0.2) as db:
        writers = [context.Process(target=_write, args=(str(store), stop, n)) for n in range(2)]
        for writer in writers:
            writer.start()
        try:
            until_s = time.monotonic() + 20
            while db.info().commit_version < 200:
                assert time.monotonic() < until_s
                time.sleep(0.01)
            with ThreadPoolExecutor(2) as threads:
                found = list(threads.map(lambda _: db.check(), range(checks)))
            assert found == [[]] * checks
            assert all(writer.is_alive() for writer in writers)
        finally:
            stop.set()
            for writer in writers:
                writer.join(20)
        assert db.check() == []


@pytest.mark.long
def test_the_coordinator_dies_meanwhile(db: shoal.Database) -> None:
    """The check begins again with the next coordinator."""
    kv = shoal.KVStore(db)
    for n in range(50):
        kv.put(RUN, f"key {n}", n)
    asked = store_of(db).connection.ask
    pid = db.info().coordinator_pid

    def ask(name: str, arguments: list[Any], timeout_s: float = float("inf")) -> Any:
        if arguments[1] == check_parts.WAITING and store_of(db).connection.attachment.reader.words[11] == pid:
            os.kill(pid, signal.SIGKILL)
        return asked(name, arguments)

    store_of(db).connection.ask = ask  # type: ignore[method-assign]
    assert db.check() == []
    assert db.info().coordinator_pid != pid


@SLOW
def test_commits_go_on(store: Path) -> None:
    """While 200,000 keys are checked no commit of another process waits for long: it was as long as the whole check."""
    context = multiprocessing.get_context("spawn")
    with shoal.open(store, durability="memory", max_bytes=512 << 20, linger=0.2) as db:
        for start in range(0, 200_000, 2_000):
            with db.transaction(RUN) as txn:
                for n in range(start, start + 2_000):
                    txn.kv.put(f"key {n}", n)
        ready, stop = context.Event(), context.Event()
        receive, send = context.Pipe(duplex=False)
        other = context.Process(target=_longest_commit, args=(str(store), ready, stop, send))
        other.start()
        assert ready.wait(20)
        started_s = time.monotonic()
        assert db.check() == []
        took_s = time.monotonic() - started_s
        stop.set()
        longest_s, commits = receive.recv()
        other.join(20)
    print(
        f"check {took_s:.2f} s, {took_s / 0.2:.1f} us a key; {commits} commits, the longest {longest_s * 1000:.1f} ms"
    )
    assert commits > 100
    assert longest_s < 0.5


def _longest_commit(path: str, ready: Event, stop: Event, send: Any) -> None:
    with shoal.open(path) as db:
        kv = shoal.KVStore(db)
        kv.put(RUN, "other", 0)
        ready.set()
        longest_s, n = 0.0, 0
        while not stop.is_set():
            n += 1
            started_s = time.monotonic()
            kv.put(RUN, "other", n)
            longest_s = max(longest_s, time.monotonic() - started_s)
        send.send((longest_s, n))

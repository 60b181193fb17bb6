"""``check()`` while commits go on: it finds all damage, none where there is none, and keeps nobody waiting."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest
from planted_bugs import rig as rigs
from planted_bugs.rig import Disk, Rig, request
from test_bad_clients import assert_unharmed, send_and_hear

import shoal
from shoal.coordinator.checks import Checks
from shoal.shm import check_state, codec, integrity, limits, operations
from shoal.shm.commit_set import COMMITTED, REFUSED
from shoal.shm.errors import SnapshotExpiredError
from shoal.shm.frames import frame
from shoal.shm.heap import BLOCK_WORDS
from shoal.shm.integrity import SegmentCheck, check_segment
from shoal.shm.layout import (
    DIRECTORY_WORD,
    EXPIRES,
    TOMBSTONE,
    W_CLEARS,
    W_HASH_MASK,
    W_HORIZON,
    W_KEYS,
    W_ORDER_ROOT,
)
from shoal.shm.segment import Segment

RUN = "run"
SLOW = pytest.mark.slow


class Checked:
    """A coordinator's engine and a process that checks its store through a mapping of its own, read-only.

    ``busy`` is called before every question and every so many keys: what commits there does it while the check goes on.
    """

    def __init__(self, seed: int = 1) -> None:
        self.rng = random.Random(seed)
        self.rig = Rig(Disk())
        self.checks = Checks(self.rig.writer, self.rig.reclaimer)
        self.client: Any = SimpleNamespace()
        self.number = 0
        self.busy: Callable[[], None] = lambda: None
        self.segment = Segment.attach(self.rig.segment.read_only_fd())
        self.commits = 0

    @property
    def now_s(self) -> float:
        return self.rig.now_ms / 1000

    def ask(self, part: str, position: int) -> list[Any]:
        if position == 0 or self.rng.random() < 0.1:
            self.busy()
        self.rig.engine.finish_group()
        answer = self.checks.answer(self.client, [self.number, part, position], self.rig.engine.published, self.now_s)
        assert answer is not None
        answer = codec.unpackb(codec.pack(answer))  # it goes through a pipe
        if part == check_state.BEGIN:
            self.number = answer.pop(0)
        return answer

    def problems(self) -> list[str]:
        check = SegmentCheck(self.segment, self.ask)
        sound = check._walk_chain

        def walk_chain(node: int, key: bytes) -> bool:
            if self.rng.random() < 0.03:
                self.busy()
            return sound(node, key)

        check._walk_chain = walk_chain
        return check.run()

    def commit(self) -> None:
        """One group of any kind of commit; sometimes maintenance."""
        rng, rig = self.rng, self.rig
        group = []
        for client in range(1, 1 + rng.randrange(1, 4)):
            self.commits += 1
            group.append((client, self._request(self.commits)))
        rig.submit(*group)
        rig.now_ms += 60
        if rng.random() < 0.5:
            rig.engine.sweep_expired()
            rig.engine.finish_group()
        for _ in range(rng.randrange(4)):
            rig.reclaimer.step(rig.now_ms / 1000)
        if rig.reclaimer.waits_for_a_version() and rng.random() < 0.5:
            rig.engine.make_version()

    def _request(self, number: int) -> Any:
        rng = self.rng
        kind = rng.randrange(7)
        if kind == 0:
            return request(number, operations=[[operations.EVENT_APPEND, [b"log\0", "xxh3", [["e", b"\xc0"]]]]])
        if kind == 1:
            low = rng.randrange(400)
            clears = [b"k%03d" % low, b"k%03d" % (low + rng.randrange(1, 60))]
            return request(number, self._writes(rng.randrange(2)), clears=clears)
        return request(number, self._writes(rng.randrange(1, 12)))

    def _writes(self, count: int) -> list[Any]:
        rng = self.rng
        writes: list[Any] = []
        for key in rng.sample(range(400), count):
            if rng.random() < 0.3:
                writes += (b"k%03d" % key, None, 0)
            else:
                size = rng.choice((3, 3, 3, 40, 40, 300, 300, 3000, 9000))
                writes += (b"k%03d" % key, bytes(size), self.rig.now_ms + 500 if rng.random() < 0.1 else 0)
        return writes


@pytest.fixture
def checked() -> Iterator[Callable[[int], Checked]]:
    boot_id = rigs.wal_format.boot_id
    yield Checked
    rigs.wal_format.boot_id = boot_id
    while rigs.opened:
        os.close(rigs.opened.pop())


@pytest.fixture
def small_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves, branches and buckets so small that all of them split and join all the time; slices likewise."""
    from shoal.shm import hash_index, ordered_index, reader, writer

    for module in (ordered_index, integrity, reader):
        monkeypatch.setattr(module, "LEAF_ENTRIES", 4)
        monkeypatch.setattr(module, "BRANCH_ENTRIES", 6)
    monkeypatch.setattr(writer, "LEAF_ENTRIES", 4)
    monkeypatch.setattr(hash_index, "BUCKET_FILL", 8)
    for name, value in (("CHECK_BLOCKS", 3), ("CHECK_BUCKETS", 2), ("CHECK_REFERENCES", 20)):
        monkeypatch.setattr(check_state, name, value)
    monkeypatch.setattr(limits, "MIN_STORE_BYTES", 64 << 20)


@pytest.mark.parametrize("seeds", [range(1, 26), pytest.param(range(26, 300), marks=SLOW)], ids=str)
@pytest.mark.usefixtures("small_nodes")
def test_no_findings_while_commits_go_on(checked: Callable[[int], Checked], seeds: range) -> None:
    """However commits and maintenance fall between the parts of a check, a sound store has no problems."""
    for seed in seeds:
        _check_while_commits_go_on(checked(seed), seed)
        os.close(rigs.opened.pop())


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


def _some_node(store: Checked) -> int:
    return store.rig.writer.hash_index.find(b"plain")


def _second_record(store: Checked) -> int:
    """A record that stands for itself: the newest of a key that was overwritten."""
    words = store.rig.words
    record: int = words[store.rig.writer.hash_index.find(b"twice")]
    return record


def _leaf(store: Checked) -> int:
    leaf: int = store.rig.writer.ordered_index._branches[0].leaves[0]
    return leaf


def _set(place: Callable[[Checked], int], value: Any) -> Callable[[Checked], None]:
    def damage(store: Checked) -> None:
        at = place(store)
        store.rig.words[at] = value(store, store.rig.words[at]) if callable(value) else value

    return damage


def _lose(store: Checked) -> None:
    store.rig.writer.heap.allocate(40)


def _free(reference: Callable[[Checked], int]) -> Callable[[Checked], None]:
    return lambda store: store.rig.writer.heap.free(reference(store))


def _free_twice(store: Checked) -> None:
    heap = store.rig.writer.heap
    free = next(free for free in heap._free_in_block.values() if free)
    free.append(free[0])


def _wait(reference: Callable[[Checked], int], times: int = 1) -> Callable[[Checked], None]:
    def damage(store: Checked) -> None:
        writer = store.rig.writer
        for _ in range(times):
            writer.discard(store.rig.published + 1, reference(store), 4)

    return damage


def _forget_in_hash(store: Checked) -> None:
    store.rig.writer.hash_index.remove(b"plain", _some_node(store))


def _forget_in_order(store: Checked) -> None:
    writer = store.rig.writer
    writer.ordered_index.remove([(b"plain", _some_node(store))])
    writer.end_group(store.rig.published)


def _swap_in_leaf(store: Checked) -> None:
    words, leaf = store.rig.words, _leaf(store)
    words[leaf + 1], words[leaf + 2] = words[leaf + 2], words[leaf + 1]


def _bucket(store: Checked) -> int:
    bucket: int = store.rig.words[DIRECTORY_WORD]
    return bucket


def _attribute(change: Callable[[Any], None]) -> Callable[[Checked], None]:
    return lambda store: change(store.rig.writer)


def _miscount(writer: Any) -> None:
    writer.hash_index._live[next(iter(writer.hash_index._live))] += 1


def _mirror(writer: Any) -> None:
    writer.ordered_index._branches[0].fences[1] = b"zzz"


def _record_of(key: bytes) -> Callable[[Checked], int]:
    def record(store: Checked) -> int:
        at: int = store.rig.words[store.rig.writer.hash_index.find(key)]
        return at

    return record


DAMAGE: dict[str, tuple[Callable[[Checked], None], str]] = {
    "a record that nobody knows": (_lose, "neither reachable nor waiting"),
    "a node freed": (_free(_some_node), "no record in use|allocated again"),
    "a record freed": (_free(_second_record), "no record in use|allocated again"),
    "a leaf freed": (_free(_leaf), "no record in use|allocated again"),
    "free twice": (_free_twice, "free twice"),
    "a node that waits": (_wait(_some_node), "waits to be reclaimed and is reachable"),
    "a record that waits": (_wait(_second_record), "waits to be reclaimed and is reachable"),
    "waits twice": (_wait(_second_record, 2), "waits to be reclaimed twice"),
    "nothing that waits": (_wait(lambda store: BLOCK_WORDS * 50 + 1), "waits to be reclaimed and is no record"),
    "not in the hash index": (_forget_in_hash, "in the ordered index and not in the hash index"),
    "not in the ordered index": (_forget_in_order, "in the hash index and not in the ordered index"),
    "out of order": (_swap_in_leaf, "stands after"),
    "a node without a version": (_set(_some_node, 0), "has no version"),
    "two keys share a record": (
        _set(_some_node, lambda store, _: _second_record(store)),
        "in use twice",
    ),
    "a version of the future": (_set(_second_record, 1 << 40), "version 1099511627776, the newest"),
    "versions that rise": (
        _set(lambda store: store.rig.words[_second_record(store) + 1], lambda store, _: 1 << 30),
        "below",
    ),
    "a length": (_set(lambda store: _second_record(store) + 2, 1 << 31), "impossible length"),
    "flags": (_set(lambda store: _second_record(store) + 2, 1 << 40), "impossible length or flags"),
    "a tombstone too much": (_set(lambda store: _second_record(store) + 2, TOMBSTONE), "live keys, the walk found"),
    "a key's length": (_set(lambda store: _some_node(store) + 1, 1 << 20), "whose key has"),
    "a reference outside": (_set(_some_node, 1 << 45), "no record in use"),
    "a node outside": (_set(lambda store: _leaf(store) + 1, 1 << 45), "no record in use"),
    "a leaf's count": (_set(_leaf, 1 << 20), "entries, 1 to"),
    "an empty root": (_set(lambda store: store.rig.words[W_ORDER_ROOT], 0), "entries, 1 to|differs"),
    "no root": (_set(lambda store: W_ORDER_ROOT, 0), "not in the ordered index"),
    "a root outside": (_set(lambda store: W_ORDER_ROOT, 1 << 45), "no record in use"),
    "a directory entry": (_set(lambda store: DIRECTORY_WORD, lambda store, _: _leaf(store)), "no record in use"),
    "a directory entry outside": (_set(lambda store: DIRECTORY_WORD, 1 << 45), "no record in use"),
    "a bucket entry": (
        _set(lambda store: _bucket(store) + 255, lambda store, _: BLOCK_WORDS * 60),
        "no record in use|entries as counted",
    ),
    "a clears table": (_set(lambda store: W_CLEARS, lambda store, _: BLOCK_WORDS * 61), "the clears table"),
    "keys in the header": (_set(lambda store: W_KEYS, 7), "the header counts 7"),
    "keys counted": (_attribute(lambda writer: setattr(writer, "keys", writer.keys + 1)), "the header counts"),
    "words counted": (
        _attribute(lambda writer: setattr(writer.heap, "used_words", writer.heap.used_words + 8)),
        "counted as allocated",
    ),
    "waiting words counted": (
        _attribute(lambda writer: setattr(writer, "garbage_words", writer.garbage_words + 8)),
        "counted as waiting",
    ),
    "a bucket's count": (_attribute(_miscount), "entries as counted"),
    "a fence of the mirror": (_attribute(_mirror), "differs"),
}
assert EXPIRES


def _damaged(store: Checked, name: str) -> str:
    writes: list[Any] = [b"plain", b"p", 0, b"twice", bytes(300), 0]
    for n in range(300):
        writes += (b"s%03d" % n, b"v", 0)
    store.rig.submit((1, request(1, writes)))
    store.rig.reclaim()
    store.rig.submit((1, request(2, [b"twice", bytes(301), 0])))
    store.commits = 2
    if name == "versions that rise":
        store.rig.reclaimer.pinned = lambda: [1]  # or nobody looks so far down
    assert store.problems() == []
    damage, expected = DAMAGE[name]
    damage(store)
    return expected


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found(checked: Callable[[int], Checked], name: str) -> None:
    """Every kind of damage is found in a store that stands still, by the writing process and by any other."""
    import re

    store = checked(1)
    expected = _damaged(store, name)
    for problems in (store.problems(), check_segment(store.rig.segment, store.rig.published, store.rig.writer)):
        assert any(re.search(expected, problem) for problem in problems), problems


# Where damage is such that the coordinator itself stumbles, or the commit mends it, commits beside it prove nothing.
_BESIDE = [
    "a record that nobody knows",
    "a record that waits",
    "a node that waits",
    "waits twice",
    "not in the hash index",
    "not in the ordered index",
    "two keys share a record",
    "a version of the future",
    "a length",
    "flags",
    "a tombstone too much",
    "a key's length",
    "a reference outside",
    "keys counted",
    "words counted",
    "waiting words counted",
]


@pytest.mark.parametrize("name", _BESIDE)
def test_damage_is_found_while_commits_go_on(checked: Callable[[int], Checked], name: str) -> None:
    """The same while others commit to other keys."""
    import re

    store = checked(2)
    expected = _damaged(store, name)
    number = iter(range(3, 100_000))

    def busy() -> None:
        n = next(number)
        store.rig.submit((1, request(n, [b"k%03d" % (n % 300), bytes(n % 700), 0])))
        store.rig.reclaimer.step(store.rig.now_ms / 1000)

    store.busy = busy
    problems = store.problems()
    if "waits" in name:
        expected += "|no record in use"  # it was reclaimed before the check began
    assert any(re.search(expected, problem) for problem in problems), problems


def test_the_horizon_stands_still(checked: Callable[[int], Checked]) -> None:
    """While a check is under way nothing is freed; after it, everything that can be."""
    store = checked(3)
    rig = store.rig
    rig.submit((1, request(1, [b"key", bytes(300), 0])))
    before = rig.words[W_HORIZON]
    store.ask(check_state.BEGIN, 0)
    for n in range(2, 30):
        rig.submit((1, request(n, [b"key", bytes(300), 0])))
    rig.reclaim()
    assert rig.words[W_HORIZON] == before
    assert len(rig.writer.garbage) == 28
    assert store.ask(check_state.END, 0) == [29]
    rig.reclaim()
    assert rig.words[W_HORIZON] > before
    assert len(rig.writer.garbage) <= 1
    assert rig.writer.heap.allocated is None


@pytest.mark.parametrize("why", ["room", "history", "allocations", "its client has gone", "too many"])
def test_a_check_is_given_up(checked: Callable[[int], Checked], monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """It finds out with the next question, and keeps nothing back any more."""
    store = checked(4)
    rig = store.rig
    rig.submit((1, request(1, [b"key", bytes(300), 0])))
    store.ask(check_state.BEGIN, 0)
    if why == "room":
        rig.engine.free_more()
    elif why == "history":
        monkeypatch.setattr(limits, "HISTORY_BYTES", -(10**9))
        rig.reclaim()
    elif why == "allocations":
        monkeypatch.setattr(limits, "MAX_CHECK_ALLOCATIONS", 0)
        rig.submit((1, request(2, [b"key", bytes(300), 0])))
    elif why == "too many":
        for _ in range(limits.MAX_CHECKS):
            assert store.checks.answer(SimpleNamespace(), [0, check_state.BEGIN, 0], rig.published, 0.0)
    else:
        store.checks.forget(store.client)
    assert store.ask(check_state.BLOCKS, 0) == []
    with pytest.raises(SnapshotExpiredError):
        SegmentCheck(store.segment, lambda part, position: []).run()
    if why != "too many":
        rig.reclaim()
        assert not rig.reclaimer.paused
        assert rig.writer.heap.allocated is None


def test_a_commit_that_needs_room_gets_it(checked: Callable[[int], Checked]) -> None:
    """A check never makes a commit fail: it is given up when what it holds back is needed. One that insists is not.

    But even that for no longer than a second.
    """
    store = checked(5)
    commits = (request(n, [b"key", bytes(200_000), 0]) for n in range(1, 1000))
    store.ask(check_state.BEGIN, 0)
    for _ in range(200):
        assert store.rig.submit((1, next(commits)))[0][1] == COMMITTED
    assert store.ask(check_state.BLOCKS, 0) == []
    store.ask(check_state.BEGIN, 1)
    statuses = [store.rig.submit((1, next(commits)))[0][1] for _ in range(200)]
    assert statuses == sorted(statuses)
    assert statuses[-1] == REFUSED
    assert store.ask(check_state.BLOCKS, 0) != []
    store.rig.now_ms += round(limits.SNAPSHOT_GRACE_S * 1000)
    assert store.rig.submit((1, next(commits)))[0][1] == COMMITTED
    assert store.ask(check_state.BLOCKS, 0) == []


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
    store.ask(check_state.BEGIN, 0)
    parts = [check_state.BLOCKS, check_state.BUCKETS, check_state.BRANCHES, check_state.WAITING, check_state.ALLOCATED]
    for position in (1, 5, 1000, 2**20, 2**31, 2**32, 2**47, 0, 3):
        for part in parts:
            answer = store.ask(part, position)
            assert type(answer[0]) is int
    assert store.checks.answer(store.client, [store.number, "no such part", 0], 0, 0.0) is None
    assert store.checks.answer(SimpleNamespace(), [store.number, check_state.BLOCKS, 0], 0, 0.0) == []


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
            for _ in range(checks):
                assert db.check() == []
            assert all(writer.is_alive() for writer in writers)
        finally:
            stop.set()
            for writer in writers:
                writer.join(20)
        assert db.check() == []


def test_the_coordinator_dies_meanwhile(db: shoal.Database) -> None:
    """The check begins again with the next coordinator."""
    kv = shoal.KVStore(db)
    for n in range(50):
        kv.put(RUN, f"key {n}", n)
    asked = db._connection.ask
    pid = db.info().coordinator_pid

    def ask(name: str, arguments: list[Any]) -> Any:
        if arguments[1] == check_state.WAITING and db._connection.attachment.reader.words[11] == pid:
            os.kill(pid, signal.SIGKILL)
        return asked(name, arguments)

    db._connection.ask = ask  # type: ignore[method-assign]
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


assert W_HASH_MASK

"""Replay does commits in batches, of each key only the last write, and finds what one commit after the other left."""

from __future__ import annotations

import random
from typing import Any

import pytest

from shoal.coordinator.commit.apply import ClientSessions, apply_commit
from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.coordinator.log.format import LoggedCommit
from shoal.coordinator.memory.check_report import check_segment
from shoal.coordinator.memory.loading import apply_versions
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.reserve import reserve_in_use
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.recovery import replay
from shoal.coordinator.recovery.replay import publish, replayed
from shoal.shm.errors import StoreFullError
from shoal.shm.limits import MIB, Limits
from shoal.shm.memory.reader import Reader
from shoal.shm.memory.segment import Segment
from tests.support.slow import slow

FAR_MS = 1 << 62
SMALL = Limits(leaf_entries=4, branch_entries=4, bucket_fill=4, clear_slice=3, tombstone_chunk_words=64)


class Memory:
    """A segment of 8 MiB with what replay needs."""

    def __init__(self) -> None:
        self.segment = Segment.create(8 * MIB, 7)
        self.writer = Writer(self.segment, SMALL)
        self.reclaimer = Reclaimer(self.writer, list)
        self.window = ConflictWindow(0)
        self.sessions = ClientSessions(SMALL)
        self.version = 0

    def commit(self, commit: LoggedCommit) -> bool:
        """Do a commit as the engine does; False if there is no room for it, even after everything is reclaimed."""
        try:
            self._apply(commit)
        except StoreFullError:
            publish(self.writer, self.reclaimer, self.version)
            publish(self.writer, self.reclaimer, self.version)
            try:
                self._apply(commit)
            except StoreFullError:
                return False
        self.version = commit.version
        apply_commit(self.window, self.sessions, commit.version, commit.clears, commit.writes, commit.outcomes)
        publish(self.writer, self.reclaimer, commit.version)
        return True

    def _apply(self, commit: LoggedCommit) -> None:
        plan = self.writer.plan(commit.writes, commit.clears)
        self.writer.apply(commit.version, commit.clears, commit.writes, plan)

    def content(self) -> list[Any]:
        return list(Reader(self.segment, limits=SMALL).scan(b"", None, self.version))


def _random_commit(rng: random.Random, version: int, keys: int, sizes: tuple[int, ...]) -> LoggedCommit:
    writes: list[Any] = []
    for number in rng.sample(range(keys), rng.choice((0, 1, 1, 1, 2, 9))):
        value = None if rng.random() < 0.2 else rng.randbytes(rng.choice(sizes))
        writes += (b"key %04d" % number, value, rng.choice((0, FAR_MS)) if value is not None else 0)
    clears = []
    if rng.random() < 0.02:
        lower = rng.randrange(keys)
        clears = [(b"key %04d" % lower, b"key %04d" % (lower + 20))]
    client_id = rng.randrange(1, 5)
    return LoggedCommit(version, client_id, writes, clears, [(client_id, version, [version])], sum(sizes))


@pytest.mark.parametrize("seed", [0, *slow(*range(1, 5))])
@pytest.mark.parametrize(
    ("keys", "sizes", "commits"),
    [
        (60, (0, 5, 8, 30), 400),
        (60, (5, 300, 9_000), 400),
        (2_000, (20, 8_100, 16_000), 2_000),
        (70, (20, 40_000, 150_000, 700_000), 400),
    ],
)
def test_batches_leave_what_commits_left(
    seed: int, keys: int, sizes: tuple[int, ...], commits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content, versions, window and sessions; the last sizes fill the store, so that commits are refused."""
    rng = random.Random(seed)
    monkeypatch.setattr(replay, "_COMMITS_PER_BATCH", rng.choice((1, 7, 100)))
    monkeypatch.setattr(replay, "_BYTES_PER_BATCH", 1 << 40)
    original, log, refused = Memory(), [], 0
    for _ in range(commits):
        commit = _random_commit(rng, original.version + 1, keys, sizes)
        if original.commit(commit):
            log.append(commit)
        else:
            refused += 1
    assert bool(refused) == (keys in (70, 2_000))
    found = Memory()
    parts = (found.writer, found.reclaimer, found.window, found.sessions, SMALL)
    with reserve_in_use(found.writer):
        assert list(replayed(iter(log), *parts)) == log
    found.version = original.version
    assert found.content() == original.content(), f"seed {seed}, sizes {sizes}"
    assert list(found.sessions.items()) == list(original.sessions.items())
    for number in range(keys):
        key = b"key %04d" % number
        assert found.window.written_since(key, 5) == original.window.written_since(key, 5)
    for _ in range(3):  # keys leave the indexes in one round, and are free in a later one
        found.version += 1
        publish(found.writer, found.reclaimer, found.version)
    assert check_segment(found.segment, found.version, found.writer) == []


def test_a_batch_that_does_not_fit_is_done_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that became small made room for another. Its last write comes behind that, so the batch has no room."""
    sizes = [("x", 5 * MIB), ("x", 10), ("y", 3 * MIB), ("x", 20)]
    log = [
        LoggedCommit(at, 1, [name.encode(), bytes(size), 0], [], [], size) for at, (name, size) in enumerate(sizes, 1)
    ]
    full = 0

    def counted(*arguments: Any) -> None:
        nonlocal full
        try:
            sound(*arguments)
        except StoreFullError:
            full += 1
            raise

    sound = apply_versions
    monkeypatch.setattr(replay, "apply_versions", counted)
    monkeypatch.setattr(replay, "_BYTES_PER_BATCH", 5 * MIB)
    found = Memory()
    list(replayed(iter(log), found.writer, found.reclaimer, found.window, found.sessions, SMALL))
    found.version = len(log)
    assert [(key, len(value.value)) for key, value in found.content()] == [(b"x", 20), (b"y", 3 * MIB)]
    assert full == 1

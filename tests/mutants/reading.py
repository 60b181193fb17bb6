"""Faults in snapshots, and in giving back what they still need."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.server.loop import Server
from shoal.shm.memory.layout import W_HORIZON, W_PUBLISHED
from shoal.shm.memory.range_tombstones import RangeTombstones, Row
from shoal.shm.memory.reader import Reader
from shoal.shm.memory.snapshots import SnapshotSlots
from shoal.shm.memory.tombstone_view import TombstoneView
from shoal.shm.operation import VersionedValue
from shoal.workers.shared_memory.transaction import EngineTransaction
from tests.mutants.registry import WORKER, Patch, mutant

_TOO_EARLY = 4  # versions
_AHEAD_MS = 1_000
_MOST_OVERLOOKED = 10_000


@mutant("snapshots", "open_snapshots", "lists", side=WORKER)
def stale_snapshots(patch: Patch) -> None:
    """A snapshot is the one that should have been taken the time before."""
    before: dict[int, tuple[SnapshotSlots, tuple[int, int]]] = {}

    def pin(self: SnapshotSlots, words: memoryview) -> tuple[int, int]:
        fresh: tuple[int, int] = sound(self, words)
        _, stale = before.get(id(self)) or (self, sound(self, words))
        before[id(self)] = (self, fresh)
        return stale

    sound = patch.set(SnapshotSlots, "pin", pin)


@mutant("snapshots", "revoked_snapshot", side=WORKER)
def do_not_pin(patch: Patch) -> None:
    """A snapshot stands in no slot, so what it needs is given back under it."""

    def pin(self: SnapshotSlots, words: memoryview) -> tuple[int, int]:
        slot, version = sound(self, words)
        self._slots[slot] = 0
        return slot, version

    sound = patch.set(SnapshotSlots, "pin", pin)


@mutant("snapshots", "revoked_snapshot", side=WORKER)
def believe_without_looking(patch: Patch) -> None:
    """A reader does not look at the horizon after it has read: a revoked snapshot reads reused memory."""
    overlooked = 0

    def verify(self: Reader, snapshot: int) -> None:
        nonlocal overlooked
        if self.words[W_HORIZON] > snapshot:
            overlooked += 1
            assert overlooked < _MOST_OVERLOOKED, "a walk through reused memory that does not end"

    patch.set(Reader, "verify", verify)


@mutant("snapshots", "open_snapshots")
def horizon_ignores_a_process(patch: Patch) -> None:
    """The slots of the process that attached last are not looked at."""

    def pinned(self: Server) -> list[int]:
        clients = list(self._clients.values())[:-1]
        return [version for client in clients for version in client.page.pinned()]

    patch.set(Server, "pinned", pinned)


@mutant("snapshots", "transactions", side=WORKER)
def scan_without_own_writes(patch: Patch) -> None:
    """A scan does not see what its own transaction has written."""

    def merged(self: EngineTransaction, lower: bytes, upper: bytes) -> Iterator[tuple[bytes, VersionedValue]]:
        writes, self._writes = self._writes, {}
        found = list(sound(self, lower, upper))
        self._writes = writes
        return iter(found)

    sound = patch.set(EngineTransaction, "_merged", merged)


@mutant("reclaiming", "open_snapshots")
def free_too_early(patch: Patch) -> None:
    """Memory is given back though a snapshot a few versions older than the horizon may read it."""

    def free(self: Reclaimer, horizon: int, budget: int) -> int:
        done: int = sound(self, min(horizon + _TOO_EARLY, self._words[W_PUBLISHED]), budget)
        return done

    sound = patch.set(Reclaimer, "_free", free)


@mutant("reclaiming", "open_snapshots")
def drop_tombstones_under_snapshots(patch: Patch) -> None:
    """A deleted key leaves the indexes though an open snapshot still has it."""

    def remove_dead_keys(self: Reclaimer, _horizon: int, gone_from: int, budget: int) -> int:
        done: int = sound(self, self._words[W_PUBLISHED], gone_from, budget)
        return done

    sound = patch.set(Reclaimer, "_remove_dead_keys", remove_dead_keys)


@mutant("reclaiming", "open_snapshots")
def sweep_cleared_ranges_under_snapshots(patch: Patch) -> None:
    """The keys under a range tombstone leave the indexes though an open snapshot still has them."""

    def sweep_cleared(self: Reclaimer, _horizon: int, published: int, gone_from: int) -> None:
        sound(self, published, published, gone_from)

    sound = patch.set(Reclaimer, "_sweep_cleared_keys", sweep_cleared)


@mutant("reclaiming", "open_snapshots")
def drop_range_tombstones_under_snapshots(patch: Patch) -> None:
    """A range tombstone goes with its keys, though a snapshot from before reads one that was written again."""

    def drop_cleared(self: Reclaimer, _horizon: int, published: int) -> None:
        sound(self, published + 1, published)

    sound = patch.set(Reclaimer, "_drop_range_tombstones", drop_cleared)


@mutant("snapshots", "open_snapshots")
def range_tombstones_without_their_lower_bound(patch: Patch) -> None:
    """The binary search for the range around a key is off by one when the key is the range's first."""

    def newest(self: RangeTombstones, key: bytes) -> int:
        bounds, versions = self._blocks[max(0, bisect_left(self._fences, key) - 1)]
        return versions[max(0, bisect_left(bounds, key) - 1)]

    patch.set(RangeTombstones, "newest", newest)


@mutant("snapshots", "open_snapshots", side=WORKER)
def miss_new_range_tombstones(patch: Patch) -> None:
    """A reader that knows of some range tombstones does not look for more."""

    def rows(self: TombstoneView, begin: int, end: int, snapshot: int) -> list[Row]:
        found: list[Row] = sound(self, begin, end, snapshot)
        return [] if self._read.end else found

    sound = patch.set(TombstoneView, "_rows", rows)


@mutant("expiry", "expiry")
def sweep_what_was_renewed(patch: Patch) -> None:
    """A key that was written anew without an expiry is deleted when the old one comes."""

    def expires_ms(self: Writer, key: bytes) -> int:
        moment: int = sound(self, key)
        return moment or (1 if self.newest(key, 0) is not None else 0)

    sound = patch.set(Writer, "expires_ms", expires_ms)


@mutant("expiry", "expiry")
def sweep_before_its_time(patch: Patch) -> None:
    """Keys are deleted a second before they expire."""

    def sweep_expired(self: CommitEngine) -> bool:
        now_ms = self._admission.now_ms
        self._admission.now_ms = lambda: now_ms() + _AHEAD_MS
        try:
            more: bool = sound(self)
        finally:
            del self._admission.now_ms
        return more

    sound = patch.set(CommitEngine, "sweep_expired", sweep_expired)

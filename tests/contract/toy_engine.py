"""An engine over a dict: what the five primitives need of ``shoal.primitives.engine``. ``toy_fleet`` adds the rest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from shoal.primitives.rules.registry import TABLE
from shoal.shm.clock import now_ms
from shoal.shm.errors import ConflictError, InvalidOperationError
from shoal.shm.operation import StoreStats, VersionedValue

Entries = dict[bytes, VersionedValue | None]  # deleted keys are None


def _live(found: VersionedValue | None) -> VersionedValue | None:
    return found if found is not None and not 0 < found.expires_ms <= now_ms() else None


def _is_within(key: bytes, ranges: Iterable[Sequence[bytes]]) -> bool:
    return any(lower <= key < upper for lower, upper in ranges)


def _alone(name: str) -> Any:
    """The call ``name`` of ``ToyTransaction``, as a method of the store which commits by itself."""

    def call(store: ToyStore, *arguments: Any) -> Any:
        with store.lock:  # from the snapshot to the commit, so nothing changes what was read
            transaction = store.begin()
            result = getattr(transaction, name)(*arguments)
            result = iter(list(result)) if name == "scan" else result
            transaction.ranges.clear()  # only time passes, and a key that expires must not be a conflict
            transaction.commit()
        return result

    return call


class ToyStore:
    """A store, which is also its ``AutoCommit``. What it stores ends with it."""

    path, durability, read_only = "toy", "memory", False
    get_named, find, scan = _alone("get_named"), _alone("find"), _alone("scan")
    put, delete, clear, perform = _alone("put"), _alone("delete"), _alone("clear"), _alone("perform")

    def __init__(self) -> None:
        self.lock = threading.Condition(threading.RLock())  # notified of commits
        self.newest, self.version, self.closed = Entries(), 0, False  # ``newest`` is replaced, never changed
        self.auto_commit = self

    def begin(self, read_only: bool = False, past: None = None) -> ToyTransaction:
        assert past is None, "ToyFleetStore has past versions"
        with self.lock:
            return ToyTransaction(self, self.newest, self.version, read_only)

    def publish(self, written: Entries) -> int:
        """Make a commit of it. The caller has the lock."""
        self.version += 1
        commit = {key: found and found._replace(version=self.version) for key, found in written.items()}
        self.newest = {**self.newest, **commit}
        self.lock.notify_all()
        return self.version

    def published(self) -> int:
        return self.version

    def stats(self) -> StoreStats:
        return StoreStats(self.version, sum(1 for _ in self.scan(b"", b"\xff")), 0, 1, 0)

    def close(self) -> None:
        self.closed = True

    def wait_for(self, look: Callable[[], Any], ranges: Any, give_up_s: float) -> Any:
        with self.lock:
            while (found := look()) is None and (left_s := give_up_s - time.monotonic()) > 0:
                self.lock.wait(min(left_s, 1e6))
        return found


class ToyTransaction:
    """One snapshot. It commits if everything that it read is still there unchanged."""

    def __init__(self, store: ToyStore, shown: Entries, snapshot: int, read_only: bool) -> None:
        self.store, self.shown, self.snapshot, self.read_only = store, shown, snapshot, read_only
        self.has_ended, self.version = False, snapshot if read_only else None
        self.ranges, self.seen = list[list[bytes]](), Entries()  # what was read, and what was committed there
        self.cleared = list[tuple[bytes, bytes]]()
        self.own = Entries()  # what it wrote, but not what it cleared later

    def get_named(self, cache: Any, name: str) -> bytes | None:
        found = self.find(cache.prefix + name.encode())
        return found and found.value

    def find(self, key: bytes) -> VersionedValue | None:
        return next((found for _, found in self.scan(key, key + b"\0")), None)

    def scan(self, lower: bytes, upper: bytes) -> Iterator[tuple[bytes, VersionedValue]]:
        self.check()
        self.ranges.append(read := [lower, lower])
        merged = {**self.shown, **self.written(self.shown)}
        for key in sorted(key for key in merged if lower <= key < upper):
            self.seen.setdefault(key, _live(self.shown.get(key)))
            read[1] = key + b"\0"  # as far as it was read
            if found := _live(merged[key]):
                yield key, found
        read[1] = upper

    def put(self, key: bytes, value: bytes | None = None, expires_ms: int = 0) -> None:
        self.check(writes=True)
        self.own[key] = None if value is None else VersionedValue(value, 0, expires_ms)

    delete = put  # without a value

    def decides(self, lower: bytes, upper: bytes) -> bool:
        return False

    defers = decides

    def clear(self, lower: bytes, upper: bytes) -> None:
        self.check(writes=True)
        self.cleared.append((lower, upper))
        self.own = {key: found for key, found in self.own.items() if not lower <= key < upper}

    def perform(self, name: str, arguments: list[Any]) -> Any:
        self.check(writes=True)
        decided = TABLE.decide(self.find, now_ms(), name, arguments)
        for write in decided.writes:
            self.put(*write)
        return decided.result

    def commit(self) -> int:
        self.check()
        self.has_ended, self.version = True, self.snapshot
        with self.store.lock:
            if written := self.written(self.store.newest):
                self.validate(self.store.newest)
                self.version = self.store.publish(written)
        return self.version

    def abandon(self) -> None:
        self.has_ended = True

    def written(self, state: Entries) -> Entries:
        """What it writes over a state. The newest one may have other keys to clear than its snapshot."""
        cleared = {key for key, found in state.items() if found and _is_within(key, self.cleared)}
        return {**dict.fromkeys(cleared), **self.own}

    def validate(self, newest: Entries) -> None:
        for key in {**newest, **self.seen}:
            if _is_within(key, self.ranges) and _live(newest.get(key)) != self.seen.get(key):
                raise ConflictError(key, self.snapshot, self.store.version)  # type: ignore[arg-type] # bytes down here

    def check(self, writes: bool = False) -> None:
        if self.has_ended or self.store.closed or (writes and self.read_only):
            raise InvalidOperationError("the transaction has ended, or only reads, or its store is closed")

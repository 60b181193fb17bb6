"""The smallest engine that keeps the promises of ``shoal.primitives.engine``: a dict, a lock, and a list of commits.

It shows that the primitives need no more. ``check``, ``backup`` and ``recipe`` are left out: no primitive uses them.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from shoal.primitives.rules.registry import TABLE
from shoal.shm.clock import now_ms
from shoal.shm.errors import ConflictError, InvalidOperationError, ShoalError
from shoal.shm.operation import Past, StoreStats, VersionedValue

_LOOK_EVERY_S = 0.02  # for what passes by itself, such as the delay of a task


def _alone(name: str) -> Any:
    def call(store: ToyStore, *arguments: Any) -> Any:
        with store.lock:  # from the snapshot to the commit, so nothing conflicts
            transaction = store.begin()
            result = getattr(transaction, name)(*arguments)
            result = iter(list(result)) if name == "scan" else result
            transaction.commit()
        return result

    return call


class ToyStore:
    """A store, which is also its ``AutoCommit`` and its ``Holding``. What it holds ends with it."""

    path, durability, holder = "toy", "memory", 1
    get_named, find, scan = _alone("get_named"), _alone("find"), _alone("scan")
    put, delete, clear, perform = _alone("put"), _alone("delete"), _alone("clear"), _alone("perform")

    def __init__(self) -> None:
        self.lock = threading.Condition(threading.RLock())  # notified of commits
        self.newest, self.closed = dict[bytes, Any](), False  # deleted keys are None; the dict itself never changes
        self.commits = list[dict[bytes, Any]]()  # what each wrote, that of version 1 first
        self.lines = defaultdict[bytes, list[int]](list)  # by key: the tickets of those that wait
        self.free_tickets = list[tuple[int, int]]()
        self.auto_commit = self.holding = self

    def begin(self, read_only: bool = False, past: Past | None = None) -> ToyTransaction:
        with self.lock:
            shown, version = self.newest, len(self.commits)
        if past is not None:
            if past.version is None or past.version > version:
                raise ValueError(f"version is {past.version}, the newest is {version}; this engine keeps no moments")
            shown = {key: found for commit in self.commits[: past.version] for key, found in commit.items()}
            read_only, version = True, past.version
        return ToyTransaction(self, shown, version, read_only)

    def pipeline(self, depth: int) -> ToyPipeline:
        return ToyPipeline(self)

    def stats(self) -> StoreStats:
        return StoreStats(len(self.commits), sum(1 for _ in self.scan(b"", b"\xff")), 0, 1, 0)

    def close(self) -> None:
        self.closed = True

    def wait_for(self, look: Callable[[], Any], ranges: Any, give_up_s: float) -> Any:
        with self.lock:
            while (found := look()) is None and (left_s := give_up_s - time.monotonic()) > 0:
                self.lock.wait(min(left_s, 1e6))
        return found

    def changes(self, lower: bytes, upper: bytes, since: int | None, wait_s: float) -> Iterator[tuple[int, bytes, Any]]:
        def told(version: int) -> Iterator[tuple[int, bytes, Any]]:
            give_up_s = time.monotonic() + wait_s
            while self.wait_for(lambda: len(self.commits) > version or None, (), give_up_s):  # noqa: B023
                commit, version = self.commits[version], version + 1
                for key in sorted(key for key in commit if lower <= key < upper):
                    yield version, key, commit[key] and commit[key].value
                    give_up_s = time.monotonic() + wait_s

        return told(len(self.commits) if since is None else since)

    def acquire(self, ticket: int, operation: Any, undo: Any, ranges: Any, ttl_s: float, give_up_s: float) -> Any:
        line = self.lines[operation[1][0]]
        with self.lock:
            line.append(ticket)
            try:
                while True:
                    is_late = time.monotonic() >= give_up_s
                    try:
                        if line[0] == ticket or is_late:
                            return self.perform(*operation)
                    except ShoalError as error:
                        if not error.passes or is_late:
                            raise
                    self.lock.wait(_LOOK_EVERY_S)
            finally:
                line.remove(ticket)

    def release(self, ticket: int, undo: Any) -> None:
        if not self.closed:
            self.perform(*undo)

    def forget(self, ticket: int) -> None:
        """Nobody has to renew."""

    def see_ends(self) -> None:
        """Nothing here ends by itself."""

    def ages_ms(self, holders: list[int]) -> list[int | None]:
        return [0 for _ in holders]


class ToyTransaction:
    """Its commit makes its calls again, on the newest state, if nothing that it read has changed."""

    def __init__(self, store: ToyStore, shown: dict[bytes, Any], snapshot: int, read_only: bool) -> None:
        self.store, self.shown, self.own = store, shown, dict[bytes, Any]()
        self.snapshot, self.version = snapshot, snapshot if read_only else None
        self.read_only, self.has_ended = read_only, False
        self.reads, self.valid_until_ms = list[list[bytes]](), 2**63
        self.calls = list[tuple[bytes | None, str, list[Any]]]()  # the key of those that a later clear drops
        self.committed = list[Callable[[], None]]()

    def get_named(self, cache: Any, name: str) -> bytes | None:
        found = self.find(cache.prefix + name.encode())
        return found and found.value

    def find(self, key: bytes) -> VersionedValue | None:
        return next((found for _, found in self.scan(key, key + b"\0")), None)

    def scan(self, lower: bytes, upper: bytes) -> Iterator[tuple[bytes, VersionedValue]]:
        self.check()
        self.reads.append(read := [lower, upper])
        merged = {**self.shown, **self.own}
        for key in sorted(key for key in merged if lower <= key < upper):
            found = merged[key]
            if found is not None and not 0 < found.expires_ms <= now_ms():
                if found.version and found.expires_ms:
                    self.valid_until_ms = min(self.valid_until_ms, found.expires_ms)
                read[1] = key + b"\0"  # as far as it was read
                yield key, found
        read[1] = upper

    def put(self, key: bytes, value: bytes | None = None, expires_ms: int = 0) -> None:
        self.call(key, "put", key, value, expires_ms)
        self.own[key] = None if value is None else VersionedValue(value, 0, expires_ms)

    delete = put  # without a value

    def clear(self, lower: bytes, upper: bytes) -> None:
        self.calls = [call for call in self.calls if call[0] is None or not lower <= call[0] < upper]
        self.call(None, "clear", lower, upper)
        merged = {**self.shown, **self.own}
        self.own |= {key: None for key in merged if lower <= key < upper and merged[key]}

    def perform(self, name: str, arguments: list[Any]) -> Any:
        self.check(writes=True)
        decided = TABLE.decide(self.find, now_ms(), name, arguments)
        for write in decided.writes:
            self.put(*write)
        return decided.result

    def at_version(self, version: int) -> ToyTransaction:
        return self.store.begin(past=Past(version, None))

    def require(self, name: str, arguments: list[Any]) -> None:
        self.call(None, "perform", name, arguments)
        self.calls.insert(0, self.calls.pop())  # before anything is cleared

    def defer(self, name: str, arguments: list[Any], committed: Callable[[], None] | None = None) -> None:
        self.call(arguments[0], "perform", name, arguments)
        self.committed += [committed] if committed else []

    def commit(self) -> int:
        self.check()
        self.has_ended, self.version, store = True, self.snapshot, self.store
        with store.lock:
            newest = store.begin()
            for _, method, arguments in self.calls:
                getattr(newest, method)(*arguments)
            if not newest.own:
                return self.snapshot
            later = {key for commit in store.commits[self.snapshot :] for key in commit}
            changed = [key for key in later if any(lower <= key < upper for lower, upper in self.reads)]
            if changed or self.valid_until_ms <= now_ms():
                key: Any = (changed or [b""])[0]  # below the primitives it is bytes
                raise ConflictError(key, self.snapshot, len(store.commits))
            self.version = len(store.commits) + 1
            own = {key: found and found._replace(version=self.version) for key, found in newest.own.items()}
            store.commits.append(own)
            store.newest = {**store.newest, **own}
            store.lock.notify_all()
        for committed in self.committed:
            committed()
        return self.version

    def abandon(self) -> None:
        self.has_ended = True

    def call(self, key: bytes | None, method: str, *arguments: Any) -> None:
        self.check(writes=True)
        self.calls.append((key, method, list(arguments)))

    def check(self, writes: bool = False) -> None:
        if self.has_ended or self.store.closed or (writes and self.read_only):
            raise InvalidOperationError("the transaction has ended, or only reads, or its store is closed")


class ToyPipeline:
    """Every call commits at once, so its future is done."""

    def __init__(self, store: ToyStore) -> None:
        self.store, self.open = store, store.begin()  # as long as calls are taken
        self.failure: BaseException | None = None

    def put(self, key: bytes, value: bytes, expires_ms: int = 0) -> Future[Any]:
        return self.done(lambda: self.store.put(key, value, expires_ms))

    def perform(self, name: str, arguments: list[Any], convert: Callable[[Any], Any] | None = None) -> Future[Any]:
        return self.done(lambda: (convert or (lambda result: result))(self.store.perform(name, arguments)))

    def finish(self) -> BaseException | None:
        self.open.abandon()
        return self.failure

    def done(self, call: Callable[[], Any]) -> Future[Any]:
        self.open.check()
        future: Future[Any] = Future()
        try:
            future.set_result(call())
        except Exception as error:
            self.failure = self.failure or error
            future.set_exception(error)
        return future

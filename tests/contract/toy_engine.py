"""The smallest engine that keeps the promises of ``shoal.primitives.engine``: every version of every key, in a dict.

It shows that the primitives need no more. Transactions read at a snapshot; a commit compares what was read with what
was written since. ``check``, ``backup`` and ``recipe`` are left out, as no primitive uses them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

from shoal.primitives.rules.registry import TABLE
from shoal.shm.clock import now_ms
from shoal.shm.errors import ConflictError, InvalidOperationError
from shoal.shm.operation import Past, VersionedValue, Write
from tests.contract.toy_holding import ToyHolding
from tests.contract.toy_pipeline import ToyPipeline
from tests.contract.toy_rules import is_live, within
from tests.support.present import present


class ToyStore:
    """A store in this process. ``changed`` is its lock, and is notified of every commit."""

    path, durability = "toy", "memory"

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.keys: dict[bytes, list[tuple[int, Write]]] = {}
        self.version, self.closed, self.auto_commit = 0, False, ToyAutoCommit(self)
        self.holding = ToyHolding(self)

    def begin(self, read_only: bool = False, past: Past | None = None) -> ToyTransaction:
        transaction = ToyTransaction(self, read_only or past is not None)
        if past is not None:
            assert past.version is not None, "this engine keeps no moments"
            if past.version > self.version:
                raise ValueError(f"version is {past.version}, the newest is {self.version}")
            transaction.snapshot = transaction.version = past.version
        return transaction

    def pipeline(self, depth: int) -> ToyPipeline:
        return ToyPipeline(self)

    def live(self, lower: bytes, upper: bytes, snapshot: int) -> dict[bytes, VersionedValue]:
        found = {}
        for key in [key for key in list(self.keys) if lower <= key < upper]:
            entry = next((entry for entry in reversed(self.keys[key]) if entry[0] <= snapshot), None)
            if entry is not None and is_live(entry[1]):
                found[key] = VersionedValue(present(entry[1].value), entry[0], entry[1].expires_ms)
        return found

    def stats(self) -> Any:
        keys = len(self.live(b"", b"\xff", self.version))
        counts = {"commit_version": self.version, "keys": keys, "bytes_used": 0, "clients": 1, "coordinator_pid": 0}
        return SimpleNamespace(**counts, history_ms=0, history_version=0, history_since_us=0, history_bytes=0)

    def close(self) -> None:
        self.holding.end()
        self.closed = True


class ToyTransaction:
    def __init__(self, store: ToyStore, read_only: bool) -> None:
        self.store, self.read_only, self.ended = store, read_only, False
        self.snapshot, self.version = store.version, store.version if read_only else None
        self.reads, self.clears = list[tuple[bytes, bytes]](), list[tuple[bytes, bytes]]()
        self.writes, self.valid_until_ms = dict[bytes, Write](), 2**63
        self.required = list[tuple[str, list[Any]]]()
        self.deferred = list[tuple[str, list[Any]]]()
        self.committed = list[Callable[[], None]]()

    def get_named(self, cache: Any, name: str) -> bytes | None:
        found = self.find(cache.prefix + name.encode())
        return found and found.value

    def find(self, key: bytes) -> VersionedValue | None:
        return next((found for _, found in self.scan(key, key + b"\0")), None)

    def scan(self, lower: bytes, upper: bytes) -> Iterator[tuple[bytes, VersionedValue]]:
        self._check()
        shown = self.store.live(lower, upper, self.snapshot)
        shown = {key: found for key, found in shown.items() if key not in self.writes and not within(key, self.clears)}
        own = [write for write in self.writes.values() if lower <= write.key < upper and is_live(write)]
        shown |= {write.key: VersionedValue(present(write.value), 0, write.expires_ms) for write in own}
        position = len(self.reads)
        self.reads.append((lower, upper))
        for key, found in sorted(shown.items()):
            if found.version and found.expires_ms:
                self.valid_until_ms = min(self.valid_until_ms, found.expires_ms)
            self.reads[position] = (lower, key + b"\0")  # as far as it was read
            yield key, found
        self.reads[position] = (lower, upper)

    def put(self, key: bytes, value: bytes | None = None, expires_ms: int = 0) -> None:
        self._check(writes=True)
        self.writes[key] = Write(key, value, expires_ms)

    delete = put  # without a value

    def clear(self, lower: bytes, upper: bytes) -> None:
        self._check(writes=True)
        self.writes = {key: write for key, write in self.writes.items() if not lower <= key < upper}
        self.deferred = [each for each in self.deferred if not lower <= each[1][0] < upper]
        self.clears.append((lower, upper))

    def perform(self, name: str, arguments: list[Any]) -> Any:
        self._check(writes=True)
        decided = TABLE.decide(self.find, now_ms(), name, arguments)
        self.writes |= {write.key: write for write in decided.writes}
        return decided.result

    def at_version(self, version: int) -> ToyTransaction:
        return self.store.begin(past=Past(version, None))

    @property
    def has_ended(self) -> bool:
        return self.ended

    def require(self, name: str, arguments: list[Any]) -> None:
        self._check(writes=True)
        self.required.append((name, arguments))

    def defer(self, name: str, arguments: list[Any], committed: Callable[[], None] | None = None) -> None:
        self._check(writes=True)
        if within(arguments[0], self.clears):
            self.perform(name, arguments)
        else:
            self.deferred.append((name, arguments))
        self.committed += [committed] if committed else []

    def commit(self) -> int:
        self._check()
        self.ended, store, self.version = True, self.store, self.snapshot
        with store.changed:
            newest = store.begin()
            for name, arguments in self.required + self.deferred:
                newest.perform(name, arguments)
            if not self.writes and not self.clears and not newest.writes:
                return self.snapshot
            read = (key for key in store.keys if within(key, self.reads))
            changed = [key for key in read if store.keys[key][-1][0] > self.snapshot]
            if changed or self.valid_until_ms <= now_ms():
                key: Any = (changed or [b""])[0]  # below the primitives it is bytes
                raise ConflictError(key, self.snapshot, store.version)
            there = (key for key in store.keys if within(key, self.clears) and store.keys[key][-1][1].value is not None)
            cleared = {key: Write(key, None, 0) for key in there}
            store.version = self.version = store.version + 1
            for key, write in {**cleared, **self.writes, **newest.writes}.items():
                store.keys.setdefault(key, []).append((self.version, write))
            store.changed.notify_all()
        for committed in self.committed:
            committed()
        return self.version

    def abandon(self) -> None:
        self.ended = True

    def _check(self, writes: bool = False) -> None:
        if self.ended or self.store.closed or (writes and self.read_only):
            raise InvalidOperationError("the transaction has ended, or only reads, or its store is closed")


class ToyAutoCommit(NamedTuple):
    """Every call a transaction that holds the lock from its snapshot to its commit, so that none conflicts."""

    store: ToyStore

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with self.store.changed:
                transaction = self.store.begin()
                result = getattr(transaction, name)(*arguments)
                result = iter(list(result)) if name == "scan" else result
                transaction.commit()
            return result

        return call

    def published(self) -> int:
        return self.store.version

    def changes(self, lower: bytes, upper: bytes, since: int | None, wait_s: float) -> Iterator[tuple[int, bytes, Any]]:
        return self._changes(lower, upper, self.published() if since is None else since, wait_s)

    def _changes(self, lower: bytes, upper: bytes, since: int, wait_s: float) -> Iterator[tuple[int, bytes, Any]]:
        told = (since, b"")
        while True:

            def look(told: tuple[int, bytes] = told) -> Any:
                entries = [
                    (version, key, write.value)
                    for key in self.store.keys
                    if lower <= key < upper
                    for version, write in self.store.keys[key]
                    if (version, key) > told and version > since
                ]
                return min(entries, default=None)

            found = self.wait_for(look, None, time.monotonic() + wait_s)
            if found is None:
                return
            told = found[:2]
            yield found

    def wait_for(self, look: Callable[[], Any], ranges: Any, give_up_s: float) -> Any:
        with self.store.changed:
            while (found := look()) is None and (left_s := give_up_s - time.monotonic()) > 0:
                self.store.changed.wait(min(left_s, 1e6))
        return found

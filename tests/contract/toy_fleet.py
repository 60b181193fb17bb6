"""What fleets need of an engine beyond the five primitives, over the dict of ``toy_engine.py``.

That is operations decided at the commit, the line of holders, changes after a version, past versions and pipelines.
``check``, ``backup`` and ``recipe`` are left out: no primitive uses them.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

from shoal.primitives.engine import Change, Operation
from shoal.shm.errors import ShoalError
from shoal.shm.operation import Past

from .toy_engine import Entries, ToyStore, ToyTransaction

_LOOK_EVERY_S = 0.02  # for what passes by itself, such as the delay of a task


class ToyFleetStore(ToyStore):
    """A store, which is also its ``AutoCommit`` and its ``Holding``. It keeps every commit."""

    holder = 1

    def __init__(self) -> None:
        super().__init__()
        self.commits = list[Entries]()  # what each wrote, that of version 1 first
        self.lines = defaultdict[bytes, list[int]](list)  # by key: the tickets of those that wait
        self.free_tickets = list[tuple[int, int]]()
        self.holding = self

    def begin(self, read_only: bool = False, past: Past | None = None) -> ToyFleetTransaction:
        with self.lock:
            if past is None:
                return ToyFleetTransaction(self, self.newest, self.version, read_only)
            if past.version is None or past.version > self.version:
                raise ValueError(f"version is {past.version}, the newest is {self.version}; moments are not kept")
            shown = {key: found for commit in self.commits[: past.version] for key, found in commit.items()}
            return ToyFleetTransaction(self, shown, past.version, read_only=True)

    def publish(self, written: Entries) -> int:
        version = super().publish(written)
        self.commits.append({key: self.newest[key] for key in written})
        return version

    def pipeline(self, depth: int) -> ToyPipeline:
        return ToyPipeline(self)

    def changes(self, lower: bytes, upper: bytes, since: int | None, wait_s: float) -> Iterator[Change]:
        return self._changes_after(self.version if since is None else since, lower, upper, wait_s)

    def _changes_after(self, version: int, lower: bytes, upper: bytes, wait_s: float) -> Iterator[Change]:
        give_up_s = time.monotonic() + wait_s
        while (commit := self.wait_for(partial(self._commit_after, version), (), give_up_s)) is not None:
            version += 1
            for key in sorted(key for key in commit if lower <= key < upper):
                found = commit[key]
                yield version, key, found and found.value
                give_up_s = time.monotonic() + wait_s

    def _commit_after(self, version: int) -> Entries | None:
        return self.commits[version] if version < self.version else None

    def acquire(
        self, ticket: int, operation: Operation, undo: Operation, ranges: Any, ttl_s: float, give_up_s: float
    ) -> Any:
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

    def release(self, ticket: int, undo: Operation) -> None:
        if not self.closed:
            self.perform(*undo)

    def release_later(self, ticket: int, undo: Operation) -> None:
        with contextlib.suppress(ShoalError):
            self.release(ticket, undo)

    def forget(self, ticket: int) -> None:
        """Nobody has to renew."""

    def see_ends(self) -> None:
        """Nothing here ends by itself."""

    def ages_ms(self, holders: list[int]) -> list[int | None]:
        return [0 for _ in holders]


class ToyFleetTransaction(ToyTransaction):
    """It also performs operations on the newest state when it commits."""

    store: ToyFleetStore

    def __init__(self, store: ToyFleetStore, shown: Entries, snapshot: int, read_only: bool) -> None:
        super().__init__(store, shown, snapshot, read_only)
        self.required, self.deferred = list[Operation](), list[Operation]()
        self.committed = list[Callable[[], None]]()

    def at_version(self, version: int) -> ToyFleetTransaction:
        return self.store.begin(past=Past(version, None))

    def require(self, name: str, arguments: list[Any]) -> None:
        self.check(writes=True)
        self.required.append((name, arguments))

    def defer(self, name: str, arguments: list[Any], committed: Callable[[], None] | None = None) -> None:
        self.check(writes=True)
        self.deferred.append((name, arguments))
        self.committed += [committed] if committed else []

    def defers(self, lower: bytes, upper: bytes) -> bool:
        return any(lower <= arguments[0] < upper for _, arguments in self.deferred)

    def decides(self, lower: bytes, upper: bytes) -> bool:
        return any(lower <= arguments[0] < upper for _, arguments in self.required + self.deferred)

    def clear(self, lower: bytes, upper: bytes) -> None:
        super().clear(lower, upper)
        self.deferred = [call for call in self.deferred if not lower <= call[1][0] < upper]

    def commit(self) -> int:
        self.check()
        with self.store.lock:
            newest = self.store.begin()
            try:
                for operation in self.required:
                    newest.perform(*operation)
                newest.cleared, newest.own = self.cleared, self.own
                for operation in self.deferred:
                    newest.perform(*operation)  # writes to ``own``
            except BaseException:
                self.abandon()
                raise
            version = super().commit()
        for committed in self.committed:
            committed()
        return version


class ToyPipeline:
    """Every call commits at once, so its future is done."""

    def __init__(self, store: ToyFleetStore) -> None:
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

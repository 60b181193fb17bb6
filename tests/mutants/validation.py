"""Faults in what is validated, what an operation is decided on, and how long things are remembered for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal.coordinator.commit import admission
from shoal.coordinator.commit.admission import Admission
from shoal.coordinator.commit.batching import Batching, BatchKey
from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.memory.writer import Writer
from shoal.primitives.rules.event_rules import Appending, decode_metadata
from shoal.shm.memory.layout import W_PUBLISHED
from shoal.shm.memory.reader import Reader
from shoal.shm.operation import VersionedValue
from shoal.shm.wire.request import CommitSet
from shoal.workers.shared_memory.transaction import EngineTransaction
from tests.mutants.registry import WORKER, Patch, mutant

_WINDOW_KEYS = 3


@mutant("validation", "conflict_with_clear", "lists")
def skip_point_validation(patch: Patch) -> None:
    """Commits whatever was read point by point, changed or not."""
    sound: Callable[..., Any] = patch.set(
        admission, "validate", lambda request, window: sound(request._replace(keys_read=[]), window)
    )


@mutant("validation", "conflict_with_clear", "transactions")
def skip_range_validation(patch: Patch) -> None:
    """Commits whatever was scanned, changed or not."""
    sound: Callable[..., Any] = patch.set(
        admission, "validate", lambda request, window: sound(request._replace(ranges_read=[]), window)
    )


@mutant("validation", "transactions", side=WORKER)
def skip_absence_validation(patch: Patch) -> None:
    """A key that was looked for and not there is not validated."""

    def find(self: EngineTransaction, key: bytes) -> VersionedValue | None:
        known = key in self._keys_read
        found: VersionedValue | None = sound(self, key)
        if found is None and not known:
            self._keys_read.pop(key, None)
        return found

    sound = patch.set(EngineTransaction, "find", find)


@mutant("validation", "conflict_with_clear")
def skip_validation_of_cleared_ranges(patch: Patch) -> None:
    """What was cleared with its range is not in the conflict window."""
    patch.set(ConflictWindow, "add_clear", lambda _self, _version, _lower, _upper: None)


@mutant("validation", "conflict_with_clear", "transactions")
def validate_one_version_late(patch: Patch) -> None:
    """What the first commit after a snapshot wrote does not count as a change."""
    sound: Callable[..., Any] = patch.set(
        admission,
        "validate",
        lambda request, window: sound(request._replace(snapshot=request.snapshot + 1), window),
    )


@mutant("validation", "expiry")
def ignore_expiry_at_commit(patch: Patch) -> None:
    """A commit counts on a key that it read and that has expired since."""

    def submit(self: CommitEngine, client_id: int, request: CommitSet, *line: Any) -> bytes:
        answer: bytes = sound(self, client_id, request._replace(valid_until_ms=0), *line)
        return answer

    sound = patch.set(CommitEngine, "submit", submit)


@mutant("validation", "conflict_with_clear", "lists")
def commit_in_spite_of_conflict(patch: Patch) -> None:
    """A commit that is refused for a conflict is done all the same."""

    def submit(self: CommitEngine, client_id: int, request: CommitSet, *line: Any) -> bytes:
        answer: bytes = sound(self, client_id, request, *line)
        done = self.sessions.get(client_id)
        if (request.keys_read or request.ranges_read) and (done is None or done[0] != request.commit_id):
            sound(self, client_id, request._replace(keys_read=[], ranges_read=[]))
        return answer

    sound = patch.set(CommitEngine, "submit", submit)


@mutant("reclaiming", "validation", "lists")
def window_forgets_too_much(patch: Patch) -> None:
    """The conflict window forgets all but the last writes, and does not know that it did."""

    def add_writes(self: ConflictWindow, version: int, keys: list[bytes]) -> None:
        sound(self, version, keys)
        for key in self._keys[:-_WINDOW_KEYS]:
            if key not in self._keys[-_WINDOW_KEYS:]:
                self._latest.pop(key, None)
        del self._keys[:-_WINDOW_KEYS], self._versions[:-_WINDOW_KEYS]

    sound = patch.set(ConflictWindow, "add_writes", add_writes)


@mutant("operations", "group_of_operations")
def decide_on_published_state(patch: Patch) -> None:
    """An operation is decided on what readers see, not on what the commits before it in the same group have done."""

    def decide(self: Admission, request: CommitSet, nodes: dict[bytes, int]) -> Any:
        reader, published = Reader(self._writer.segment), self._writer.segment.words[W_PUBLISHED]
        patched = _Stale(self._writer, lambda key: reader.find(key, published))
        self._writer, writer = patched, self._writer
        try:
            return sound(self, request, nodes)
        finally:
            self._writer = writer

    sound = patch.set(Admission, "_decide_operations", decide)


class _Stale:
    """A writer that shows the published state as the newest."""

    def __init__(self, writer: Writer, find: Any) -> None:
        self.segment = writer.segment
        self.newest = lambda key, _now_ms, _nodes: find(key)


@mutant("operations", "group_of_operations", "appends_after_deaths")
def append_after_a_stale_head(patch: Patch) -> None:
    """Of two appends that are decided together the second does not see the first."""

    def add(self: Appending, *arguments: Any) -> Any:
        found = self._read(self._metadata_key)
        self._metadata = decode_metadata(None if found is None else found.value)
        return sound(self, *arguments)

    sound = patch.set(Appending, "add", add)


@mutant("operations", "group_of_operations")
def append_where_it_ended_last(patch: Patch) -> None:
    """Appends go on where the last batch left their log, whoever else has written to it since."""

    def take(self: Batching, key: BatchKey, now_ms: int) -> Any:
        if key not in self._kept:
            return sound(self, key, now_ms)
        operation, *_ = self._kept.pop(key)
        operation.begin(now_ms)
        return operation, {}

    sound = patch.set(Batching, "take", take)

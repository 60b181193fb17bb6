"""Whether a commit set may commit, and what it writes. Nothing here changes the store.

Until a commit is decided and has its room, nothing of it exists. So every error here becomes the answer to that client
alone (``refusal``). Only ``BrokenStoreError`` ends the coordinator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.coordinator.commit.reading import read_newest
from shoal.coordinator.commit.validate import Conflict, validate
from shoal.coordinator.log import format as wal_format
from shoal.coordinator.memory.writer import Writer
from shoal.shm.clock import Clock
from shoal.shm.errors import ShoalError, StoreFullError
from shoal.shm.holder_index import FIRST_OF_USERS
from shoal.shm.operation import OperationTable, Read, VersionedValue, Write
from shoal.shm.wire import request as wire_request
from shoal.shm.wire import wire_errors
from shoal.shm.wire.answer import REFUSED, encode_answer
from shoal.shm.wire.request import CommitSet, FlatWrites, check_writes, triples

_new_tuple = tuple.__new__  # a named tuple without its Python frame
_NOTHING: dict[bytes, Write] = {}
NO_MUTATIONS = wire_request.encode_mutations([])


# The decision of a commit set with operations: all its writes; its mutations and what was decided, as the log keeps
# them; the results; key nodes that are known already. A plain tuple: a named one costs 0.4 us.
Decision = tuple[FlatWrites, bytes, bytes, list[Any], dict[bytes, int]]


class Admission:
    """Validates and decides commit sets against the newest state, published or not."""

    def __init__(self, writer: Writer, window: ConflictWindow, operations: OperationTable, clock: Clock) -> None:
        self._operations = operations
        self._writer = writer
        self._window = window
        self._clock = clock
        self._last_ms = 0
        self._latest_ms = 0  # the latest moment that was ever told: nothing that expires later has been swept
        self.time_stands = False  # what is decided now is decided as of the moment of what was decided last
        self.note_own_write: Callable[[Write], None] = _ignore
        # Of the commit set that is decided: what it writes itself, what its operations write, the key nodes they read.
        self._sent: dict[bytes, Write] = {}
        self._decided: dict[bytes, Write] = {}
        self._nodes: dict[bytes, int] = {}

    def now_ms(self) -> int:
        """The wall clock, also when it is set back: clients go by it in what they read and in when a key expires."""
        if not self.time_stands:
            self._last_ms = self._clock.now_ms()
            self._latest_ms = max(self._latest_ms, self._last_ms)
        return self._last_ms

    def conflict(self, request: CommitSet, next_version: int) -> Conflict | None:
        """Why a commit set that read something must not commit as ``next_version``; None if it may."""
        return validate(request, self._window, self._latest_ms) or self._expired(request, next_version)

    def decide(self, request: CommitSet) -> Decision:
        """What a commit set with operations writes and answers.

        Raises what an operation raises, and ValueError if writes clash.
        """
        nodes: dict[bytes, int] = {}
        writes, results = self._decide_operations(request, nodes)
        # If nothing but operations was sent, replay needs what they wrote and not what was asked.
        mutations = request.mutations if request.writes or request.clears else NO_MUTATIONS
        decided = wal_format.encode_decided(writes, results)
        return request.writes + writes, mutations, decided, results, nodes

    def note_own(self, writes: FlatWrites) -> None:
        """Tell ``note_own_write`` of those of ``writes`` that are to keys of the store itself."""
        for at in range(0, len(writes), 3):
            key = writes[at]
            if key < FIRST_OF_USERS:
                self.note_own_write(_new_tuple(Write, (key, writes[at + 1], writes[at + 2])))

    def decide_own(self, decide: Callable[[Read, int], list[Write]]) -> FlatWrites:
        """What ``decide`` (read, now_ms) makes of the newest state, for a commit of the coordinator itself."""
        now_ms = self.now_ms()
        return [part for write in decide(lambda key: read_newest(self._writer, key, now_ms), now_ms) for part in write]

    def _decide_operations(self, request: CommitSet, nodes: dict[bytes, int]) -> tuple[FlatWrites, list[Any]]:
        """Writes and results of the operations. Each sees the writes of the commit set and of the operations before it.

        ``nodes`` takes the key nodes of what they read.
        """
        now_ms = self.now_ms()
        sent: dict[bytes, Write] = {}
        if request.writes:
            sent = {key: Write(key, value, expires_ms) for key, value, expires_ms in triples(request.writes)}
        decided: dict[bytes, Write] = {}
        self._sent, self._decided, self._nodes = sent, decided, nodes
        read, results = self._read, []
        for name, arguments in request.operations:
            outcome = self._operations.decide(read, now_ms, name, arguments)
            for write in outcome[0]:  # by its number: a field takes longer to find by its name
                key = write[0]
                if key in sent:
                    raise ValueError(f"the commit both writes {key!r} and has it decided by an operation")
                decided[key] = write
                if key < FIRST_OF_USERS:
                    self.note_own_write(write)
            results.append(outcome[1])
        self._sent = self._decided = _NOTHING  # they may be large
        writes: FlatWrites = []
        for write in decided.values():
            writes += write
        check_writes(writes)
        return writes, results

    def _read(self, key: bytes) -> VersionedValue | None:
        """What an operation sees: what was written before it in its commit set, over the newest state."""
        if self._decided or self._sent:
            write = self._decided.get(key) or self._sent.get(key)
            if write is not None:
                return None if write.value is None else VersionedValue(write.value, 0, write.expires_ms)
        return read_newest(self._writer, key, self._last_ms, self._nodes)

    def _expired(self, request: CommitSet, next_version: int) -> Conflict | None:
        """The conflict of a commit set that read a key which has expired, while no deletion of it is in the window.

        Either there was no room for the deletion, or the key was no longer in the checkpoint this coordinator read.
        """
        now_ms = self._last_ms
        if not 0 < request.valid_until_ms <= now_ms:
            return None
        gone = (key for key in request.keys_read if read_newest(self._writer, key, now_ms) is None)
        key = next(gone, None) or (request.keys_read or request.ranges_read[0])[0]
        return Conflict(key, request.snapshot, next_version)  # at its own version the key would not be there


def _ignore(_write: Write) -> None:
    """``note_own_write`` where nobody asks for it."""


def refusal(request: CommitSet, error: Exception) -> bytes:
    """The answer to a request that failed before anything of it was done."""
    if isinstance(error, MemoryError):
        error = StoreFullError("the coordinator has no memory to decide the commit with; free memory or commit less")
    elif not isinstance(error, ShoalError) and type(error) not in (TypeError, ValueError):
        error = ValueError(f"the commit cannot be decided: {type(error).__name__}: {error}")
    return encode_answer(request.commit_id, REFUSED, 0, wire_errors.error_parts(error))

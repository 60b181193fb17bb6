"""Operations of several clients on one key that become one commit.

These are appends to one event log; or puts, claims and completions of one queue.

Operations may share a commit if their table says so (``OperationTable.batched``), if they come alone in their commit
set, and if the set read nothing. Then any order among them is serial, and no client is told the version.

Between two batches of one key the coordinator keeps the operation's state (for an event log: where the log ends; for a
queue: its record) and the nodes of keys it wrote, so that the next batch reads nothing back. The state is used only if
nothing has changed it: the key is still at the version of that batch, and the epoch is the same, so no key node has
left the indexes and no range tombstone was added. Version and epoch are in the segment, so other code need not report
its changes here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from shoal.coordinator.commit.apply import ClientSessions
from shoal.coordinator.commit.reading import read_newest
from shoal.coordinator.log import format as wal_format
from shoal.coordinator.log.format import Outcome
from shoal.coordinator.memory.writer import Writer
from shoal.shm.limits import DEFAULT_LIMITS, MAX_BATCH_MUTATIONS_BYTES, Limits
from shoal.shm.operation import BatchedOperation, OperationTable, Read, VersionedValue
from shoal.shm.wire.request import CommitSet, FlatWrites

_new_tuple = tuple.__new__  # a named tuple without its Python frame: 0.2 us less

# What makes the batched operation, and the key it is on.
BatchKey = tuple[Callable[[Read, bytes], BatchedOperation], bytes]


class Batch(NamedTuple):
    """Operations decided together: one commit of the coordinator."""

    key: BatchKey
    operation: BatchedOperation
    nodes: dict[bytes, int]  # key nodes that are known from the batch before
    writes: FlatWrites
    decided: bytes  # writes and outcomes as the log keeps them
    outcomes: list[Outcome]  # one for each request, in their order


# An operation with its state, the version that last wrote its key, and the epoch as of which these are known: the node
# of that key, and nodes of others.
_Kept = tuple[BatchedOperation, int, int, int, dict[bytes, int]]


class Batching:
    """Decides batches, and keeps the state of operations from one batch to the next."""

    def __init__(self, writer: Writer, operations: OperationTable, limits: Limits = DEFAULT_LIMITS) -> None:
        self._writer = writer
        self._batched = operations.batched
        self._limits = limits
        self._kept: dict[BatchKey, _Kept] = {}  # the one kept longest comes first
        # As of the last ``take``.
        self._now_ms = 0
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._kept)

    def key_of(self, request: CommitSet) -> BatchKey | None:
        """What a commit set may be batched by, None for one that must commit alone."""
        _, _, valid_until_ms, keys_read, ranges_read, writes, clears, operations, _, mutations = request
        if len(operations) != 1 or writes or clears or keys_read or ranges_read:
            return None
        name, arguments = operations[0]
        kind = self._batched.get(name)
        if kind is None or valid_until_ms or len(mutations) > MAX_BATCH_MUTATIONS_BYTES:
            return None
        return kind, arguments[0]

    def decide(
        self,
        key: BatchKey,
        requests: list[tuple[int, CommitSet]],
        now_ms: int,
        sessions: ClientSessions,
    ) -> Batch | None:
        """What all of ``requests`` write together, and the outcome of each; None if they must commit one by one.

        Raises what an operation raises. Of a batch that is not done, nothing is kept.
        """
        outcomes: list[Outcome] = []
        operation, nodes = self.take(key, now_ms)
        for client_id, request in requests:
            commit_id, _, _, _, _, _, _, ((name, arguments),), _, _ = request
            session = sessions.get(client_id)
            if session is not None and session[0] == commit_id:
                return None  # sent again: it is answered from the session
            outcomes.append((client_id, commit_id, [operation.decide(name, arguments)]))
        writes = operation.writes()
        if not writes:
            return None
        decided = wal_format.encode_batch(writes, outcomes)
        return _new_tuple(Batch, (key, operation, nodes, writes, decided, outcomes))

    def take(self, key: BatchKey, now_ms: int) -> tuple[BatchedOperation, dict[bytes, int]]:
        """The operation to begin the next batch with, and nodes of keys it may write. They are kept no longer."""
        writer = self._writer
        self._now_ms, self._epoch = now_ms, writer.epoch_words[0]
        kept = self._kept.pop(key, None)
        if kept is not None:
            operation, version, epoch, node, nodes = kept
            if epoch == self._epoch and writer.version_at(node) == version:
                operation.begin(now_ms)
                return operation, nodes
        kind, engine_key = key
        operation = kind(self._read, engine_key)
        operation.begin(now_ms)
        return operation, {}

    def keep(self, batch: Batch, version: int, written_nodes: Iterable[int]) -> None:
        """Keep the state of the batch decided last, done at ``version``.

        ``written_nodes`` are the key nodes of its writes, 0 for a new key.

        All counts as of the epoch in which the operation was taken: making room for the commit may have let keys go.
        """
        key, operation, nodes, writes, _, _ = batch
        for i, node in enumerate(written_nodes):
            if node:
                nodes[writes[3 * i]] = node
        own_node = nodes.get(key[1])
        if own_node is None or len(nodes) > self._limits.known_batch_nodes:
            return
        self._kept[key] = (operation, version, self._epoch, own_node, nodes)
        if len(self._kept) > self._limits.known_batches:
            del self._kept[next(iter(self._kept))]

    def _read(self, key: bytes) -> VersionedValue | None:
        return read_newest(self._writer, key, self._now_ms)

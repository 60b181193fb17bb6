"""Operations that become one commit: which requests may, and what is kept in mind from one such commit to the next.

What is kept is believed only while nothing can have changed it: the operations' key is still at the version of that
commit, and no key node has gone (or cleared range come) since. Both are in the segment; nothing has to be told here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from shoal.coordinator.commit.reading import read_newest
from shoal.coordinator.memory.writer import Writer
from shoal.shm import limits
from shoal.shm.operation import Joint, OperationTable, VersionedValue
from shoal.shm.wire.request import CommitSet

# The operation, and the key it is on.
JointPlace = tuple[str, bytes]


class _Kept(NamedTuple):
    """A joint that was last written at ``version``, and where keys of it are, as of ``epoch``."""

    joint: Joint
    version: int
    epoch: int
    node: int  # of the place's own key
    nodes: dict[bytes, int]


class Joints:
    """The joints of a commit engine, by place."""

    def __init__(self, writer: Writer, operations: OperationTable) -> None:
        self._writer = writer
        self._operations = operations
        self._kept: dict[JointPlace, _Kept] = {}
        # As of the last ``take``.
        self._now_ms = 0
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._kept)

    def place_of(self, request: CommitSet) -> JointPlace | None:
        """Operation and key that a commit set may share with others, None for one that must stand alone."""
        if len(request.operations) != 1 or request.writes or request.clears or request.keys_read or request.ranges_read:
            return None
        name, arguments = request.operations[0]
        if name not in self._operations.batched or request.valid_until_ms:
            return None
        return None if len(request.mutations) > limits.MAX_JOINT_MUTATIONS_BYTES else (name, arguments[0])

    def take(self, place: JointPlace, now_ms: int) -> tuple[Joint, dict[bytes, int]]:
        """A joint to begin the next commit with, and the nodes of keys it may write. It is kept no longer."""
        writer = self._writer
        self._now_ms, self._epoch = now_ms, writer.epoch_words[0]
        kept = self._kept.pop(place, None)
        if kept is not None and kept.epoch == self._epoch and writer.version_at(kept.node) == kept.version:
            joint, nodes = kept.joint, kept.nodes
        else:
            name, key = place
            joint, nodes = self._operations.batched[name](self._read, key), {}
        joint.begin(now_ms)
        return joint, nodes

    def keep(
        self,
        place: JointPlace,
        version: int,
        joint: Joint,
        nodes: dict[bytes, int],
        written: Iterable[tuple[bytes, int]],
    ) -> None:
        """Keep the joint taken last, written at ``version``; ``written`` has its keys' nodes, 0 or less if new.

        All is as of the epoch in which it was taken: making room for the commit may have let keys go.
        """
        for key, at in written:
            if at > 0:
                nodes[key] = at
        node = nodes.get(place[1])
        if node is None or len(nodes) > limits.KNOWN_JOINT_NODES:
            return
        self._kept[place] = _Kept(joint, version, self._epoch, node, nodes)
        if len(self._kept) > limits.KNOWN_JOINTS:
            del self._kept[next(iter(self._kept))]  # the one kept the longest: a joint that is taken is kept anew

    def _read(self, key: bytes) -> VersionedValue | None:
        return read_newest(self._writer, key, self._now_ms)

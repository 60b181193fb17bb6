"""What a coordinator gives to a client: two pipes, the segment to read, and slots to pin snapshots.

- An attachment lives as long as anything refers to it: the connection, a transaction or snapshot that reads from its
  memory, or a commit under way. The coordinator keeps the pinned versions as long as the pipes are open.
- Closing it unmaps the memory at once, whatever still refers to it. Later reads raise ``refusal``.
- The pipes of a commit under way are closed by the thread that waits for the answer, and by no other: the number of a
  closed descriptor may be used again at once.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shoal.shm.errors import InvalidOperationError
from shoal.shm.files.epoch_file import EpochWord
from shoal.shm.host import descriptors
from shoal.shm.host.unpatched import select
from shoal.shm.host.waiting import Lookout
from shoal.shm.key_location_cache import KeyLocationCache
from shoal.shm.memory.layout import (
    EPOCH_BITS,
    W_BYTES_USED,
    W_CLIENTS,
    W_COORDINATOR_PID,
    W_HASH_SEED,
    W_HISTORY_BYTES,
    W_HISTORY_MS,
    W_HISTORY_SINCE_US,
    W_HISTORY_VERSION,
    W_KEYS,
    W_PUBLISHED,
)
from shoal.shm.memory.reader import Reader
from shoal.shm.operation import StoreStats
from shoal.shm.wire.frames import FrameBuffer
from shoal.shm.wire.handshake import Welcome
from shoal.workers.host import Host

_STATS = (
    *(W_PUBLISHED, W_KEYS, W_BYTES_USED, W_CLIENTS, W_COORDINATOR_PID),
    *(W_HISTORY_MS, W_HISTORY_VERSION, W_HISTORY_SINCE_US, W_HISTORY_BYTES),
)


class Attachment:
    """One coordinator's segment, slots and pipes in this process.

    ``moved`` is called by the reader when the epoch word says that it must not read this segment any more.
    """

    __slots__ = (
        "__weakref__",
        "answer_fd",
        "buffer",
        "coordinator_pid",
        "durability",
        "epoch",
        "generation",
        "in_use",
        "is_parents",
        "lookout",
        "lost",
        "pipes",
        "poller",
        "reader",
        "ready",
        "request_fd",
        "segment",
        "serves",
        "slots",
        "waiting",
        "why_closed",
    )

    def __init__(
        self, welcome: Welcome, epoch: EpochWord, moved: Callable[[KeyLocationCache, str], bytes | None], host: Host
    ) -> None:
        self.durability = welcome.durability
        self.serves = welcome.generation  # the coordinator's, for good
        self.generation = welcome.generation  # the same until ``retire``, then -1
        self.request_fd = welcome.request_fd
        self.answer_fd = welcome.answer_fd
        self.pipes = descriptors.owned(self.request_fd, self.answer_fd)
        self.in_use = False  # a thread waits for the answer to its commit
        self.waiting = False  # a thread waits here for what others do: ``hang_up`` ends that
        self.lost = False  # half a message may be in either pipe, so no other is sent
        self.is_parents = False  # this process is a forked child, and the pipes are its parent's
        self.why_closed = ""  # what reads and commits raise after it was closed; empty while it is open
        os.set_blocking(self.request_fd, False)  # a stopped coordinator leaves the pipe full: time out then
        os.set_blocking(self.answer_fd, False)
        self.poller = select.poll()
        self.poller.register(self.answer_fd, select.POLLIN)
        self.buffer = FrameBuffer()
        self.ready: list[bytes] = []
        self.lookout = Lookout()
        self.epoch = epoch
        self.segment = host.attach_segment(welcome.segment_fd)
        self.slots = host.attach_slots(welcome.slots_fd)
        self.reader = Reader(self.segment, epoch.words, moved)
        self.coordinator_pid: int = self.reader.words[W_COORDINATOR_PID]

    def __del__(self) -> None:
        with contextlib.suppress(OSError):  # the program has closed them itself, and nobody is left to tell
            self.close_pipes()

    @property
    def memory_id(self) -> int:
        """The segment's random seed, by which a memory store is recognised: another segment holds other data."""
        with self.reading() as reader:
            seed: int = reader.words[W_HASH_SEED]
            return seed

    def is_current(self) -> bool:
        """Whether its coordinator still serves the store, by the epoch word."""
        try:
            return bool(self.generation == self.epoch.words[0] >> EPOCH_BITS)
        except ValueError:  # closed
            return False

    def published(self) -> int:
        """The newest commit version that anyone may see."""
        with self.reading() as reader:
            version: int = reader.words[W_PUBLISHED]
            return version

    def stats(self) -> StoreStats:
        """The counters in the segment's header."""
        with self.reading() as reader:
            words = reader.words
            return StoreStats(*(words[word] for word in _STATS))

    def has_less_than(self, earlier: Attachment) -> bool:
        """Whether it lacks what ``earlier`` showed, though the store is durable."""
        with contextlib.suppress(InvalidOperationError):  # another thread has closed the database
            seen = earlier.published()
            return self.durability != "memory" and self.published() < seen
        return False

    def retire(self) -> None:
        """Make the next read, and the next snapshot, ask the connection for the current attachment."""
        self.generation = -1
        self.reader.retire()

    def close_pipes(self) -> None:
        """Detach from the coordinator. The memory stays mapped as long as a snapshot reads from it."""
        descriptors.close_all(getattr(self, "pipes", []))

    def hang_up(self) -> None:
        """Have the coordinator see the end of the request pipe, so that the thread that waits for an answer sees its.

        The number of the pipe stays in use, by /dev/null, because that thread may be about to write to it.
        """
        with contextlib.suppress(OSError):  # no descriptor is free: it waits until something happens
            nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            if self.request_fd in self.pipes:
                os.dup2(nowhere, self.request_fd, inheritable=False)
            os.close(nowhere)

    def close_segment(self) -> None:
        """Unmap the segment: another attachment to the same coordinator is read from."""
        self.retire()
        self.reader.close()
        self.segment.close()
        self.epoch.close()

    def close_memory(self, why: str) -> None:
        """Unmap everything. Later reads raise ``InvalidOperationError`` with the text ``why``."""
        self.why_closed = why
        self.close_segment()
        self.slots.close()

    def leave_to_parent(self) -> None:
        """In a forked child: drop the parent's pipes and slots. The segment can still be read.

        /dev/null takes the numbers of the pipes: a commit under way may have been forked with the process, and it must
        not write to a descriptor that is opened later.
        """
        self.is_parents = True
        try:
            nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # no descriptor is free
            self.close_pipes()
        else:
            for fd in self.pipes:
                if fd is not None:
                    os.dup2(nowhere, fd, inheritable=False)
            os.close(nowhere)
        self.retire()
        self.slots.close()

    def refusal(self, error: ValueError) -> Exception:
        """What to raise for ``error``, met while reading: the reason if the memory was closed, else ``error``."""
        return InvalidOperationError(self.why_closed) if self.why_closed else error

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """The reader, for a block during which another thread may close the database."""
        try:
            yield self.reader
        except ValueError as error:
            raise self.refusal(error) from None

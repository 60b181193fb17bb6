"""Follows what commits change in a range of keys: told by the coordinator, page by page, and woken by the commit.

The process knows its position (a version, and perhaps a key of the next one) and asks for what follows. So it goes on
after a broken request, and under another coordinator, without missing or repeating a change. What the coordinator does
not have in its memory any more comes from the files of the store (``ReadPast``), read by this process.

The coordinator keeps what may be asked for next until it is asked. When a watch ends, it is told so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple

from shoal.shm.errors import ShoalError, changes_not_kept
from shoal.shm.host.randomness import random_id
from shoal.shm.host.unpatched import os, thread, time
from shoal.workers.polling import AT_REST, poll
from shoal.workers.presence.waiting import ask_and_wait
from shoal.workers.shared_memory.connection import StoreConnection
from shoal.workers.shared_memory.transaction import EngineTransaction

_END_S = 0.2  # that the end of a watch waits for a coordinator that does not answer

Change = tuple[int, bytes, "bytes | None"]  # version, key, what it holds then: None if it was deleted


class Position(NamedTuple):
    """All changes up to ``version`` are known, and those of the next version up to the key ``after``, if not empty."""

    version: int
    after: bytes = b""


# Changes in a range of keys after a position, up to a version, from the files of the store. Raises
# ``SnapshotExpiredError`` if they do not reach back so far.
ReadPast = Callable[[bytes, bytes, Position, int], Iterator[Change]]


class Watch:
    """The changes that commits after version ``since`` made in ``[lower, upper)``: an iterator. None: from now on.

    They come in the order of commits, then keys. It ends when the next one has not come within ``wait_s``. Raises
    ``SnapshotExpiredError`` if a change is not kept any more, and what ``ask_and_wait`` raises.
    """

    def __init__(
        self,
        connection: StoreConnection,
        lower: bytes,
        upper: bytes,
        since: int | None,
        wait_s: float,
        read_past: ReadPast,
    ) -> None:
        self._connection = connection
        self._bounds = lower, upper
        self._wait_s = wait_s
        self._read_past = read_past
        self._id = random_id()
        self._pid = os.getpid()
        self._is_kept = False  # whether the coordinator may keep something for it
        self._told: Iterator[Change] = iter(())
        self._position = Position(self._begin(since))

    def __iter__(self) -> Watch:
        return self

    def __next__(self) -> Change:
        change = next(self._told, None)
        if change is None:
            give_up_s = time.monotonic() + self._wait_s
            while (change := next(self._told, None)) is None:
                if self._page(give_up_s) and time.monotonic() >= give_up_s:
                    raise StopIteration
        return change

    def __del__(self) -> None:
        """Have the coordinator keep nothing for it any more.

        A thread says so. The garbage collector calls this in any thread and at any step: one that has the lock of the
        connection, one that a holder of the lock waits for, a task of an event loop. A request made there could wait
        for itself, or switch to another task in the middle of a step.
        """
        if getattr(self, "_is_kept", False) and self._pid == os.getpid() and not self._connection.is_closed:
            with contextlib.suppress(RuntimeError):  # no thread can be started: the end of the process says it
                thread.start_new_thread(_keep_nothing, (self._connection, self._id))

    def _begin(self, since: int | None) -> int:
        """The version after which changes are told; from now on they are kept."""
        if self._connection.is_at_rest():
            return self._connection.current().published() if since is None else since
        self._is_kept = True
        if since is not None:
            self._connection.ask("keep", [self._id, [since]])
            return since
        newest = EngineTransaction(self._connection, read_only=True)  # its snapshot is pinned until it is kept
        try:
            self._connection.ask("keep", [self._id, [newest.snapshot]])
            return newest.snapshot
        finally:
            newest.abandon()

    def _page(self, give_up_s: float) -> bool:
        """Have the next changes in ``_told``, waited for until ``give_up_s`` (monotonic). Whether there are none."""
        if self._connection.is_at_rest():
            return self._at_rest(give_up_s)
        self._is_kept = True
        _, _, answer = ask_and_wait(
            self._connection, "changes", lambda left_ms: [self._id, *self._position, *self._bounds, left_ms], give_up_s
        )
        if len(answer) != 4:  # nobody serves the store any more
            return False
        version, after, is_lost, told = answer
        self._is_kept = bool(told)
        self._position = Position(version, after)
        changes = ((version, key, value) for version, key, value in told)
        self._told = chain(changes, self._past()) if is_lost else changes
        return not (told or is_lost)

    def _at_rest(self, give_up_s: float) -> bool:
        """``_page`` from the files of a store at rest; or it is waited for somebody who serves it."""
        if self._position.version < self._connection.current().published():
            self._told = self._past()
            return False
        return poll(lambda: not self._connection.is_at_rest() or None, give_up_s, AT_REST) is None

    def _past(self) -> Iterator[Change]:
        """All changes up to what is published now, from the files of the store."""
        through = self._connection.current().published()
        if self._connection.current().durability == "memory":
            raise changes_not_kept(self._position.version, through)
        yield from self._read_past(*self._bounds, self._position, through)
        self._position = Position(max(through, self._position.version))


def _keep_nothing(connection: StoreConnection, watch_id: int) -> None:
    with contextlib.suppress(ShoalError, OSError):  # then the coordinator has ended, or sees the end of this process
        connection.ask("keep", [watch_id, []], _END_S)

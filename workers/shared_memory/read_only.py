"""A process's tie to a store that it only reads: one being served, or one at rest.

- It starts no coordinator and makes no file. A store that nobody serves is read into memory of this process
  (``Resting``), under a lock that keeps coordinators out meanwhile; then the lock is let go.
- When a coordinator begins to serve the store later, the epoch word says so, as it does to any client: the next
  snapshot attaches to it.
- Every write is refused before anything is sent.
"""

from __future__ import annotations

import mmap
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from shoal.shm.errors import CoordinatorLostError
from shoal.shm.files.store_files import EPOCH_FILE, EpochWord
from shoal.shm.host.unpatched import thread, time
from shoal.shm.limits import LINGER_S
from shoal.shm.memory.words import words_of
from shoal.shm.operation import OperationTable
from shoal.shm.wire.handshake import Welcome
from shoal.workers.shared_memory.attachment import Attachment
from shoal.workers.shared_memory.channel import Channel
from shoal.workers.shared_memory.connection import Connection
from shoal.workers.uninterrupted import uninterrupted

_POLL_S = 0.02


class NoEpoch(EpochWord):
    """In the place of a file that a store which was never served does not have."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, mmap.PAGESIZE)
        self.words = words_of(self._map)


class Resting(NamedTuple):
    """A store at rest as this process has it in memory."""

    welcome: Welcome  # as of a coordinator; its pipes lead nowhere
    epoch: EpochWord
    check: Callable[[], list[str]]


class _NowAtRest(Exception):  # noqa: N818 (a way out, not an error)
    """A control request was to be asked, and there is no coordinator any more."""


class ReadOnlyConnection(Connection):
    """Attach or read the files; submit nothing. ``read_at_rest`` gives None while a coordinator holds the store."""

    read_only = True

    def __init__(
        self,
        directory: Path,
        durability: str | None,
        max_bytes: int | None,
        timeout_s: float,
        read_at_rest: Callable[[], Resting | None],
        operations: OperationTable,
        store_id: bytes | None = None,
    ) -> None:
        self._read_at_rest = read_at_rest
        self._resting: Resting | None = None
        self._asking: int | None = None  # the thread that sends a control request
        super().__init__(directory, durability, max_bytes, timeout_s, LINGER_S, operations, store_id)

    def current(self) -> Attachment:
        """The attachment to read from now."""
        resting = self._resting
        if resting is not None and type(resting.epoch) is NoEpoch and (self.directory / EPOCH_FILE).exists():
            self._resting = None
            self.attachment.retire()
        return super().current()

    def submit(self, snapshot: int, valid_until_ms: int, reads: bytes, mutations: bytes) -> NoReturn:
        """Refuse."""
        raise self.refusal()

    def ask(self, name: str, arguments: list[Any]) -> Any:
        """Ask the coordinator something that commits nothing; an empty answer if there is none any more."""
        self.current()
        if self._resting is not None:
            return []
        self._asking = thread.get_ident()
        try:
            return super().ask(name, arguments)
        except _NowAtRest:
            return []
        finally:
            self._asking = None

    def check_at_rest(self) -> list[str] | None:
        """All problems of a store at rest, as this process has it in memory; None if the store is served."""
        self.current()
        return None if self._resting is None else self._resting.check()

    def _attach(self, channel: Channel, in_flight: bool, give_up_s: float) -> Attachment:
        attachment = super()._attach(channel, in_flight, give_up_s)
        if self._asking == thread.get_ident() and self._resting is not None:
            raise _NowAtRest
        return attachment

    def _arrive(self, client_id: int, timeout_s: float, start: bool) -> Attachment:
        """Read the files if no coordinator holds them, else attach to it; wait while one begins or ends."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            if self._place is not None:
                self._place.check()
            resting = self._read_at_rest()
            if resting is not None:
                self._resting = resting
                return uninterrupted(partial(self._admitted, resting.welcome, resting.epoch))
            try:
                attachment = super()._arrive(client_id, max(0.0, deadline_s - time.monotonic()), start=False)
            except CoordinatorLostError:
                if time.monotonic() >= deadline_s:
                    raise
                time.sleep(_POLL_S * random.uniform(0.5, 1.5))
            else:
                self._resting = None
                return attachment

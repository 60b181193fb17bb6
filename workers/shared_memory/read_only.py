"""A connection to a store that the process only reads: one being served, or one at rest.

- It starts no coordinator and makes no file. A store at rest is read into memory of this process (``StoreAtRest``); a
  lock keeps coordinators out until that is done.
- If a coordinator begins to serve the store later, the epoch word changes, as for any client, and the next snapshot
  attaches to that coordinator.
- Every write is refused before anything is sent.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from shoal.shm.errors import CoordinatorLostError
from shoal.shm.files.epoch_file import EpochWord, has_epoch
from shoal.shm.host.unpatched import thread, time
from shoal.shm.limits import IDLE_TIMEOUT_S
from shoal.shm.memory.words import words_of
from shoal.shm.operation import PAST, OperationTable
from shoal.shm.wire.handshake import Welcome
from shoal.workers.polling import AT_REST, poll
from shoal.workers.shared_memory.attachment import Attachment
from shoal.workers.shared_memory.channel import Channel
from shoal.workers.shared_memory.connection import StoreConnection
from shoal.workers.uninterrupted import uninterrupted


class NoEpoch(EpochWord):
    """Stands for the epoch file of a store that was never served and has none: generation 0."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, mmap.PAGESIZE)
        self.words = words_of(self._map)


class StoreAtRest(NamedTuple):
    """A store at rest, read into memory of this process."""

    welcome: Welcome  # as a coordinator would send it, with pipes whose other ends are closed
    epoch: EpochWord
    check: Callable[[], list[str]]
    past: Callable[[int | None, int | None], list[int]]  # the version that is asked for by its number or a moment


class _NowAtRest(Exception):  # noqa: N818 (ends a request that is not needed any more)
    """A control request was to be sent, and no coordinator serves the store any more."""


class ReadOnlyConnection(StoreConnection):
    """Attaches or reads the files, and submits nothing.

    ``read_at_rest`` reads the store's files into memory; it returns None while a coordinator holds the store.
    """

    read_only = True

    def __init__(
        self,
        directory: Path,
        durability: str | None,
        max_bytes: int | None,
        timeout_s: float,
        read_at_rest: Callable[[], StoreAtRest | None],
        operations: OperationTable,
        store_id: bytes | None = None,
        history_ms: int | None = None,
    ) -> None:
        self._read_at_rest = read_at_rest
        self._resting: StoreAtRest | None = None
        self._asking: int | None = None  # the thread that sends a control request
        super().__init__(directory, durability, max_bytes, timeout_s, IDLE_TIMEOUT_S, operations, store_id, history_ms)

    def current(self) -> Attachment:
        """The attachment to read from now: a coordinator's, or the store at rest."""
        resting = self._resting
        if resting is not None and type(resting.epoch) is NoEpoch and has_epoch(self.directory):
            self._resting = None
            self.attachment.retire()
        return super().current()

    def submit(self, snapshot: int, valid_until_ms: int, reads: bytes, mutations: bytes) -> NoReturn:
        """Raise ``InvalidOperationError``."""
        raise self.refusal()

    submit_one = submit

    def ask(self, name: str, arguments: list[Any], timeout_s: float = float("inf")) -> Any:
        """Send a control request; an empty answer if no coordinator serves the store any more."""
        attachment = self.current()
        if self._resting is not None:
            return [attachment.serves, *self._resting.past(*arguments)] if name == PAST else []
        self._asking = thread.get_ident()
        try:
            return super().ask(name, arguments, timeout_s)
        except _NowAtRest:
            return []
        finally:
            self._asking = None

    def is_at_rest(self) -> bool:
        """Whether it reads a store that nobody serves."""
        self.current()
        return self._resting is not None

    def check_at_rest(self) -> list[str] | None:
        """All problems in the memory of a store at rest; None if the store is being served."""
        self.current()
        return None if self._resting is None else self._resting.check()

    def _attach(self, channel: Channel, in_flight: bool, give_up_s: float) -> Attachment:
        attachment = super()._attach(channel, in_flight, give_up_s)
        if self._asking == thread.get_ident() and self._resting is not None:
            raise _NowAtRest
        return attachment

    def _arrive(self, channel: Channel, timeout_s: float, start: bool) -> Attachment:
        """Read the files if no coordinator holds them, else attach to it. Polls while one begins or ends to serve."""
        deadline_s = time.monotonic() + timeout_s
        lost: CoordinatorLostError | None = None

        def read_or_attach() -> Attachment | None:
            nonlocal lost
            if self._place is not None:
                self._place.check()
            resting = self._read_at_rest()
            if resting is not None:
                self._resting = resting
                return uninterrupted(partial(self._admitted, resting.welcome, resting.epoch))
            try:
                attachment = arrive(channel, max(0.0, deadline_s - time.monotonic()), start=False)
            except CoordinatorLostError as error:
                lost = error
                return None
            self._resting = None
            return attachment

        arrive = super()._arrive
        attachment = poll(read_or_attach, deadline_s, AT_REST, time)
        if attachment is not None:
            return attachment
        assert lost is not None
        try:
            raise lost
        finally:
            lost = None  # else error, traceback and this frame would keep each other

"""Attaches to the store's coordinator, and has one started when none answers. One client starts it; others wait.

All of it runs where no signal handler interrupts it (``uninterrupted``).
"""

from __future__ import annotations

from pathlib import Path

from shoal.shm.errors import CoordinatorLostError
from shoal.shm.files.epoch_file import EPOCH_FILE, EpochWord
from shoal.shm.files.store_place import StorePlace
from shoal.shm.host.unpatched import time
from shoal.shm.wire.handshake import Hello, Welcome
from shoal.workers.host import Host
from shoal.workers.polling import SERVING, poll


def attach(
    host: Host,
    directory: Path,
    hello: Hello,
    idle_timeout_s: float,
    timeout_s: float,
    start: bool = True,
    place: StorePlace | None = None,
) -> Welcome:
    """Attach to the store's coordinator; with ``start``, start one if none serves.

    Raises what the coordinator found while opening (``CorruptionError``, ``ConfigurationError``, ``StoreFullError``),
    and ``CoordinatorLostError`` if none serves within ``timeout_s`` seconds, or the one that serves does not answer.
    ``place`` is where the process had the store open before: ``StoreMovedError`` if the store is not there any more;
    then nothing is made there.
    """
    deadline_s = time.monotonic() + timeout_s

    def attach_or_start() -> Welcome | None:
        if place is not None:
            place.check()
        welcome = host.greet(directory, hello, deadline_s)
        if welcome is None and start and host.start_if_nobody_does(directory, hello, idle_timeout_s, deadline_s):
            welcome = host.greet(directory, hello, deadline_s)  # at once: a pause of the polling takes 10 ms
        return welcome

    welcome = poll(attach_or_start, deadline_s if start else time.monotonic(), SERVING, time)
    if welcome is None:
        raise CoordinatorLostError(
            f"no coordinator for {directory} could be reached or started within {timeout_s:.3g} s; "
            "see which process holds coordinator.lock there, or open with a longer timeout"
        )
    return welcome


def find_epoch(host: Host, directory: Path, deadline_s: float, place: StorePlace | None) -> EpochWord:
    """The mapped epoch file of a store being served. Its coordinator makes the file again if it was removed."""

    def look() -> EpochWord | None:
        try:
            return host.epoch_word(directory)
        except FileNotFoundError:
            if place is not None:
                place.check()
            return None

    epoch = poll(look, deadline_s, SERVING, time)
    if epoch is None:
        raise CoordinatorLostError(
            f"the coordinator of {directory} does not make the file {directory / EPOCH_FILE}, which was removed; "
            "end all processes that use the store, and open it again"
        )
    return epoch

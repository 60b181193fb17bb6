"""The thread that syncs the log of a buffered store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shoal.coordinator.host import Host
from shoal.coordinator.log.background_sync import BackgroundSync
from shoal.shm.limits import Limits

LIMITS = Limits(sync_every_ms=1, thread_start_s=0.05)


class _Log(SimpleNamespace):
    """A log of which version 3 is not synced."""

    fills_ahead = False

    def sync(self) -> None:
        if self.error:
            raise self.error
        self.synced_version = self.last_version
        self.synced.set()


def _log(error: Exception | None = None) -> Any:
    return _Log(last_version=3, synced_version=0, error=error, wake=None, synced=threading.Event())


class _Machine(Host):
    """This machine, but that ending the process is noted."""

    def __init__(self, start: Callable[[Callable[[], None]], None] | None = None) -> None:
        self.said: list[str] = []
        self.ended = threading.Event()
        self._start = start or super().start_thread

    def start_thread(self, run: Callable[[], None]) -> None:
        self._start(run)

    def end_process(self, directory: Path, text: str) -> None:
        self.said.append(text)
        self.ended.set()


def test_it_syncs_and_stops(tmp_path: Path) -> None:
    """What is appended is on disk a little later; after ``stop`` nothing is synced any more."""
    log = _log()
    sync = BackgroundSync(log, tmp_path, LIMITS, Host())
    sync.start()
    assert log.synced.wait(10)
    sync.stop()
    assert log.synced_version == 3
    log.last_version = 4
    assert not threading.Event().wait(0.02)
    assert log.synced_version == 3


def test_it_sleeps_while_nothing_is_committed(tmp_path: Path) -> None:
    """It looks no more at a log that is synced, until the next commit wakes it; ``stop`` ends its sleep, too."""
    log = _log()
    sync = BackgroundSync(log, tmp_path, LIMITS, Host())
    sync.start()
    assert log.synced.wait(10)
    for version in (4, 5):
        give_up_s = time.monotonic() + 10
        while log.wake is None and time.monotonic() < give_up_s:
            time.sleep(0.001)
        log.synced.clear()
        log.last_version = version
        assert not log.synced.wait(0.05), "it looked by itself"
        log.wake()
        log.wake = None
        assert log.synced.wait(10)
    sync.stop()
    assert log.synced_version == 5


def test_a_failed_sync_ends_the_process(tmp_path: Path) -> None:
    """With its reason: after that nobody knows what is on the disk."""
    host = _Machine()
    BackgroundSync(_log(OSError("no disk")), tmp_path, LIMITS, host).start()
    assert host.ended.wait(10)
    assert "cannot be written to disk: no disk" in host.said[0]


def _refused(_run: Callable[[], None]) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("start", [_refused, lambda _run: None], ids=["refused", "never begins"])
def test_no_thread(tmp_path: Path, start: Callable[[Callable[[], None]], None]) -> None:
    """OSError in bounded time, and ``stop`` waits for nothing."""
    sync = BackgroundSync(_log(), tmp_path, LIMITS, _Machine(start))
    with pytest.raises(OSError, match="sync"):
        sync.start()
    sync.stop()


class _LogToFill(_Log):
    """A log with three steps of zeros to write."""

    fills_ahead = True

    def fill_ahead(self) -> bool:
        self.steps += 1
        if self.steps == 3:
            self.filled.set()
        return bool(self.steps < 3)


def test_it_writes_zeros_ahead_until_there_are_enough(tmp_path: Path) -> None:
    """In ``strict``: at once, step by step; then it sleeps until a commit. It leaves the records to the commits."""
    log: Any = _LogToFill(last_version=3, synced_version=3, steps=0, filled=threading.Event(), wake=None)
    sync = BackgroundSync(log, tmp_path, LIMITS, Host())
    sync.start()
    assert log.filled.wait(10)
    assert not threading.Event().wait(0.05)
    assert log.steps == 3
    assert log.wake is not None
    sync.stop()
    assert log.steps == 3

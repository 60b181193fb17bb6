"""The thread that syncs the log of a buffered store."""

from __future__ import annotations

import threading
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
    return _Log(last_version=3, synced_version=0, error=error, synced=threading.Event())


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

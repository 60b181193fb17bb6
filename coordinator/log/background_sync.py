"""What is done for the log in a thread of its own.

- ``buffered``: it is synced every 100 ms, which is what that durability promises of a power cut.
- ``strict``: zeros are written and synced ahead of the records (``zero_fill``). Commits sync the records themselves.

The thread only calls ``WalWriter.sync`` or ``WalWriter.fill_ahead``. If a sync fails, the state of the disk is unknown,
and no later sync can mend it. So the thread ends the whole process before another commit is answered.

When nothing is left to do, the thread sleeps until the next commit: an idle store uses no processor.
"""

from __future__ import annotations

import errno
from pathlib import Path

from shoal.coordinator.host import Host
from shoal.coordinator.log.writer import WalWriter
from shoal.shm.limits import FILL_PAUSE_S, Limits


class BackgroundSync:
    """The thread of one log."""

    def __init__(self, log: WalWriter, directory: Path, limits: Limits, host: Host) -> None:
        self._log = log
        self._directory = directory
        self._every_s = limits.sync_every_ms / 1000
        self._start_s = limits.thread_start_s
        self._host = host
        self._begun = host.new_event()
        self._stopping = host.new_event()
        self._awake = host.new_event()  # set by the commit that ends a sleep
        self._ended = host.new_event()

    def start(self) -> None:
        """Begin; OSError if there is no thread for it."""
        try:
            self._host.start_thread(self._run)
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, f"{error} to sync the log") from error
        if not self._begun.wait(self._start_s):
            raise OSError(errno.ENOMEM, f"the thread that syncs the log did not begin within {self._start_s} s")

    def stop(self) -> None:
        """Return when no sync is under way and none will begin. It may never have been started."""
        self._stopping.set()
        self._awake.set()
        if self._begun.is_set():
            self._ended.wait()

    def _run(self) -> None:
        self._begun.set()
        try:
            pause_s = 0.0 if self._log.fills_ahead else self._every_s
            while not self._stopping.wait(pause_s):
                pause_s = self._work()
        except Exception as error:
            text = f"process {self._host.pid()}: the log cannot be written to disk: {error}"
            self._host.end_process(self._directory, text)
        self._ended.set()

    def _work(self) -> float:
        """Do what is due, or sleep; how many seconds later to look again."""
        log = self._log
        if log.fills_ahead:
            if log.fill_ahead():
                return FILL_PAUSE_S
            self._sleep()
        elif log.synced_version < log.last_version:
            log.sync()
        else:
            self._sleep()
        return self._every_s

    def _sleep(self) -> None:
        """Wait for the next commit."""
        log = self._log
        self._awake = awake = self._host.new_event()
        log.wake = awake.set
        # Only now: a commit before is seen here, and one after wakes. The same holds for ``stop``.
        if log.synced_version == log.last_version and not self._stopping.is_set():
            awake.wait()

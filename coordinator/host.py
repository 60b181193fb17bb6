"""The machine as a coordinator uses it: the port by which a simulated machine stands in for the real one.

All time, randomness, descriptors, threads, processes, files and memory of a coordinator come from here. A simulation
overrides what it simulates; the coordinator's own code is the same in both. What is called for every commit is the
system's own function, found on the instance, so the port costs a commit no call in Python.
"""

from __future__ import annotations

import _thread
import fcntl
import gc
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from shoal.coordinator.control_socket import Admit, ControlSocket
from shoal.shm import clock
from shoal.shm.files import store_files
from shoal.shm.files.epoch_file import EpochWord
from shoal.shm.files.notes import append_note
from shoal.shm.files.storage import DiskStorage, Storage
from shoal.shm.files.store_files import StoreMeta
from shoal.shm.files.store_place import identity
from shoal.shm.host import pipe_io
from shoal.shm.host.child_python import python_command, python_environment
from shoal.shm.host.randomness import random_bits
from shoal.shm.limits import PIPE_BYTES
from shoal.shm.memory import snapshots
from shoal.shm.memory.segment import Segment, anonymous_file
from shoal.shm.memory.snapshots import SnapshotPage

_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", None)
_CHECKPOINT_HELPER = "shoal.coordinator.checkpoint.helper"


class HelperProcess(Protocol):
    """A child process that writes a checkpoint."""

    returncode: int | None

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...

    def wait(self) -> int:
        """Its exit status, when it has ended."""
        ...


class Host:
    """The real machine."""

    # Time.
    monotonic_s = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)
    now_ms = staticmethod(clock.now_ms)
    now_us = staticmethod(clock.now_us)
    # Descriptors.
    pipe = staticmethod(os.pipe)
    read = staticmethod(pipe_io.read)
    write = staticmethod(pipe_io.write)
    close = staticmethod(os.close)
    set_blocking = staticmethod(os.set_blocking)
    epoll = staticmethod(select.epoll)
    poll_of = staticmethod(pipe_io.poll_of)
    # This process.
    pid = staticmethod(os.getpid)

    def enlarge_pipe(self, fd: int) -> None:
        """Ask for a larger pipe. The kernel's limit per user may refuse: a smaller pipe only means more pieces."""
        if _F_SETPIPE_SZ is None:
            return
        try:
            fcntl.fcntl(fd, _F_SETPIPE_SZ, PIPE_BYTES)
        except PermissionError:
            return

    def on_signal(self, numbers: tuple[int, ...], stop: Callable[[int, Any], None], wake_fd: int) -> None:
        """Have these signals call ``stop`` and write a byte to ``wake_fd``."""
        signal.set_wakeup_fd(wake_fd, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, stop)

    def tune_collector(self) -> None:
        """Have the garbage collector look at little: what recovery built stays, and commits leave no cycles behind.

        They leave lists that grow. Walked at the usual pace, these cost a fifth of all time.
        """
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)

    def new_lock(self) -> AbstractContextManager[Any]:
        """A lock between threads of this process."""
        return threading.Lock()

    def new_event(self) -> threading.Event:
        """An event for threads of this process."""
        return threading.Event()

    def start_thread(self, run: Callable[[], None]) -> None:
        """Run ``run`` in a thread of its own; RuntimeError if there is none to be had.

        Not ``threading.Thread``, whose ``start`` never returns if memory runs out as the new thread begins.
        """
        _thread.start_new_thread(run, ())

    def start_checkpoint_helper(self, arguments: list[str], content: bytes, segment_fd: int) -> HelperProcess:
        """A process that writes a checkpoint: it reads ``content`` from its standard input and keeps ``segment_fd``.

        ``content`` is handed over in memory, not on a disk, which may be full.
        """
        with os.fdopen(anonymous_file("shoal-sessions", len(content)), "w+b") as file:
            file.write(content)
            file.seek(0)
            return subprocess.Popen(
                python_command(_CHECKPOINT_HELPER, *arguments),
                env=python_environment(),
                pass_fds=[segment_fd],
                stdin=file,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def new_segment(self, max_bytes: int) -> Segment:
        """An empty segment, with a hash seed of its own."""
        return Segment.create(max_bytes, random_bits(64))

    def new_slots(self) -> tuple[int, SnapshotPage]:
        """An empty page of snapshot slots: its descriptor, and the coordinator's view of it."""
        fd = snapshots.new_page()
        try:
            return fd, SnapshotPage(snapshots.map_page(fd))
        except OSError:
            os.close(fd)
            raise

    def storage(self, directory: Path) -> Storage:
        """The files of the store."""
        return DiskStorage(directory)

    def read_meta(self, directory: Path) -> StoreMeta | None:
        """What ``store.json`` says, None if there is none."""
        return store_files.read_meta(directory)

    def epoch_word(self, directory: Path) -> EpochWord:
        """The mapped word of the store's ``epoch`` file, for writing."""
        return EpochWord(directory, writable=True)

    def identity(self, path: Path) -> tuple[int, int] | None:
        """Device and inode of what is at ``path``; None if there is nothing."""
        return identity(path)

    def control_socket(self, directory: Path, admit: Admit) -> ControlSocket:
        """Listen for new clients."""
        return ControlSocket(directory, admit)

    def note(self, directory: Path, text: str) -> None:
        """Say in ``coordinator.log`` why a coordinator or its helper ended, or what it could not do."""
        append_note(directory, text)

    def end_process(self, directory: Path, text: str) -> None:
        """Note why, and end this process at once, from any of its threads."""
        self.note(directory, text)
        sys.stderr.write(f"shoal: {text}\n")
        sys.stderr.flush()
        os._exit(1)


THIS_MACHINE = Host()

"""Every system call of coordinator and client fails, is interrupted, does half, or is the last one."""

from __future__ import annotations

import errno
import gc
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shoal.coordinator.server.coordinator import Coordinator
from shoal.primitives.rules.registry import TABLE
from shoal.shm.files import notes, store_directory, store_files
from shoal.shm.files.storage import DiskStorage
from shoal.shm.files.store_files import StoreMeta
from shoal.shm.files.store_place import WorkingPlace
from shoal.shm.limits import CHECKPOINT_PAUSE_S, Limits
from shoal.shm.wire import handshake
from tests.support.repository import ROOT

pytestmark = pytest.mark.plain

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace")


def _system_calls(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The program as people run it; it is a process of its own because it adopts all orphans."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.system_calls", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    print(done.stdout, done.stderr)
    return done


@pytest.mark.long
@needs_strace
def test_a_failed_sync_is_never_taken_for_done() -> None:
    """EIO from the first fdatasync of a strict coordinator: it dies, its successor answers, nothing is lost."""
    done = _system_calls(
        *("--target", "coordinator", "--durability", "strict"),
        *("--call", "fdatasync", "--fault", "EIO", "--number", "1"),
    )
    assert done.returncode == 0
    assert "1 runs, 1 met their fault, 0 outside the contract" in done.stdout


@needs_strace
@pytest.mark.slow
def test_every_call_meets_every_fault() -> None:
    """The whole table."""
    assert _system_calls("--jobs", "2").returncode == 0


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutant", "call", "fault", "noticed"),
    [
        ("ignore_failed_sync", "fdatasync", "EIO", "a failed sync passed without a word"),
        ("forget_outcomes", "write", "SIGKILL", "is there 2 times"),
    ],
)
def test_a_mutant_is_noticed(mutant: str, call: str, fault: str, noticed: str) -> None:
    """With a mutant, the program finds the contract broken."""
    done = _system_calls(
        *("--target", "coordinator", "--durability", "strict"), "--call", call, "--fault", fault, "--mutant", mutant
    )
    assert done.returncode == 1
    assert noticed in done.stdout


@pytest.fixture
def coordinator(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Coordinator]:
    """A coordinator in this process, which serves nobody."""
    store_directory.make_directory(store)
    monkeypatch.chdir(store)
    limits = Limits(checkpoint_log_files=0)
    made = Coordinator(store, StoreMeta("buffered", 16 << 20), None, WorkingPlace(store), TABLE, limits)
    yield made
    assert made._log is not None
    made._log.close()


def _with_small_files(work: Callable[[], object]) -> int:
    """Do it in a process whose files end after 20 bytes, as on a disk that is full there; its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_short_write_does_not_spoil_a_file_replaced_whole(tmp_path: Path) -> None:
    """The disk takes only the beginning: the old file stays, and whoever wanted the new one is told."""
    old = StoreMeta("strict", 8 << 20)
    store_files.write_meta(tmp_path, old)
    assert _with_small_files(lambda: store_files.write_meta(tmp_path, StoreMeta("buffered", 16 << 20))) == 1
    assert store_files.read_meta(tmp_path) == old


def test_what_may_not_be_on_the_disk_is_copied_to_new_blocks(tmp_path: Path) -> None:
    """Written once more in its place, what a failed sync lost may stay lost; nothing else is touched or left behind."""
    path = tmp_path / "log"
    content = b"synced" + bytes(5000) + b"not synced" + bytes(5000)
    path.write_bytes(content)
    before = path.stat().st_ino
    disk = DiskStorage(tmp_path)
    disk.write_again("log", len(content))
    assert path.stat().st_ino == before, "all of it was on the disk"
    disk.write_again("log", 5006)
    assert path.stat().st_ino != before
    assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o600
    assert disk.list() == ["log"]


def test_a_note_on_a_full_disk_makes_nothing_worse(tmp_path: Path) -> None:
    """What cannot be noted is not noted: the thread that notes a failed sync must come to ending the process."""
    assert _with_small_files(lambda: notes.append_note(tmp_path, "a line of more than 20 bytes")) == 0


def test_a_checkpoint_that_cannot_begin_is_put_off(coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for temporary files, no process to be had: nothing is left of it, and it is tried again later."""

    def fail(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    keeper = coordinator._checkpointer
    assert keeper is not None
    with monkeypatch.context() as short:
        short.setattr(tempfile, "TemporaryFile", fail)
        short.setattr(subprocess, "Popen", fail)
        keeper.maintain(1.0)
    assert coordinator._reclaimer.held == []
    is_running = [keeper.running]
    for now_s in (1.0, 1.0 + CHECKPOINT_PAUSE_S):
        keeper.maintain(now_s)
        is_running.append(keeper.running)
    keeper.close()
    assert is_running == [False, False, True]


def test_a_client_that_cannot_be_watched_is_not_kept(coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel watches no further descriptor (ENOSPC): the connection is closed with all that was made for it."""

    class FullEpoll:
        """An epoll at the user's limit."""

        def register(self, _fd: int, _events: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    server = coordinator._server
    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(server._processes, "_epoll", FullEpoll())
    with pytest.raises(OSError, match="No space"):
        server.admit(handshake.Hello(handshake.PROTOCOL_VERSION, 1, os.getpid(), None, None))
    assert server._clients == {}
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) <= before

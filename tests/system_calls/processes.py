"""Processes that are forked, not executed: hundreds of coordinators a minute, and their first system call is shoal's.

- A coordinator is a child of the client that wants one, as always, but runs ``process.main`` in a fork of this
  interpreter: what it calls is what it does, not the 600 calls of an interpreter's start.
- A fault is armed when the coordinator stands alone, before its first step: strace attached, or calls cut short.
- Whoever drives this is the subreaper of them all, so that it knows when nothing is left.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from shoal.coordinator import host
from shoal.coordinator.checkpoint import helper as checkpoint_helper
from shoal.coordinator.server import process
from shoal.primitives.rules.registry import TABLE
from shoal.shm.limits import DEFAULT_LIMITS, KIB, Limits
from shoal.workers import coordinator_start
from shoal.workers.shared_memory import channel, connection
from tests.system_calls import short_calls

_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_PTRACER = 0x59616D61
_ANY = ctypes.c_ulong(-1)
_libc = ctypes.CDLL(None, use_errno=True)
LOG_FILE_BYTES = 256 * KIB

# A machine that stood still for so long makes clients give up on coordinators: such a run proves nothing.
STANDSTILL_S = 1.5
standstills: list[float] = []  # of this process, since the list was last cleared

_T = TypeVar("_T")
Arm = Callable[[int], None]  # called by the starter with the pid of what is to meet the fault, which waits meanwhile


# Checkpoints after two log files, and nobody looks about for what may come.
SMALL = Limits(
    log_file_bytes=LOG_FILE_BYTES,
    checkpoint_log_files=2,
    request_spin_s=0.0,
    crowded_request_spin_s=0.0,
    first_client_s=1.0,
    idle_wait_s=0.02,
    sweep_every_ms=20,
)


def make_small() -> None:
    """Have coordinators started from here on be small, and clients not look about for their answers."""
    ForkedPython.limits = SMALL
    channel.ANSWER_SPIN_S = 0.0


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own has died."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def wait_for_all(deadline_s: float) -> tuple[dict[int, int], list[str]]:
    """Reap children and orphans until none is left: their exit codes, and what those did that had to be killed."""
    statuses: dict[int, int] = {}
    left: list[str] = []
    looked_s = time.monotonic()
    while True:
        now_s = time.monotonic()
        if now_s - looked_s > STANDSTILL_S:
            standstills.append(now_s - looked_s)
        looked_s = now_s
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return statuses, left
        if pid:
            statuses[pid] = os.waitstatus_to_exitcode(status)
            continue
        if time.monotonic() > deadline_s and not left:
            found = children()
            left = [f"process {each} still waits in {_where(each)}" for each in found]
            for each in found:
                os.kill(each, signal.SIGKILL)
        time.sleep(0.002)


def _where(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/wchan").read_text() + ", " + Path(f"/proc/{pid}/syscall").read_text().strip()
    except OSError as error:
        return f"({error})"


def undisturbed(run: Callable[[], _T], tries: int = 5) -> _T:
    """What ``run`` returns when this process did not stand still meanwhile."""
    for _ in range(tries):
        standstills.clear()
        result = run()
        if not standstills:
            return result
    raise RuntimeError(f"this process stood still in each of {tries} runs, for {standstills} s; let the machine rest")


def children() -> list[int]:
    """Pids of this process's children."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


class ForkedPython:
    """What ``subprocess.Popen`` is to shoal: starts one of its modules, here in a fork of this process."""

    limits = DEFAULT_LIMITS  # of coordinators
    arm: Arm | None = None  # for the next coordinator started by this process
    in_child: Callable[[], None] | None = None  # likewise, called in the coordinator itself

    def __init__(self, command: list[str], pass_fds: list[int], stdin: Any, **_options: Any) -> None:
        _interpreter, _flag, _script, _places, module, *arguments = command  # as child_python.python_command makes it
        arm, ForkedPython.arm = ForkedPython.arm, None
        in_child, ForkedPython.in_child = ForkedPython.in_child, None
        self.returncode: int | None = None
        pid_read, pid_write = os.pipe()
        go_read, go_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            short_calls.disarm()
            if in_child is not None:
                in_child()
            if arm is not None:
                _stop_after_setsid(pid_write, go_read)
            _become(module, arguments, stdin, [*pass_fds, *([pid_write, go_read] if arm is not None else [])])
        os.close(pid_write)
        os.close(go_read)
        if arm is not None:
            arm(int(os.read(pid_read, 20)))
        os.close(pid_read)
        os.close(go_write)

    def wait(self) -> int:
        """Until it has ended."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _become(module: str, arguments: list[str], stdin: Any, keep: list[int]) -> None:
    """Run a module of shoal as an executed interpreter would: no descriptor but those passed on."""
    status = 1
    try:
        if not isinstance(stdin, int):
            os.dup2(stdin.fileno(), 0)
        last = 3
        for fd in sorted(keep):
            os.closerange(last, fd)
            last = fd + 1
        os.closerange(last, 1024)
        if module == "shoal.coordinator.checkpoint.helper":
            sys.stdin = os.fdopen(0, closefd=False)
            status = checkpoint_helper.main(arguments)
        else:
            status = process.main(TABLE, arguments, limits=ForkedPython.limits)
    finally:
        os._exit(status)


def _stop_after_setsid(pid_write: int, go_read: int) -> None:
    setsid = os.setsid

    def stop() -> None:
        os.setsid = setsid
        setsid()
        _libc.prctl(_PR_SET_PTRACER, _ANY, 0, 0, 0)
        os.write(pid_write, b"%d" % os.getpid())
        os.close(pid_write)
        os.read(go_read, 1)  # its end: whoever armed us is done
        os.close(go_read)

    os.setsid = stop


def fork_instead_of_exec() -> None:
    """From now on this process starts coordinators by fork, and they their helpers."""

    class Subprocess:
        """``subprocess`` with another Popen."""

        Popen = ForkedPython
        DEVNULL = subprocess.DEVNULL

    def spawn(command: list[str], report_fd: int) -> int:
        coordinator_start._under_way.remove(report_fd)  # which a forked child closes
        return ForkedPython([*command, "--report-fd", str(report_fd)], [report_fd], subprocess.DEVNULL).pid

    coordinator_start._spawn = spawn
    connection.uninterrupted = lambda call: call()  # strace follows no threads that begin after it
    host.subprocess = Subprocess


def trace(pid: int, options: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Attach strace to a process that waits, and return when it has."""
    tracer = subprocess.Popen(
        ["strace", "-q", "-y", *options, "-o", str(log), "-p", str(pid)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    status = Path(f"/proc/{pid}/status")
    until = time.monotonic() + 20
    while "TracerPid:\t0\n" in status.read_text():
        if tracer.poll() is not None or time.monotonic() > until:
            assert tracer.stderr is not None
            raise RuntimeError(f"strace did not attach: {tracer.stderr.read().decode()}")
        time.sleep(0.0005)
    return tracer

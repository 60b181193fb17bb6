"""kill -9 for the fleets of the examples: kills workers and coordinators of one store while they work.

Linux only, as shoal is. A process is killed through a pidfd, after a check that it is the one that was meant: its
process id may have been given to another process in between.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import shoal

LEAST_WORKERS = 5
LEAST_COORDINATORS = 3
# The most kills. An input that may be retried as often is done in the end, even if every kill hits it.
MOST = 20
_SLOW_PAUSE_S = (0.1, 0.8)
_POLL_S = 0.005


@dataclass
class Kills:
    """The numbers of processes that this program has killed."""

    workers: int = 0
    coordinators: int = 0

    @property
    def enough(self) -> bool:
        """Whether there were enough kills for the result to prove something."""
        return self.workers >= LEAST_WORKERS and self.coordinators >= LEAST_COORDINATORS


def disturb(
    run: subprocess.Popen[bytes],
    store: Path,
    seed: int,
    kills: Kills,
    most: int = MOST,
    quick_pause_s: tuple[float, float] = (0.05, 0.2),
) -> None:
    """Kill at random times while ``run``, the process of a ``WorkerPool`` on ``store``, is at work; adds to ``kills``.

    It kills ``most`` processes. The least number of kills come with ``quick_pause_s`` (shortest, longest) in between,
    before the fleet is done; the others more slowly, to hit later phases as well. ``seed`` determines the order of the
    kills and the pauses. What they interrupt depends on the machine.
    """
    chance = random.Random(seed)
    plan = ["worker"] * LEAST_WORKERS + ["coordinator"] * LEAST_COORDINATORS
    chance.shuffle(plan)
    plan += chance.choices(["worker", "coordinator"], weights=[3, 1], k=most - len(plan))
    dead = set[int]()
    if not _wait_for(lambda: bool(_workers(run.pid)), run):
        return
    with shoal.open(store) as db:  # now that the run serves it, with the options it has chosen
        for victim in plan:
            time.sleep(chance.uniform(*(_SLOW_PAUSE_S if kills.enough else quick_pause_s)))
            if victim == "worker":
                kills.workers += _wait_for(lambda: _kill_worker(run.pid, dead, chance), run)
            else:
                kills.coordinators += _wait_for(lambda: _kill_coordinator(db, dead), run)
        time.sleep(quick_pause_s[1])


def _wait_for(happened: Callable[[], bool], run: subprocess.Popen[bytes]) -> bool:
    """Call ``happened`` until it returns True; False if the run ends before."""
    while run.poll() is None:
        if happened():
            return True
        time.sleep(_POLL_S)
    return False


def _kill_worker(run_pid: int, dead: set[int], chance: random.Random) -> bool:
    candidates = [pid for pid in _workers(run_pid) if pid not in dead]
    if not candidates:
        return False
    pid = chance.choice(candidates)
    return _kill(pid, dead, lambda: pid in _workers(run_pid))


def _kill_coordinator(db: shoal.Database, dead: set[int]) -> bool:
    pid = db.info().coordinator_pid
    # The command line of a coordinator names its store, so that of another store cannot be hit.
    return pid not in dead and _kill(pid, dead, lambda: os.fsencode(db.path) in _command_line(pid))


def _kill(pid: int, dead: set[int], is_meant: Callable[[], bool]) -> bool:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not is_meant():
            return False
        signal.pidfd_send_signal(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(process)
    dead.add(pid)
    return True


def _workers(run_pid: int) -> list[int]:
    """The live worker processes of a pool, in order.

    Forked workers are its children with its own command line; other programs that it started have another one. With a
    fork server, the workers are the fork server's children.
    """
    found = []
    for child in _children(run_pid):
        command = _command_line(child)
        if command == _command_line(run_pid):
            found.append(child)
        elif any(b"multiprocessing.forkserver" in word for word in command):
            found += [pid for pid in _children(child) if _command_line(pid) == command]
    return sorted(found)


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "stat").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        state, its_parent = status.rpartition(")")[2].split()[:2]
        if int(its_parent) == parent and state not in "ZX":
            found.append(int(entry.name))
    return found


def _command_line(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return []

"""SIGKILL at named moments: ``python -m tests.moments``.

Two clients do the reference workload (``tests/system_calls/reference.py``) on one store. The first process that comes
to the chosen moment for the n-th time is killed there, or killed together with the process it works for. Afterwards
everything acknowledged must be there once, and nothing left behind.

A moment is a place before, after or in the middle of a call; the table below says which.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import gc
import mmap
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import filelock

from shoal.coordinator.checkpoint import checkpointer
from shoal.coordinator.commit import engine as commit_engine
from shoal.coordinator.log import writer as wal_writer
from shoal.coordinator.memory import writer
from shoal.coordinator.recovery import recover
from shoal.coordinator.server import clients, control_socket, coordinator, process_start
from shoal.coordinator.server import loop as server
from shoal.shm.files import checkpoint, storage
from shoal.shm.memory import segment
from shoal.shm.wire import handshake
from shoal.workers.shared_memory import channel, take_over
from tests import plants
from tests.crash_workers import descriptors, shoal_mappings, strangers
from tests.system_calls import processes, reference, runner
from tests.system_calls.reference import BEGUN, NOT_BEGUN, REFUSED, RUNS, STEPS, Ledger

DEADLINE_S = 20.0
COORDINATOR, HELPER, CLIENT = "coordinator", "checkpoint helper", "client"


class Moment(NamedTuple):
    """Where a process is killed: ``place`` the method or function ``name`` of ``owner``."""

    who: str
    owner: Any
    name: str
    when: str  # "before", "after", or "half": after half of the bytes it was to write
    only: Callable[..., bool] = lambda *_arguments: True  # which calls count


class _Os:
    """``os`` as one module sees it, so that a moment can be one of its calls."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def _begins(prefix: str, position: int) -> Callable[..., bool]:
    return lambda *arguments: os.path.basename(str(arguments[position])).startswith(prefix)


def _is_record(_file: Any, offset: int, _data: bytes) -> bool:
    return offset > 0


_storage_os, _checkpoint_os = _Os(), _Os()
_engine, _log, _disk = commit_engine.CommitEngine, wal_writer.WalWriter, storage.DiskStorage
_log_file, _door, _keeper = storage._MappedFile, control_socket.ControlSocket, checkpointer.Checkpointer
_lock = _begins("coordinator.lock", 0)
MOMENTS = {
    # --- a commit
    "commit: read, nothing done": Moment(COORDINATOR, _engine, "submit_together", "before"),
    "commit: validated, not applied": Moment(COORDINATOR, writer.Writer, "apply", "before"),
    "commit: applied, not logged": Moment(COORDINATOR, _log, "append", "before"),
    "commit: half of the record written": Moment(COORDINATOR, _log_file, "write", "half", _is_record),
    "commit: record written, not counted": Moment(COORDINATOR, _log_file, "write", "after", _is_record),
    "commit: logged, not synced": Moment(COORDINATOR, _log, "append", "after"),
    "commit: before the sync": Moment(COORDINATOR, _log, "sync", "before"),
    "commit: file synced, not noted": Moment(COORDINATOR, _log_file, "sync", "after"),
    "commit: synced, not published": Moment(COORDINATOR, _log, "sync", "after"),
    "commit: before publishing": Moment(COORDINATOR, writer.Writer, "publish", "before"),
    "commit: published, not answered": Moment(COORDINATOR, writer.Writer, "publish", "after"),
    "commit: before the answer": Moment(COORDINATOR, clients.Client, "send", "before"),
    "commit: answered": Moment(COORDINATOR, clients.Client, "send", "after"),
    # --- a new log file
    "log file: made, empty": Moment(COORDINATOR, storage, "private_file", "after", _begins("wal-", 0)),
    "log file: room reserved, not synced": Moment(COORDINATOR, _storage_os, "posix_fallocate", "after"),
    "log file: synced, not in the directory": Moment(COORDINATOR, _disk, "sync_directory", "before"),
    "log file: ready as the spare": Moment(COORDINATOR, _disk, "create_log_file", "after"),
    "log file: taken, without a head": Moment(COORDINATOR, _log, "_rotate", "before"),
    "log file: half of its head written": Moment(COORDINATOR, _log_file, "write", "half", lambda *a: a[1] == 0),
    "log file: taken": Moment(COORDINATOR, _log, "_rotate", "after"),
    # --- a checkpoint
    "checkpoint: helper started": Moment(COORDINATOR, _keeper, "start", "after"),
    "checkpoint: temporary file made": Moment(HELPER, checkpoint, "private_file", "after"),
    "checkpoint: block made, not written": Moment(HELPER, checkpoint, "_block", "after"),
    "checkpoint: before the file's sync": Moment(HELPER, _checkpoint_os, "fsync", "before"),
    "checkpoint: after the file's sync": Moment(HELPER, _checkpoint_os, "fsync", "after"),
    "checkpoint: before the rename": Moment(HELPER, _checkpoint_os, "replace", "before"),
    "checkpoint: after the rename": Moment(HELPER, _checkpoint_os, "replace", "after"),
    "checkpoint: after the directory's sync": Moment(HELPER, checkpoint, "write_checkpoint", "after"),
    "checkpoint: written, nothing removed": Moment(COORDINATOR, _keeper, "_finish", "before"),
    "checkpoint: before a log file is removed": Moment(COORDINATOR, _disk, "remove", "before", _begins("wal-", 1)),
    "checkpoint: after a log file is removed": Moment(COORDINATOR, _disk, "remove", "after", _begins("wal-", 1)),
    "checkpoint: log removed": Moment(COORDINATOR, _log, "remove_before", "after"),
    "checkpoint: finished": Moment(COORDINATOR, _keeper, "_finish", "after"),
    # --- recovery
    "recovery: lock taken": Moment(COORDINATOR, filelock.FileLock, "acquire", "after", lambda lock, **_: _locked(lock)),
    "recovery: store.json written, not renamed": Moment(COORDINATOR, _storage_os, "replace", "before"),
    "recovery: store.json renamed": Moment(COORDINATOR, _storage_os, "replace", "after"),
    "recovery: memory made": Moment(COORDINATOR, segment, "anonymous_file", "after"),
    "recovery: before the checkpoint": Moment(COORDINATOR, recover, "_load_checkpoint", "before"),
    "recovery: after the checkpoint": Moment(COORDINATOR, recover, "_load_checkpoint", "after"),
    "recovery: in the replay": Moment(COORDINATOR, recover, "_replay", "after"),
    "recovery: before the tail is cut": Moment(COORDINATOR, _disk, "truncate", "before"),
    "recovery: after the tail is cut": Moment(COORDINATOR, _disk, "truncate", "after"),
    "recovery: replayed, not synced": Moment(COORDINATOR, _disk, "write_again", "before"),
    "recovery: synced": Moment(COORDINATOR, _disk, "write_again", "after"),
    "recovery: done, no log begun": Moment(COORDINATOR, coordinator, "recover", "after"),
    "recovery: between lock and socket": Moment(COORDINATOR, _door, "__init__", "before"),
    "recovery: socket there, epoch not raised": Moment(COORDINATOR, _door, "__init__", "after"),
    "recovery: epoch raised, nobody told": Moment(COORDINATOR, process_start.Report, "ready", "before"),
    "recovery: starter told": Moment(COORDINATOR, process_start.Report, "ready", "after"),
    # --- clients come
    "greeting: pipes made": Moment(COORDINATOR, server, "welcome_client", "after"),
    "greeting: client admitted, not told": Moment(COORDINATOR, handshake, "send_welcome", "before"),
    "greeting: client told": Moment(COORDINATOR, handshake, "send_welcome", "after"),
    # --- an orderly end
    "close: clients gone": Moment(COORDINATOR, _door, "close", "before"),
    "close: socket gone": Moment(COORDINATOR, _door, "close", "after"),
    "close: before the mark": Moment(COORDINATOR, _log, "close", "before"),
    "close: marked, not synced": Moment(COORDINATOR, _log, "append", "after", lambda *a: a[2:4] == (0, 0)),
    "close: before the spare is removed": Moment(COORDINATOR, _log, "_drop_spare", "before"),
    "close: log closed, lock held": Moment(COORDINATOR, _log, "close", "after"),
    # --- clients
    "take-over: holding start.lock": Moment(CLIENT, take_over, "_start", "before"),
    "take-over: coordinator started, not heard": Moment(CLIENT, take_over, "_read_report", "before"),
    "take-over: coordinator heard, lock held": Moment(CLIENT, take_over, "_start", "after"),
    "take-over: before the greeting": Moment(CLIENT, take_over, "_knock", "before"),
    "take-over: greeted": Moment(CLIENT, handshake, "receive_welcome", "after"),
    "client: before the request": Moment(CLIENT, channel, "write_all", "before"),
    "client: half of the request written": Moment(CLIENT, channel, "write_all", "half"),
    "client: between request and answer": Moment(CLIENT, channel, "write_all", "after"),
    "client: answer read": Moment(CLIENT, channel, "read_message", "after"),
}


def _locked(lock: Any) -> bool:
    return str(lock.lock_file).endswith("coordinator.lock")


class Case(NamedTuple):
    """One run."""

    moment: str
    passage: int
    durability: str
    together: bool  # with the process it works for: a helper with its coordinator, a client with its coordinator


class Outcome(NamedTuple):
    """What it came to."""

    case: Case
    met: bool
    problems: list[str]


def plant(case: Case, fired: mmap.mmap, claim: Path) -> None:
    """Have the first process that comes to the moment killed there: the one that makes the file ``claim``.

    ``fired`` says that it has happened.
    """
    moment = MOMENTS[case.moment]
    storage.os, checkpoint.os = _storage_os, _checkpoint_os
    sound = getattr(moment.owner, moment.name)
    passages = {"pid": 0, "count": 0}

    def is_now(arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
        if fired[0] or not moment.only(*arguments, **options):
            return False
        if passages["pid"] != os.getpid():  # a fork counts for itself
            passages.update(pid=os.getpid(), count=0)
        passages["count"] += 1
        return passages["count"] == case.passage and is_first()

    def is_first() -> bool:
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL))
        except FileExistsError:  # another process came to it in the same instant
            return False
        fired[0] = 1
        return True

    def die() -> None:
        if case.together and moment.who == HELPER:
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def reach(*arguments: Any, **options: Any) -> Any:
        now = is_now(arguments, options)
        if now and moment.when == "before":
            die()
        if now and moment.when == "half":
            at = next(i for i, each in enumerate(arguments) if isinstance(each, bytes))
            data = arguments[at]
            sound(*arguments[:at], data[: len(data) // 2], *arguments[at + 1 :])
            die()
        result = sound(*arguments, **options)
        if now:
            die()
        return result

    setattr(moment.owner, moment.name, reach)


def run_case(directory: Path, case: Case) -> Outcome:
    """Two clients, one death."""
    return processes.undisturbed(lambda: _run(directory, case))


def _run(directory: Path, case: Case) -> Outcome:
    path = runner.fresh_store(directory)
    ledgers = {run: Ledger() for run in RUNS}
    fired, claim = mmap.mmap(-1, 4096), path.with_suffix(".killed")
    try:

        def client(run: str) -> Callable[[], None]:
            def work() -> None:
                before = descriptors()
                plant(case, fired, claim)
                reference.work(path, case.durability, ledgers[run], run)
                gc.collect()
                left = {fd: what for fd, what in descriptors().items() if before.get(fd) != what}
                assert (left, shoal_mappings()) == ({}, [])

            return work

        pids = {run: runner.in_child(client(run)) for run in RUNS}
        statuses, left = processes.wait_for_all(time.monotonic() + DEADLINE_S)
        problems = [f"did not end in {DEADLINE_S} s: {line}" for line in left]
        killed = [run for run, pid in pids.items() if statuses.get(pid) == -signal.SIGKILL]
        problems += [
            f"client {run} ended with {statuses.get(pid)}" for run, pid in pids.items() if statuses.get(pid) > 0
        ]
        if len(killed) != (1 if fired[0] and MOMENTS[case.moment].who == CLIENT else 0):
            problems.append(f"killed clients: {killed}")
        for run in RUNS:
            if run not in killed:
                problems += [f"{run}: {line}" for line in _unfinished(ledgers[run])]
        problems += runner.audit_in_child(path, ledgers)
        problems += [f"left behind: {name}" for name in strangers(path)]
        return Outcome(case, bool(fired[0]), problems)
    finally:
        fired.close()
        for ledger in ledgers.values():
            ledger.close()
        claim.unlink(missing_ok=True)
        shutil.rmtree(path)


def _unfinished(ledger: Ledger) -> list[str]:
    """What a client that was not killed noticed of the other's death: nothing."""
    states = [(name, n, ledger.state(n)) for n, (name, _, _) in enumerate(STEPS)]
    states += [("open", reference.OPEN, ledger.state(reference.OPEN))]
    found = [f"{name} was refused with {ledger.error(n)}" for name, n, state in states if state == REFUSED]
    return found + [f"{name} was not finished" for name, _, state in states if state in (NOT_BEGUN, BEGUN)]


def cases(passages: int) -> list[Case]:
    """Each moment at its first passages, in both durabilities, alone and together."""
    found = []
    for name, moment in MOMENTS.items():
        for durability in ("strict", "buffered"):
            for together in (False, True) if moment.who == HELPER else (False,):
                found += [Case(name, n, durability, together) for n in range(1, passages + 1)]
    return found


def main() -> int:
    """Run what was asked for; 1 if a promise was broken or a moment never came."""
    parser = argparse.ArgumentParser(prog="python -m tests.moments", description=__doc__.partition("\n")[0])
    parser.add_argument("--moment", action="append", help="only moments whose name contains this")
    parser.add_argument("--passages", type=int, default=4, help="kill at the first to the n-th passage")
    parser.add_argument("--durability", choices=["buffered", "strict"])
    parser.add_argument("--every", type=int, default=1, help="only every n-th case")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--plant", choices=sorted(plants.PLANTS), help="with this fault in shoal")
    options = parser.parse_args()
    wanted = [
        case
        for case in cases(options.passages)
        if (not options.moment or any(text in case.moment for text in options.moment))
        and options.durability in (None, case.durability)
    ][:: options.every]
    began_s = time.monotonic()
    processes.adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="shoal-moments-") as name, plants.planted_here(options.plant):
        directory = Path(name)
        runner.template(directory)
        context = multiprocessing.get_context("fork")
        with concurrent.futures.ProcessPoolExecutor(options.jobs, context, processes.adopt_orphans) as pool:
            outcomes = list(pool.map(run_case, [directory] * len(wanted), wanted))
    return _report(outcomes, time.monotonic() - began_s)


def _report(outcomes: list[Outcome], took_s: float) -> int:
    print("| moment | kills | without a promise broken |\n|---|---|---|")
    for name in dict.fromkeys(outcome.case.moment for outcome in outcomes):
        met = [outcome for outcome in outcomes if outcome.case.moment == name and outcome.met]
        print(f"| {name} | {len(met)} | {sum(not outcome.problems for outcome in met)} |")
    bad = [outcome for outcome in outcomes if outcome.problems]
    for outcome in bad:
        print(outcome)
    never = {o.case.moment for o in outcomes} - {o.case.moment for o in outcomes if o.met}
    for name in sorted(never):
        print(f"never came: {name}")
    print(f"{sum(o.met for o in outcomes)} kills in {len(outcomes)} runs, {len(bad)} broke a promise, {took_s:.0f} s")
    return 1 if bad or never else 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs the reference workload once, with one fault, and judges what came of it."""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import shoal
from shoal.shm.files import control_address
from tests.support.workers.crash_workers import strangers
from tests.system_calls import processes, reference, short_calls
from tests.system_calls.faults import KILL, SHORT, Case
from tests.system_calls.processes import ForkedPython
from tests.system_calls.reference import ACKNOWLEDGED, CLOSE, OPEN, OPEN_TIMEOUT_S, REFUSED, RUNS, STEPS, Ledger

DEADLINE_S = 20.0
_CALL = re.compile(r"^(?:(\d+) +)?([a-z_0-9]+)\(")
_FIRED = re.compile(r"\(INJECTED\)|killed by SIGKILL")
NOTES = "coordinator.log"


class Outcome(NamedTuple):
    """What a case came to."""

    case: Case
    met: bool  # the fault took place
    seen: str  # what the client noticed
    problems: list[str]  # what is outside the contract


def template(directory: Path) -> Path:
    """The store every run begins with a copy of."""
    path = directory / "template"
    in_child(lambda: reference.prepare(path))
    _, left = processes.wait_for_all(time.monotonic() + DEADLINE_S)
    assert left == [], left
    return path


def count_calls(directory: Path, target: str, durability: str) -> dict[str, int]:
    """Every system call of the workload and how often the thread that made it most made it."""
    log = directory / f"{target}-{durability}.strace"
    outcome = _run(directory, Case(target, durability, "none", "none", 0), log)
    assert outcome.problems == [], outcome
    counted: Counter[tuple[str, str]] = Counter()
    for line in log.read_text().splitlines():
        found = _CALL.match(line)
        if found:
            thread, call = found.groups("")
            counted[thread, call] += 1
    most: dict[str, int] = {}
    for (_, name), count in counted.items():
        most[name] = max(count, most.get(name, 0))
    return most


def run_case(directory: Path, case: Case) -> Outcome:
    """One run."""
    with tempfile.NamedTemporaryFile(dir=directory, suffix=".strace") as log:
        return processes.undisturbed(lambda: _run(directory, case, Path(log.name)))


def fresh_store(directory: Path) -> Path:
    """A copy of the template, with the socket a dead coordinator leaves."""
    path = Path(tempfile.mkdtemp(dir=directory, prefix="store-"))
    not_copied = shutil.ignore_patterns(control_address.SOCKET_FILE)
    shutil.copytree(directory / "template", path, dirs_exist_ok=True, ignore=not_copied)
    path.chmod(0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path / control_address.SOCKET_FILE))
    return path


def _run(directory: Path, case: Case, log: Path) -> Outcome:
    path = fresh_store(directory)
    ledger, shortened = Ledger(), mmap.mmap(-1, 4096)
    try:
        client = _start_client(path, case, log, ledger, shortened)
        statuses, left = processes.wait_for_all(time.monotonic() + DEADLINE_S)
        text = log.read_text(errors="replace")
        met = bool(_FIRED.search(text)) or any(shortened[:8])
        problems = [f"did not end in {DEADLINE_S} s: {line}" for line in left]
        killed = case.target == "client" and case.fault == KILL
        if statuses.get(client) != 0 and not killed:
            problems.append(f"the client ended with {statuses.get(client)}, not with an error it was told")
        noted = (path / NOTES).exists()
        problems += audit_in_child(path, {RUNS[0]: ledger})
        problems += [f"left behind: {name}" for name in strangers(path) if name != NOTES]
        problems += _judge(case, met, ledger, noted)
        return Outcome(case, met, seen(ledger), problems)
    finally:
        ledger.close()
        shortened.close()
        shutil.rmtree(path)


def _start_client(path: Path, case: Case, log: Path, ledger: Ledger, shortened: mmap.mmap) -> int:
    options = ["-f"] if case.name == "none" else ["-f", *case.strace_options()]
    go_read, go_write = os.pipe()

    def client() -> None:
        os.close(go_write)
        if case.target == "coordinator":
            if case.fault == SHORT:
                ForkedPython.in_child = lambda: short_calls.arm(case.name, case.number, shortened)
            else:
                ForkedPython.arm = lambda pid: processes.trace(pid, options, log)
        os.read(go_read, 1)
        os.close(go_read)
        if case.target == "client" and case.fault == SHORT:
            short_calls.arm(case.name, case.number, shortened)
        reference.work(path, case.durability, ledger, RUNS[0])

    pid = in_child(client)
    os.close(go_read)
    if case.target == "client" and case.fault != SHORT:
        processes.trace(pid, options[1:], log)
    os.close(go_write)
    return pid


def audit_in_child(path: Path, ledgers: dict[str, Ledger]) -> list[str]:
    """What is missing, doubled or unsound in the store, looked at by a process that knows of no fault."""
    read, write = os.pipe()

    def look() -> None:
        with shoal.open(path, timeout=OPEN_TIMEOUT_S * 2, linger=0.0) as db:
            found = [line for run, ledger in ledgers.items() for line in reference.audit(db, ledger, run)]
            found += [f"check: {line}" for line in db.check()]
            os.write(write, json.dumps(found).encode())

    pid = in_child(look, small=False)  # and so without a checkpoint of its own
    os.close(write)
    statuses, left = processes.wait_for_all(time.monotonic() + DEADLINE_S)
    with os.fdopen(read, "rb") as said:
        raw = said.read()
    if left or statuses[pid] != 0 or not raw:
        return [f"the store could not be looked at afterwards: {statuses.get(pid)}, {left}"]
    found: list[str] = json.loads(raw)
    return found


def in_child(work: Callable[[], object], small: bool = True) -> int:
    """Run ``work`` in a forked process that starts coordinators by fork; its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if small:
            processes.make_small()
        processes.fork_instead_of_exec()
        work()
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def _judge(case: Case, met: bool, ledger: Ledger, noted: bool) -> list[str]:
    """What the store's content does not show: a fault that must be felt was not, or one that must not be was."""
    if not met:
        return []
    problems = []
    states = [ledger.state(step) for step in (OPEN, *range(len(STEPS)), CLOSE)]
    silent = all(state == ACKNOWLEDGED for state in states) and not _replaced(ledger)
    if case.fault in ("EINTR", SHORT) and not silent:
        problems.append(f"{case.fault} was noticed: {seen(ledger)}")
    if case.fault == KILL and case.target == "coordinator" and REFUSED in states:
        problems.append(f"a killed coordinator was noticed: {seen(ledger)}")
    syncs = ("fsync", "fdatasync")
    if case.target == "coordinator" and case.name in syncs and case.fault.startswith("EIO") and silent and not noted:
        problems.append("a failed sync passed without a word")
    return problems


def _replaced(ledger: Ledger) -> bool:
    first, last = ledger.pids()
    return first != last


def seen(ledger: Ledger) -> str:
    """The client's view in a few words."""
    steps = [(OPEN, "open"), *((n, name) for n, (name, _, _) in enumerate(STEPS))]
    refusals = [ledger.error(n) for n, _ in steps if ledger.state(n) == REFUSED]
    if refusals:
        kinds = sorted({text.partition(":")[0] for text in refusals})
        return "refused with " + ", ".join(kinds)
    unfinished = [name for n, name in [*steps, (CLOSE, "close")] if ledger.state(n) != ACKNOWLEDGED]
    if unfinished:
        return "the client died"
    return "coordinator replaced" if _replaced(ledger) else "nothing"

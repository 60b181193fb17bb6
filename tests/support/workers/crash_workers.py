"""Worker processes that write without pause and note every intention and every acknowledgement in a file of their own.

Lines: ``i KIND NUMBER`` before a call, ``a KIND NUMBER RESULT`` after it. What a process wrote to its file survives its
SIGKILL, so the files say what the store owes.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import shoal

RUN = "crash"
DEADLINE_S = 60.0
SERVED_NAMES = re.compile(r"(wal-\d{12}\.log|checkpoint-\d{20}\.ckpt|store\.json|epoch|coordinator\.lock|start\.lock)")


class Promised(NamedTuple):
    """What one worker's file says."""

    increments: list[int]  # the sums it was told
    uniques: set[str]
    pairs: int
    pending: dict[str, int]  # kind -> intentions without an answer, 0 or 1

    def answers(self) -> int:
        """Everything acknowledged."""
        return len(self.increments) + len(self.uniques) + self.pairs


def wait_for(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_S, pause_s: float = 0.002) -> Any:
    """Return what ``condition`` does once it is true, looking every ``pause_s``; fail when it is not in ``seconds``."""
    until = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < until, f"waited {seconds} s for {what}"
        time.sleep(pause_s)
    return result


def _work(path: Path, name: str, log: Path) -> None:
    stop = False

    def on_term(_number: int, _frame: Any) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGTERM, on_term)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with shoal.open(path, timeout=DEADLINE_S, linger=0.2) as db:
        kv = shoal.KVStore(db)

        def pair(txn: shoal.Transaction) -> None:
            """Two keys that are always equal, and one that all workers contend for."""
            txn.kv.put(f"left/{name}", txn.kv.get(f"left/{name}", 0) + 1)
            txn.kv.increment(f"right/{name}")
            txn.kv.put("shared", txn.kv.get("shared", 0) + 1)

        number = 0
        while not stop:
            os.write(out, b"i inc %d\n" % number)
            os.write(out, b"a inc %d %d\n" % (number, kv.increment(RUN, "sum")))
            os.write(out, b"i put %d\n" % number)
            kv.put(RUN, f"unique/{name}/{number}", number)
            os.write(out, b"a put %d 0\n" % number)
            os.write(out, b"i pair %d\n" % number)
            db.transact(RUN, pair, retries=100_000)
            os.write(out, b"a pair %d 0\n" % number)
            number += 1
    os.close(out)


class Crew:
    """A few such workers on one store; a context manager that leaves none behind."""

    def __init__(self, path: Path, directory: Path, count: int) -> None:
        fork = multiprocessing.get_context("fork")
        self.names = [f"w{i}" for i in range(count)]
        self._logs = {name: directory / f"{name}.log" for name in self.names}
        self.processes = {name: fork.Process(target=_work, args=(path, name, self._logs[name])) for name in self.names}

    def __enter__(self) -> Crew:
        for process in self.processes.values():
            process.start()
        return self

    def __exit__(self, *_error: object) -> None:
        for process in self.processes.values():
            process.kill()
            process.join()
            process.close()

    def promised(self, name: str) -> Promised:
        """What the worker ``name`` was promised until now."""
        text = self._logs[name].read_text() if self._logs[name].exists() else ""
        result = Promised([], set(), 0, {"inc": 0, "put": 0, "pair": 0})
        pairs = 0
        for line in text.splitlines():
            mark, kind, number, *rest = line.split(" ")
            result.pending[kind] += 1 if mark == "i" else -1
            if mark == "a" and kind == "inc":
                result.increments.append(int(rest[0]))
            elif mark == "a" and kind == "put":
                result.uniques.add(f"unique/{name}/{number}")
            elif mark == "a":
                pairs += 1
        return result._replace(pairs=pairs)

    def progress(self, names: list[str] | None = None, more: int = 1) -> None:
        """Wait until each of the workers was answered something it was asking for after this call began."""
        sizes = {name: self._size(name) for name in names or self.names}
        # Two lines a call: one may be the answer to a call made before.
        wait_for(lambda: all(self._size(name) >= sizes[name] + 40 * more for name in sizes), "progress of every worker")

    def _size(self, name: str) -> int:
        with contextlib.suppress(FileNotFoundError):
            return self._logs[name].stat().st_size
        return 0

    def stop(self, killed: tuple[str, ...] = ()) -> None:
        """Have all that live finish what they are doing and end."""
        for name, process in self.processes.items():
            if name not in killed:
                process.terminate()
        for name, process in self.processes.items():
            process.join(DEADLINE_S)
            assert process.exitcode == (-signal.SIGKILL if name in killed else 0), name

    def settle(self, db: shoal.Database) -> list[str]:
        """Compare the store with everything promised, now that nobody works any more: a line for each difference."""
        kv = shoal.KVStore(db)
        problems: list[str] = []
        promises = {name: self.promised(name) for name in self.names}
        told = sorted(number for promise in promises.values() for number in promise.increments)
        open_increments = sum(promise.pending["inc"] for promise in promises.values())
        total = kv.get(RUN, "sum", 0)
        problems += [f"increment {a} was told twice" for a, b in itertools.pairwise(told) if a == b]
        if not len(told) <= total <= len(told) + open_increments:
            problems.append(f"{len(told)} increments were acknowledged (+{open_increments} open), the sum is {total}")
        if told and told[-1] > total:
            problems.append(f"a sum of {told[-1]} was told and {total} is there")
        found = set(kv.list(RUN, "unique/"))
        for name, promise in promises.items():
            mine = {key for key in found if key.startswith(f"unique/{name}/")}
            problems += [f"{key} was acknowledged and is lost" for key in promise.uniques - mine]
            if len(mine - promise.uniques) > promise.pending["put"]:
                problems.append(f"nobody put {sorted(mine - promise.uniques)}")
            left, right = kv.get(RUN, f"left/{name}", 0), kv.get(RUN, f"right/{name}", 0)
            if left != right:
                problems.append(f"half a transaction of {name}: {left} and {right}")
            if not promise.pairs <= left <= promise.pairs + promise.pending["pair"]:
                problems.append(f"{name} was told of {promise.pairs} pairs, {left} are there")
        lefts = sum(kv.get(RUN, f"left/{name}", 0) for name in self.names)
        if kv.get(RUN, "shared", 0) != lefts:
            problems.append(f"{lefts} pairs are there and {kv.get(RUN, 'shared', 0)} were added to the shared key")
        return problems


def processes_of(path: Path) -> list[int]:
    """The pids of all processes that have the store's path on their command line, this one and zombies left aside."""
    found, wanted = [], os.fsencode(path)
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/cmdline", "rb", buffering=0) as file:
                if wanted in file.read().split(b"\0"):
                    found.append(int(entry))
    return found


def wait_until_left(path: Path) -> None:
    """Wait until no process of the store is left; looked for now and then, as every look reads all of /proc."""
    wait_for(lambda: not processes_of(path), "the coordinator to end after its last client", pause_s=0.1)


def kill(pid: int) -> None:
    """SIGKILL, if the process is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def descriptors() -> dict[str, str]:
    """This process's open descriptors and what they are."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return found


def shoal_mappings() -> list[str]:
    """This process's mappings of shoal's anonymous memory."""
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if "memfd:shoal" in line]


def strangers(path: Path) -> list[str]:
    """Files in a store at rest that do not belong there."""
    return [name for name in sorted(os.listdir(path)) if not SERVED_NAMES.fullmatch(name)]

"""What outlives a worker's SIGKILL: a ledger in a file for each window of its work, and a slot in shared memory.

A line of a ledger is a JSON array: ``["i", kind, number, what]`` before a call, ``["a", kind, number, result]`` once it
was acknowledged, ``["f", kind, number, why]`` if it was refused, ``["x", what]`` for a wrong answer noticed at once.
A file is written with one ``write`` a line, so whatever the kernel took survives the writer.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

# Words of a slot.
WINDOW, PID, COMMITS, CONFLICTS, READS, COORDINATOR, COORDINATOR_COMMITS, SLOWEST_COMMIT, SLOWEST_READ, IN_EFFECT = (
    range(10)
)
BUCKETS = 512
_HISTOGRAMS = 16
COMMIT_HISTOGRAM, READ_HISTOGRAM = _HISTOGRAMS, _HISTOGRAMS + BUCKETS
SLOT_WORDS = _HISTOGRAMS + 2 * BUCKETS
NOBODY = 1 << 62  # in WINDOW: no worker has this slot, so no window waits for it


class Slots:
    """One slot for each worker of a store, and the window that is being worked in; shared by forked processes."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._map = mmap.mmap(-1, 8 * (SLOT_WORDS * count + 1))
        self._words = memoryview(self._map).cast("Q")
        for i in range(count):
            self.slot(i)[WINDOW] = NOBODY

    def slot(self, i: int) -> memoryview:
        """The words of slot ``i``."""
        return self._words[1 + i * SLOT_WORDS : 1 + (i + 1) * SLOT_WORDS]

    @property
    def window(self) -> int:
        """The window that work is done in now."""
        return self._words[0]

    @window.setter
    def window(self, number: int) -> None:
        self._words[0] = number

    def all_beyond(self, window: int) -> bool:
        """Whether no worker works in ``window``, or an older one, any more."""
        return all(self.slot(i)[WINDOW] > window for i in range(self.count))

    def total(self, word: int) -> int:
        """The sum of a word over all slots."""
        return sum(self.slot(i)[word] for i in range(self.count))

    def histogram(self, start: int) -> list[int]:
        """A histogram, summed over all slots."""
        columns = zip(*(self.slot(i)[start : start + BUCKETS].tolist() for i in range(self.count)), strict=True)
        return [sum(column) for column in columns]

    def take_slowest(self, word: int) -> int:
        """The longest time, in ns, since this was asked last."""
        slowest = 0
        for i in range(self.count):
            slot = self.slot(i)
            slowest = max(slowest, slot[word])
            slot[word] = 0
        return slowest


def note_time(slot: memoryview, histogram: int, slowest: int, ns: int) -> None:
    """Count a duration: eight buckets for each power of two, 12 % apart at most."""
    bits = ns.bit_length()
    slot[histogram + (bits << 3 | ns >> bits - 4 & 7 if bits > 3 else ns)] += 1
    if ns > slot[slowest]:
        slot[slowest] = ns


def percentile_ms(histogram: list[int], share: float) -> float:
    """The upper bound of the bucket in which ``share`` of all counted durations are passed; 0 without any."""
    total = sum(histogram)
    if not total:
        return 0.0
    passed = itertools.accumulate(histogram)
    bucket = next(bucket for bucket, count in enumerate(passed) if count >= total * share)
    bits = bucket >> 3
    ns = bucket if bits <= 3 else (8 + (bucket & 7) + 1) << bits - 4
    return round(ns / 1e6, 4)


class Operation(NamedTuple):
    """One call as a ledger has it: ``outcome`` is ``a``, ``f``, or empty if nobody was told."""

    who: str
    kind: str
    number: int
    what: Any
    outcome: str
    result: Any
    start: float
    end: float


class Ledger:
    """A worker's own, for one window."""

    def __init__(self, directory: Path, window: int, who: str) -> None:
        path = directory / f"{window:06}-{who}.ledger"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, *parts: Any) -> None:
        """One line, and when it was written."""
        os.write(self._fd, json.dumps([*parts, time.monotonic()], separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        """No more lines."""
        os.close(self._fd)


def ledgers(directory: Path, window: int) -> Iterator[tuple[str, Path]]:
    """The workers of a window, and their ledgers."""
    for path in sorted(directory.glob(f"{window:06}-*.ledger")):
        yield path.stem.partition("-")[2], path


def read_ledger(who: str, path: Path) -> tuple[list[Operation], list[str]]:
    """What a worker did, and what it complained of. A last line that its kill cut short was not begun, or not told."""
    open_ones: dict[tuple[str, int], Operation] = {}
    done: list[Operation] = []
    wrong: list[str] = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        mark, *parts, when = json.loads(line)
        if mark == "x":
            wrong.append(f"{who}: {parts[0]}")
            continue
        kind, number, about = parts
        if mark == "i":
            open_ones[kind, number] = Operation(who, kind, number, about, "", None, when, float("inf"))
        else:
            begun = open_ones.pop((kind, number))
            done.append(begun._replace(outcome=mark, result=about, end=when))
    return [*done, *open_ones.values()], wrong

"""Processes that commit small puts without a pause, and note when each began and how long it took."""

from __future__ import annotations

import multiprocessing
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import shoal

from ..host import signals
from ..peers import BenchError
from ..peers.shoal_store import LINGER_S
from .base import key_of

_CONTEXT = multiprocessing.get_context("fork")
_RUN = "committer"
_KEYS = 1_000
_READY_TIMEOUT_S, _END_TIMEOUT_S = 60.0, 60.0
_COMMITS_PER_LOOK = 50
# When each commit began, on the system's monotonic clock, and how long it took.
Latencies = list[tuple[float, float]]


class Committers:
    """Processes that commit from ``committing`` on until ``stop``."""

    def __init__(self) -> None:
        self._pipes: list[Connection] = []
        self.processes: list[BaseProcess] = []

    def start(self, path: Path, number: int, value_bytes: int) -> None:
        """Start so many; all are attached and at work when this returns."""
        for worker in range(number):
            ours, theirs = _CONTEXT.Pipe()
            process = _CONTEXT.Process(target=_commit, args=(path, worker, value_bytes, theirs, ours), daemon=True)
            with signals.held_back():
                process.start()
            theirs.close()
            self._pipes.append(ours)
            self.processes.append(process)
        for pipe in self._pipes:
            _receive(pipe, _READY_TIMEOUT_S)

    def stop(self) -> Latencies:
        """End them; all commits in the order in which they began."""
        for pipe in self._pipes:
            pipe.send(None)
        found: Latencies = []
        for pipe in self._pipes:
            begun_s, took_s = _receive(pipe, _END_TIMEOUT_S)
            found += zip(begun_s, took_s, strict=True)
        for process in self.processes:
            process.join()
        return sorted(found)


@contextmanager
def committing(path: Path, number: int = 1, value_bytes: int = 8) -> Iterator[Committers]:
    """Processes that commit during the block; they are gone after it."""
    committers = Committers()
    try:
        committers.start(path, number, value_bytes)
        yield committers
    finally:
        for process in committers.processes:
            process.kill()
            process.join()


def _receive(pipe: Connection, timeout_s: float) -> tuple[array[float], array[float]]:
    if not pipe.poll(timeout_s):
        raise BenchError(f"a process that commits has not answered for {timeout_s:.0f} s")
    try:
        answer = pipe.recv()
    except (EOFError, ConnectionError):
        raise BenchError("a process that commits died") from None
    if isinstance(answer, str):
        raise BenchError(f"a process that commits failed: {answer}")
    latencies: tuple[array[float], array[float]] = answer
    return latencies


def _commit(path: Path, worker: int, value_bytes: int, pipe: Connection, other: Connection) -> None:
    """Main function of a process."""
    signals.leave_to_parent()
    other.close()
    try:
        with shoal.open(path, linger=LINGER_S) as db:
            pipe.send(_commit_until_told(shoal.KVStore(db), worker, bytes(value_bytes), pipe))
    except (EOFError, BrokenPipeError):
        return  # the parent has ended
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


def _commit_until_told(
    kv: shoal.KVStore, worker: int, value: bytes, pipe: Connection
) -> tuple[array[float], array[float]]:
    begun_s, took_s = array("d"), array("d")
    monotonic, put = time.monotonic, kv.put
    number = 0
    while not number or not pipe.poll():
        for _ in range(_COMMITS_PER_LOOK):
            before_s = monotonic()
            put(_RUN, f"{worker}-{key_of(number % _KEYS)}", value)
            begun_s.append(before_s)
            took_s.append(monotonic() - before_s)
            number += 1
        if number == _COMMITS_PER_LOOK:
            pipe.send((array("d"), array("d")))  # at work
    return begun_s, took_s

"""A scenario: how much of it is done (``Scale``), what it measures (``Measured``), and what they all share."""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import shoal

from ..peers.shoal_store import LINGER_S

RUN = "bench"
# Long enough to load the largest store on a slow machine.
RECOVERY_TIMEOUT_S = 600.0
_FILL_SLICE = 1_000
_FIRST_NUMBER = 1_000_000  # takes as many bytes as all that follow
_VALUE = {"note": "hello" * 10, "number": 0}


@dataclass(frozen=True)
class Scale:
    """How much a scenario does."""

    keys: int  # in the largest store
    rounds: int
    seconds_s: float  # of a round of a rate; longer phases are multiples of it
    clients: tuple[int, ...]  # processes that are attached at once


@dataclass(frozen=True)
class Measured:
    """One figure, and its place in the scenario's table."""

    row: str
    column: str
    value: float
    unit: str
    higher_is_better: bool = False
    # A figure that chance makes, such as the longest wait: a comparison shows it and does not judge it.
    noisy: bool = False


@dataclass
class Result:
    """All figures of one scenario."""

    name: str
    title: str
    note: str
    figures: list[Measured] = field(default_factory=list)
    series: dict[str, list[Any]] = field(default_factory=dict)  # for plots


class Scenario(ABC):
    """One scenario."""

    name: ClassVar[str]
    title: ClassVar[str]
    note: ClassVar[str] = ""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.result = Result(self.name, self.title, self.note)

    @abstractmethod
    def run(self, directory: Path) -> Result:
        """Measure, with all files in ``directory``, which is removed afterwards."""

    def add(self, row: str, column: str, value: float, unit: str, **more: bool) -> None:
        """Note a figure."""
        self.result.figures.append(Measured(row, column, value, unit, **more))


@contextmanager
def opened(path: Path, durability: str = "buffered", max_bytes: int | None = None) -> Iterator[shoal.Database]:
    """A store that is gone soon after the block: its coordinator does not linger."""
    with shoal.open(
        path, durability=durability, max_bytes=max_bytes, linger=LINGER_S, timeout=RECOVERY_TIMEOUT_S
    ) as db:
        yield db


def key_of(number: int) -> str:
    """The name of a key; ten share a prefix."""
    return f"key-{number:010}"


def value_of(number: int) -> dict[str, Any]:
    """A small value, of the same size for every number below a billion."""
    return {**_VALUE, "number": _FIRST_NUMBER + number}


def fill(db: shoal.Database, run: str, numbers: Iterable[int]) -> None:
    """Put keys in commits of a thousand."""
    remaining = iter(numbers)
    while part := list(islice(remaining, _FILL_SLICE)):
        with db.transaction(run) as txn:
            for number in part:
                txn.kv.put(key_of(number), value_of(number))


def timed(call: Callable[[], object]) -> float:
    """How long a call takes, in seconds."""
    begun_s = time.perf_counter()
    call()
    return time.perf_counter() - begun_s


def times_of(calls: Iterable[Callable[[], object]]) -> list[float]:
    """How long each call takes, in seconds."""
    return [timed(call) for call in calls]


def median(values: Iterable[float]) -> float:
    """The median; there must be a value."""
    return statistics.median(values)

"""How a soak is run: for how long, and what happens to its stores."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

DURABILITIES = ("buffered", "strict")


class Plan(NamedTuple):
    """How a soak is run."""

    seconds: float
    directory: Path
    seed: int
    workers: int = 3
    window_s: float = 8.0
    sample_every_s: float = 5.0
    pause_s: float = 0.001
    mutant: str | None = None  # a fault, to see that it is noticed
    progress: bool = False

    @property
    def longest_stop_s(self) -> float:
        """So long a coordinator is stopped at most, and a worker twice as long."""
        return min(1.0, self.seconds / 10)


class Trouble(NamedTuple):
    """Something that is done now and then: on average every ``every_s``, between two shares of the run."""

    name: str
    every_s: float
    first: float = 0.0
    last: float = 1.0


def troubles(seconds: float, durability: str) -> list[Trouble]:
    """What happens to a store, and how often.

    A coordinator is killed in one half of the run only: in the other it lives on, so that one sees whether it grows.
    """
    half = (0.0, 0.5) if durability == "strict" else (0.5, 1.0)
    found = [
        Trouble("kill_worker", 3.0),
        Trouble("kill_in_effect", 5.0),
        Trouble("kill_watcher", 4.0),
        Trouble("stop_worker", 8.0),
        Trouble("stop_watcher", 15.0),
        Trouble("stop_coordinator", 20.0),
        Trouble("kill_coordinator", 10.0, *half),
    ]
    return [trouble._replace(every_s=min(trouble.every_s, seconds / 3)) for trouble in found]

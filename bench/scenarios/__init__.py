"""What is measured of shoal alone and is no rate of many processes: growth, stalls, recovery, stages.

A new scenario is a class in a file of its own and an entry here. A scenario returns its figures in rows and columns,
from which the tables, plots and comparisons of ``reports`` are made.
"""

from __future__ import annotations

from .backlog import Backlog
from .base import Measured, Result, Scale, Scenario
from .clients import Clients
from .fleet import Fleet
from .growth import Growth
from .recovery import Recovery
from .runs import Runs
from .stages import Stages
from .stall import Stall
from .timeline import Timeline

_KINDS: tuple[type[Scenario], ...] = (Stages, Growth, Runs, Backlog, Fleet, Clients, Timeline, Stall, Recovery)
SCENARIOS: dict[str, type[Scenario]] = {kind.name: kind for kind in _KINDS}

__all__ = ["SCENARIOS", "Measured", "Result", "Scale", "Scenario"]

"""Faults to plant, one switch each, to show that the oracles notice. They live here and nowhere in shoal."""

from tests.mutants import answers, log, reading, recovery, take_over, validation
from tests.mutants.mutant import COORDINATOR, PLANTS, WORKER, Patch, Plant, planted_here

__all__ = [
    "COORDINATOR",
    "PLANTS",
    "WORKER",
    "Patch",
    "Plant",
    "answers",
    "log",
    "planted_here",
    "reading",
    "recovery",
    "take_over",
    "validation",
]

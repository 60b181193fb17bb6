"""Deliberate faults, one switch each, which the checks of the tests must notice: see ``registry``."""

import tests.support.plain_python  # noqa: F401 (first)
from tests.mutants import answers, conditions, leaks, log, reading, recovery, take_over, validation
from tests.mutants.fleet import amounts, holding
from tests.mutants.registry import (
    CONDITIONS,
    COORDINATOR,
    HELPER,
    MUTANTS,
    WORKER,
    Failpoint,
    Mutant,
    Patch,
    in_commits,
    mutated,
)

__all__ = [
    "CONDITIONS",
    "COORDINATOR",
    "HELPER",
    "MUTANTS",
    "WORKER",
    "Failpoint",
    "Mutant",
    "Patch",
    "amounts",
    "answers",
    "conditions",
    "holding",
    "in_commits",
    "leaks",
    "log",
    "mutated",
    "reading",
    "recovery",
    "take_over",
    "validation",
]

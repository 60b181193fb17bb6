"""Faults in what fleets rely on: leases, queues, budgets, what takes place once, watches, retention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal.shm.operation import Decision, OperationTable, Read
from tests.mutants.registry import Patch

Rule = Callable[..., Decision]


def change_rule(patch: Patch, name: str, changed: Callable[..., Decision]) -> None:
    """Have the operation ``name`` decided by ``changed``, which is given the sound rule first."""

    def decide(self: OperationTable, read: Read, now_ms: int, asked: str, arguments: list[Any]) -> Decision:
        if asked != name:
            decision: Decision = sound(self, read, now_ms, asked, arguments)
            return decision
        return changed(self.rules[name], read, now_ms, *arguments)

    sound = patch.set(OperationTable, "decide", decide)

"""What an audit finds: kinds of breaches, and the operations of a window that it compares with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tests.soak.ledger import Operation

LOST, DOUBLED, ANOMALY, UNSOUND, WRONG, LEFT_BEHIND = "lost", "doubled", "anomaly", "unsound", "wrong", "left behind"
KINDS = (LOST, DOUBLED, ANOMALY, UNSOUND, WRONG, LEFT_BEHIND)


class Breach(NamedTuple):
    """Something the store did not keep to."""

    kind: str
    what: str


class Done:
    """The operations of one kind in a window: acknowledged ones and those that nobody was told of."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self.told: list[Operation] = []
        self.open: list[Operation] = []
        for operation in operations:
            {"a": self.told, "": self.open}.get(operation.outcome, []).append(operation)

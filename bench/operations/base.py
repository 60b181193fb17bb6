"""An operation: its data, the step that each worker repeats, and the check that all counted steps took effect."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from ..peers import Session

Step = Callable[[], object]
# The seed of each worker that there was, and how many operations it did.
BySeed = Sequence[tuple[int, int]]


class Operation(ABC):
    """One kind of work. A step does ``batch`` operations, so that reading the clock adds little to quick ones."""

    name: ClassVar[str]
    title: ClassVar[str]
    batch: ClassVar[int] = 1
    # Reads are measured at one durability only, because they do not depend on it.
    writes: ClassVar[bool] = True
    # Whether all workers compete for one thing, so that it matters how evenly they get it.
    competes: ClassVar[bool] = False

    def items(self) -> dict[str, Any]:
        """The keys and values that are loaded into the store."""
        return {}

    @abstractmethod
    def targets(self) -> list[str]:
        """The keys, prefixes or runs that the steps work on; made once, before the workers are forked."""

    def warm_up(self, session: Session, targets: Sequence[str]) -> None:  # noqa: B027 (most need none)
        """Bring a worker into the state of one that has been at work for a while."""

    def prepare(self, session: Session, targets: Sequence[str]) -> None:  # noqa: B027 (most need none)
        """Make in a loaded store what no key of ``items`` can hold; called once."""

    def batch_of(self, session: Session) -> int:
        """How many operations a step does in this session."""
        return self.batch

    @abstractmethod
    def step(self, session: Session, targets: Sequence[str], worker: int, seed: int) -> Step:
        """The function that a worker repeats."""

    @abstractmethod
    def check(self, session: Session, targets: Sequence[str], operations: int, by_seed: BySeed = ()) -> None:
        """Raise ``BenchError`` unless the store is as ``operations`` of this kind leave it (0: as it was loaded).

        ``by_seed`` tells them apart by worker, for operations that cannot be told from their number alone.
        """

"""What an operation is: the data, the step each worker repeats, and the proof that the steps counted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from .peers import Session

Step = Callable[[], object]


class Operation(ABC):
    """One kind of work. A step does ``batch`` operations, so that reading the clock costs a quick one nothing."""

    name: ClassVar[str]
    title: ClassVar[str]
    batch: ClassVar[int] = 1
    # Reads are measured at one durability only: it makes no difference to them.
    writes: ClassVar[bool] = True

    def items(self) -> dict[str, Any]:
        """The keys and values the store holds before."""
        return {}

    @abstractmethod
    def targets(self) -> list[str]:
        """What the steps work on: keys, prefixes or runs; made once, before the workers are forked."""

    def warm_up(self, session: Session, targets: Sequence[str]) -> None:  # noqa: B027 (most need none)
        """What a worker has done long before it is measured."""

    @abstractmethod
    def step(self, session: Session, targets: Sequence[str], worker: int, seed: int) -> Step:
        """What a worker repeats."""

    @abstractmethod
    def check(self, session: Session, targets: Sequence[str], operations: int) -> None:
        """Raise ``BenchError`` unless the store is as ``operations`` of these must leave it (0: as it was loaded)."""

"""What a plant is: a fault that is put into shoal's own classes, in this process, and taken out again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

COORDINATOR, WORKER = "coordinator", "worker"


class Patch:
    """Replaces attributes and puts them back."""

    def __init__(self) -> None:
        self.replaced: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> Any:
        """Give ``owner`` another attribute ``name``; the one it had."""
        sound = vars(owner)[name]
        self.replaced.append((owner, name, sound))
        setattr(owner, name, value)
        return sound

    def restore(self) -> None:
        """Put everything back."""
        while self.replaced:
            setattr(*self.replaced.pop())


class Plant(NamedTuple):
    """One fault: ``side`` is the process it belongs in, ``breaks`` what it breaks, for people."""

    name: str
    area: str
    side: str
    breaks: str
    install: Callable[[Patch], None]


PLANTS: dict[str, Plant] = {}


def plant(area: str, side: str = COORDINATOR) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Register a function as the plant of its name; its docstring says what it breaks."""

    def register(install: Callable[[Patch], None]) -> Callable[[Patch], None]:
        breaks = (install.__doc__ or "").strip().splitlines()[0]
        assert breaks
        assert install.__name__ not in PLANTS
        PLANTS[install.__name__] = Plant(install.__name__, area, side, breaks, install)
        return install

    return register


@contextlib.contextmanager
def planted_here(name: str | None) -> Iterator[None]:
    """This process has the fault ``name`` meanwhile, or none."""
    patch = Patch()
    try:
        if name is not None:
            PLANTS[name].install(patch)
        yield
    finally:
        patch.restore()

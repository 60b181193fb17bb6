"""What a fuzz target is, and how targets take their inputs apart.

An input is bytes; where it is msgpack of a list, it is a script: a target's parts, so that a mutation of one part
leaves lengths and checksums around it right and gets past them. Any other input is the raw bytes of the format.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack


class Target(NamedTuple):
    """A decoder under test. ``run`` returns, or raises what the decoder should not have raised."""

    name: str
    about: str
    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


TARGETS: dict[str, Target] = {}


def target(seeds: Callable[[], list[bytes]]) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    """Register a function as the target of its name; ``seeds`` builds the inputs to start from."""

    def register(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        name = run.__name__
        assert name not in TARGETS
        assert run.__doc__, "say what must hold"
        TARGETS[name] = Target(name, run.__doc__.strip().splitlines()[0], run, seeds)
        return run

    return register


def script(*parts: Any) -> bytes:
    """An input of these parts."""
    raw: bytes = msgpack.packb(list(parts))
    return raw


def parts_of(data: bytes) -> list[Any] | None:
    """The parts of a script, None if the input is none."""
    try:
        parts = msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, TypeError):  # no msgpack; a list as a key
        return None
    return parts if type(parts) is list else None


def part(parts: list[Any], i: int, kind: type, default: Any) -> Any:
    """Part ``i`` if it is there and of that type."""
    return parts[i] if i < len(parts) and type(parts[i]) is kind else default


def word(parts: list[Any], i: int) -> int:
    """Part ``i`` as a number of 64 bits."""
    return int(part(parts, i, int, 0)) % 2**64


def encoded(tree: Any) -> bytes:
    """A part as bytes: as they are, or msgpack of whatever else it is."""
    return tree if type(tree) is bytes else msgpack.packb(tree)

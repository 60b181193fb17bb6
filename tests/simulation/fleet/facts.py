"""What clients of a fleet did and were told, for the checks to compare with the log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shoal.primitives.rules.layouts.parts import name_part, run_part

FLEET = "fleet"
# What the engine's keys of the run begin with (``primitives.keys``): namespace and run, and for KV its tag.
PREFIX = 3 * name_part(b"default") + run_part(FLEET.encode())
KV = PREFIX + b"\1"
UNKNOWN, COMMITTED, FENCED = "unknown", "committed", "fenced"


@dataclass
class Fact:
    """One thing that one client did.

    - ``kind``: "fenced", "settled", "keyed", "called", "once", "watched", "pipelined", "appended", "retained".
    - ``about``: what it was done to, by the names that users know; each kind has its own.
    - ``commit``: client id and commit id, once a commit of its own was sent.
    - ``outcome``: what its client was told. ``version``: the commit version that it was told.
    """

    kind: str
    who: str
    boot: int
    about: tuple[Any, ...]
    commit: tuple[int, int] | None = None
    outcome: str = UNKNOWN
    version: int = 0
    seen: list[Any] = field(default_factory=list)

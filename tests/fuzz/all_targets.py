"""Every target, by name."""

from __future__ import annotations

from tests.fuzz import durable, engine, exports, pipes, stored
from tests.fuzz.target import TARGETS

__all__ = ["TARGETS", "durable", "engine", "exports", "pipes", "stored"]

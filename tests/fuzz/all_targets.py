"""Every target, by name."""

from __future__ import annotations

from tests.fuzz.target import TARGETS
from tests.fuzz.targets import durable, engine, exports, pipes, stored

__all__ = ["TARGETS", "durable", "engine", "exports", "pipes", "stored"]

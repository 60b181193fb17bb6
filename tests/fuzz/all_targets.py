"""Every target, by name."""

from __future__ import annotations

from . import durable, engine, exports, pipes, stored
from .target import TARGETS

__all__ = ["TARGETS", "durable", "engine", "exports", "pipes", "stored"]

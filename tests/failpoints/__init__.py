"""SIGKILL at named places of shoal: ``python -m tests.failpoints``."""

from tests.failpoints.places import FAILPOINTS

__all__ = ["FAILPOINTS"]

"""SIGKILL at named places of shoal: ``python -m tests.failpoints``."""

import tests.support.plain_python  # noqa: F401 (first)
from tests.failpoints.places import FAILPOINTS

__all__ = ["FAILPOINTS"]

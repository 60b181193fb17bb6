"""Limits that tests may make smaller."""

from __future__ import annotations

import re

import pytest

from shoal.shm.limits import Limits
from tests.support.repository import FLOORS, ROOT

pytestmark = pytest.mark.plain


def test_every_limit_is_used() -> None:
    """The product reads each field somewhere: one that nothing reads would bound nothing."""
    files = [path for floor in (*FLOORS, "shoal") for path in (ROOT / floor).rglob("*.py") if path.name != "limits.py"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    assert [name for name in Limits._fields if not re.search(rf"\.{name}\b", text)] == []

"""``EngineTransaction``: what a signal may leave of one."""

from __future__ import annotations

import gc
import sys
from typing import Any

import pytest

from shoal.workers.shared_memory.transaction import EngineTransaction


def test_one_that_was_never_begun_is_dropped_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler may raise before the first statement of ``__init__``; nothing is printed on stderr then."""
    ignored: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    transaction = EngineTransaction.__new__(EngineTransaction)
    del transaction
    gc.collect()
    assert ignored == []

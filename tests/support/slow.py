"""Parts of a matrix that the default run leaves out: each way once by default, all combinations with ``--slow``."""

from __future__ import annotations

from typing import Any

import pytest


def slow(*values: Any) -> list[Any]:
    """Parameters for ``pytest.mark.parametrize`` that run with ``--slow`` only; a tuple is several arguments."""
    return [pytest.param(*(value if type(value) is tuple else (value,)), marks=pytest.mark.slow) for value in values]

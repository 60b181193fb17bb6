"""The store that is written to when something comes between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import shoal


@pytest.fixture
def db(store: Path) -> Iterator[shoal.Database]:
    with shoal.open(store, linger=0.05) as opened:
        yield opened

"""Both engines, each with all the primitives over it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import shoal

from .toy_engine import ToyStore


@pytest.fixture(scope="session")
def toy_db() -> Iterator[shoal.Database]:
    """A database over a dict."""
    store: Any = ToyStore()  # without what no primitive uses
    with shoal.Database(store) as database:
        yield database


@pytest.fixture(params=["shared memory", "dict"])
def any_db(request: pytest.FixtureRequest) -> shoal.Database:
    """A database over each engine; ``run`` keeps tests apart."""
    found: shoal.Database = request.getfixturevalue("memory_db" if request.param == "shared memory" else "toy_db")
    return found


@pytest.fixture
def space(run: str) -> shoal.Namespace:
    """A namespace no other test uses."""
    return shoal.Namespace(tenant=run)

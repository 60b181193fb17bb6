"""Exports, and stores to import them into."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import shoal
from tests.support.stores.full_store import export, fill

DB = shoal.Database
SPACE = shoal.Namespace("acme", "x/y", "\0")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[shoal.Database]:
    """A store with something of everything in two namespaces; nobody changes it."""
    with shoal.open(tmp_path_factory.mktemp("full") / "store", durability="memory", linger=0.2) as db:
        fill(db)
        fill(db, SPACE)
        yield db


@pytest.fixture(scope="module")
def exported(full: shoal.Database) -> bytes:
    """The export of it."""
    return export(full)


@pytest.fixture(scope="module")
def leased(full: shoal.Database) -> bytes:
    """An export with leases, which an import gives to nobody."""
    with full.lease("parent", "a"), full.lease("parent", "b", slots=2), full.lease("parent", "b", slots=2):
        return export(full)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[shoal.Database]:
    """A store to import into."""
    with shoal.open(tmp_path_factory.mktemp("target") / "store", durability="memory", linger=0.2) as db:
        yield db


@pytest.fixture
def empty(target: shoal.Database) -> shoal.Database:
    """The same with nothing in it."""
    target._store.auto_commit.clear(b"\0", b"\xff")
    return target

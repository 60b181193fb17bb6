"""A facade of each kind."""

from __future__ import annotations

import pytest

import shoal


class Stores:
    """A facade of each kind, in a namespace of the test's own."""

    def __init__(self, db: shoal.Database, space: shoal.Namespace) -> None:
        self.db, self.space = db, space
        self.kv = shoal.KVStore(db, namespace=space)
        self.events = shoal.EventLog(db, namespace=space)
        self.state = shoal.StateCell(db, namespace=space)
        self.traces = shoal.TraceStore(db, namespace=space)
        self.runs = shoal.RunIndex(db, namespace=space)

    def transaction(self) -> shoal.Transaction:
        return self.db.transaction("r", namespace=self.space)


@pytest.fixture
def of(any_db: shoal.Database, space: shoal.Namespace) -> Stores:
    return Stores(any_db, space)

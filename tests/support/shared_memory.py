"""The store beneath a database, for tests that reach below ``shoal.Database``."""

from __future__ import annotations

import shoal
from shoal.shared_memory_store import SharedMemoryStore


def store_of(db: shoal.Database) -> SharedMemoryStore:
    store = db._store
    assert isinstance(store, SharedMemoryStore)
    return store

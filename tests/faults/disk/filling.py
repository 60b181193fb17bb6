"""What fills a store, and what empties it again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import shoal

RUN = "space"
MIB = 1 << 20
TIMEOUT_S = 60.0
SECONDS = 5.0  # "make room within seconds"


def fill(kv: shoal.KVStore, prefix: str, value: bytes, most: int = 1_000_000) -> list[str]:
    """Put until the store is full, many at a time while there is room for many; the keys that were accepted."""
    accepted: list[str] = []
    batch = max(1, min(50, 20_000 // (len(value) + 1)))
    while len(accepted) < most:
        keys = [f"{prefix}{len(accepted) + i:07}" for i in range(batch)]
        try:
            with kv.transaction(RUN) as txn:
                for key in keys:
                    txn.kv.put(key, value)
        except shoal.StoreFullError:
            if batch == 1:
                return accepted
            batch = 1
        else:
            accepted += keys
    raise AssertionError(f"{most} puts and the store is not full")


def delete_all(kv: shoal.KVStore, keys: list[str], one_by_one: int = 100) -> None:
    """Delete the keys, so many of the first one by one; none may be refused."""
    for key in keys[:one_by_one]:
        assert kv.delete(RUN, key)
    for start in range(one_by_one, len(keys), 50):
        with kv.transaction(RUN) as txn:
            assert all(txn.kv.delete(key) for key in keys[start : start + 50])


def soon(call: Callable[[], Any]) -> None:
    """``call`` goes through within seconds, StoreFullError meanwhile aside."""
    until_s = time.monotonic() + SECONDS
    while True:
        try:
            call()
            return
        except shoal.StoreFullError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.02)

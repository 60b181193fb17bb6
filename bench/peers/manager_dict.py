"""A dict in a ``multiprocessing.Manager``: the standard library's way of sharing, without anything on disk."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.managers import DictProxy, SyncManager
from threading import Lock
from typing import Any, ClassVar

from ..host import signals
from .base import Peer, Session


class ManagerSession(Session):
    """The parent's proxies; the standard library makes them connect anew after a fork."""

    def __init__(self, values: DictProxy[str, Any], lock: Lock) -> None:
        self._values = values
        self._lock = lock

    def get(self, key: str) -> Any:
        """``Session.get``."""
        return self._values[key]

    def put(self, key: str, value: Any) -> None:
        """``Session.put``."""
        self._values[key] = value

    def rmw(self, key: str) -> None:
        """``Session.rmw``: holds the manager's lock, one for all keys."""
        with self._lock:
            self._values[key] = self._values[key] + 1

    def think(self, key: str, seconds: float) -> None:
        """``Session.think``: holds the manager's lock meanwhile."""
        with self._lock:
            value = self._values[key]
            time.sleep(seconds)
            self._values[key] = value + 1

    def pipelined(self, pairs: Sequence[tuple[str, Any]]) -> None:
        """``Session.pipelined``: one at a time, since a proxy waits for every answer."""
        for key, value in pairs:
            self._values[key] = value

    def hot(self, key: str, function: Callable[[int], int]) -> None:
        """``Session.hot``: holds the manager's lock."""
        with self._lock:
            self._values[key] = function(self._values[key])


class ManagerDict(Peer):
    """One process that holds the dict, with a thread for each client."""

    name = "Manager dict"
    session_type = ManagerSession
    missing: ClassVar[Mapping[str, str]] = {"scan": "a dict has no order to scan in"}
    settings: ClassVar[Mapping[str, str]] = {"buffered": "no durability at all"}
    caches_reads = False

    _manager: SyncManager | None = None

    @classmethod
    def lacks(cls, operation: str, durability: str) -> str | None:
        """As in every peer. The manager keeps nothing on disk, so it is compared with the weakest durability only."""
        if durability == "strict" and operation not in cls.missing:
            return "no durability at all"
        return super().lacks(operation, durability)

    def start(self, items: Mapping[str, Any]) -> None:
        """Start the manager's process."""
        manager = SyncManager(ctx=multiprocessing.get_context("fork"))
        with signals.held_back():
            manager.start(initializer=signals.end_with_parent)
            self._manager = manager
        self._values = manager.dict()
        self._values.update(items)
        self._lock = manager.Lock()

    def connect(self) -> Session:
        """The proxies that the worker has inherited."""
        return ManagerSession(self._values, self._lock)

    def stop(self) -> None:
        """End the manager's process."""
        if self._manager is not None:
            self._manager.shutdown()

"""The interface of a store that is measured.

A ``Peer`` is a store in a directory, held by the parent process. A ``Session`` is one worker's attachment to it, with a
method for each operation, of the operation's name. An operation that a session does not have is not measured; the
tables give the reason, from ``Peer.missing``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

DURABILITIES = ("buffered", "strict")
# Commits under way at once where commits are pipelined: the same for every store that can.
PIPELINE_DEPTH = 64


class BenchError(Exception):
    """Raised if a run gives no figures or wrong ones. It ends the benchmark with one line."""


class Session:
    """One worker's attachment. Keys are texts, as applications have them; values plain Python objects."""

    # Whether ``pipelined`` has several commits under way at once.
    pipelines: ClassVar[bool] = False

    def get(self, key: str) -> Any:
        """The decoded value of a key, in a read transaction of its own."""
        raise NotImplementedError

    def scan(self, prefix: str) -> list[tuple[str, Any]]:
        """Keys, as text, and decoded values of all keys that begin with ``prefix``, sorted."""
        raise NotImplementedError

    def put(self, key: str, value: Any) -> None:
        """Write a key, in a commit of its own."""
        raise NotImplementedError

    def rmw(self, key: str) -> None:
        """Read an integer and write it back plus one, in a transaction that loses no other worker's addition."""
        raise NotImplementedError

    def append(self, run: str, event_type: str, payload: Any) -> None:
        """Append an event to a run's log: sequence without gaps, hash over the event and the hash before."""
        raise NotImplementedError

    def think(self, key: str, seconds: float) -> None:
        """As ``rmw``, and between read and write the worker thinks for so long, as an agent waits for its model."""
        raise NotImplementedError

    def pipelined(self, pairs: Sequence[tuple[str, Any]]) -> None:
        """Write each pair in a commit of its own. A store that can sends further ones before it has an answer.

        What is under way when this returns is acknowledged when ``close`` returns.
        """
        raise NotImplementedError

    def hot(self, key: str, function: Callable[[int], int]) -> None:
        """Give the one key that all workers change the value that ``function``, Python code, makes of its value."""
        raise NotImplementedError

    def make_hot(self, key: str) -> None:
        """Bring the key that all workers change to 0. It was loaded as a key already; some need more."""

    def hot_value(self, key: str) -> int:
        """The value of the key that all workers change."""
        value: int = self.get(key)
        return value

    def log_length(self, run: str) -> int:
        """The number of events in the run's log; ``BenchError`` unless every sequence and hash is right."""
        raise NotImplementedError

    def cas(self, run: str, name: str, version: int, value: Any) -> int:
        """Give a cell that is at ``version`` a value; the new version."""
        raise NotImplementedError

    def create_cell(self, run: str, name: str) -> int:
        """Make a cell; its version, 1."""
        raise NotImplementedError

    def version(self, run: str, name: str) -> int:
        """The version of a cell, 0 if there is none."""
        raise NotImplementedError

    def trace(self, run: str, content: str, tag: str) -> None:
        """Record a thought with a tag, to be found by its id, type, tag and time."""
        raise NotImplementedError

    def trace_count(self, run: str, tag: str) -> int:
        """The number of traces of the run that are found by a tag."""
        raise NotImplementedError

    def cross(self, run: str, name: str, event_type: str, payload: Any, content: str, tag: str) -> None:
        """In one transaction: put ``payload`` at the key ``name`` and append it, set the cell ``name``, trace."""
        raise NotImplementedError

    def queue(self, queue: str, payload: Any) -> None:
        """Put a task into a queue, claim the first one that nobody has, and complete that: three commits."""
        raise NotImplementedError

    def tasks(self, queue: str) -> tuple[int, int]:
        """How many tasks of a queue are done, and how many are not."""
        raise NotImplementedError

    def close(self) -> None:
        """Detach, once everything is acknowledged. Raises what a commit under way failed with."""


class Peer(ABC):
    """A store in a fresh directory, at one durability."""

    name: ClassVar[str]
    session_type: ClassVar[type[Session]]
    # By operation: the reason why it is not measured.
    missing: ClassVar[Mapping[str, str]] = {}
    # By durability: how the peer is set up for it. The peer does not have the durabilities that are not named.
    settings: ClassVar[Mapping[str, str]]
    # Whether a session reads a key faster the second time. Only then its keys are read before they are measured.
    caches_reads: ClassVar[bool] = True

    def __init__(self, directory: Path, durability: str) -> None:
        self.directory = directory
        self.durability = durability

    @classmethod
    def lacks(cls, operation: str, durability: str) -> str | None:
        """Why this peer cannot be measured on an operation; None if it can."""
        if operation in cls.missing:
            return cls.missing[operation]
        if getattr(cls.session_type, operation, None) is getattr(Session, operation, None):
            return "the operation is not written for it"
        if durability not in cls.settings:
            return f"it has no durability like {durability}"
        return None

    @abstractmethod
    def start(self, items: Mapping[str, Any]) -> None:
        """Make the store and load ``items``. Nothing may stay open that does not survive a fork."""

    @abstractmethod
    def connect(self) -> Session:
        """Attach; called in the worker."""

    def stop(self) -> None:  # noqa: B027 (most have nothing to stop)
        """Leave no process behind; called in the parent, also when ``start`` failed halfway."""

"""How far the consumers of an event log are: keys, records, and what a commit of a position needs.

    position    the run's prefix, the tag CONSUMER, 0x00, the consumer's name    msgpack of the next sequence
    holder      the run's prefix, the tag CONSUMER, 0x01, the consumer's name    a record of ``rules.lease_rules``

Invariants: a position is written only by a transaction that is fenced with the holder's record, so by one process at a
time. There is none before the first commit: the consumer begins at event 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from shoal.primitives.engine import Engine, EngineTransaction
from shoal.primitives.keys import Namespace, after, decode_text, encode_text
from shoal.primitives.rules.tags import Tag
from shoal.shm import codec
from shoal.shm.arguments import check_int
from shoal.shm.errors import CorruptionError

_POSITION, _HOLDER = (bytes((Tag.CONSUMER, kind)) for kind in range(2))


class Consuming(Protocol):
    """A consumer, as a transaction sees it."""

    @property
    def _log_prefix(self) -> bytes:
        """What every key of its log begins with."""
        ...

    def _commit_in(self, transaction: EngineTransaction, position: int) -> None:
        """Write its position with ``transaction``, which is fenced with its name."""
        ...


def position_key(namespace: Namespace, run_id: str, name: str) -> bytes:
    """Where the position of a consumer is."""
    return namespace._run_prefix(run_id) + _POSITION + encode_text("name", name)


def holder_key(namespace: Namespace, run_id: str, name: str) -> bytes:
    """Where the process that holds the name of a consumer is noted."""
    return namespace._run_prefix(run_id) + _HOLDER + encode_text("name", name)


def read_position(engine: Engine, key: bytes) -> int:
    """A consumer's position, 0 before its first commit."""
    found = engine.find(key)
    return 0 if found is None else _decode(found.value)


def write_position(engine: Engine, key: bytes, position: int) -> None:
    """Write a consumer's position."""
    engine.put(key, codec.pack(position))


def positions(engine: Engine, namespace: Namespace, run_id: str) -> Iterator[tuple[str, int]]:
    """Name and position of each consumer of a run that has committed, by name."""
    prefix = namespace._run_prefix(run_id) + _POSITION
    for key, found in engine.scan(prefix, after(prefix)):
        yield decode_text(key[len(prefix) :]), _decode(found.value)


def check_commit(consumer: Consuming, log_prefix: bytes, sequence: int) -> int:
    """``sequence``, if a transaction on the log of ``log_prefix`` can commit it for ``consumer``.

    Raises ``TypeError`` or ``ValueError``.
    """
    if not hasattr(consumer, "_commit_in"):
        raise TypeError(f"consumer has type {type(consumer).__name__}; give what events.consumer returns")
    if consumer._log_prefix != log_prefix:
        raise ValueError("the consumer is of the log of another run or namespace; commit with txn.on(run_id).events")
    return check_int("sequence", sequence)


def _decode(raw: bytes) -> int:
    try:
        position = codec.unpackb(raw)
    except ValueError:
        position = None
    if type(position) is not int or position < 0:
        raise CorruptionError("the position of a consumer", 0, "a sequence", f"{len(raw)} bytes of something else")
    return position

"""The records of consumers in an export: how far each one is in its run's event log.

    consumer    name position

Who holds the name of a consumer belongs to a process, and is not in an export.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from shoal.primitives.engine import Engine
from shoal.primitives.keys import Namespace, encode_text
from shoal.primitives.rules.event_rules import LARGEST_SEQUENCE
from shoal.primitives.views.fleet.positions import position_key, positions, write_position
from shoal.shm.errors import AlreadyExistsError
from shoal.transfer.fields import RecordKind, check_names


class ConsumerPosition(NamedTuple):
    """A consumer of a run, and the first event that it has not done."""

    name: str
    position: int


def read(engine: Engine, namespace: Namespace, run_id: str) -> Iterator[ConsumerPosition]:
    """The consumers of a run, by name."""
    for name, position in positions(engine, namespace, run_id):
        yield ConsumerPosition(name, position)


def show(consumer: ConsumerPosition) -> dict[str, Any]:
    """Its fields."""
    return consumer._asdict()


def make(run_id: str, fields: dict[str, Any]) -> ConsumerPosition:
    """The record with these fields; ``ValueError`` if it has others, or no position."""
    check_names("consumer", fields, ConsumerPosition._fields)
    position = fields["position"]
    if type(position) is not int or not 0 <= position <= LARGEST_SEQUENCE:
        raise ValueError(f"position is {position!r:.100}, not the sequence of an event")
    return ConsumerPosition(**fields)


def size(prefix: bytes, consumer: ConsumerPosition) -> int:
    """A bound of the bytes it takes in a commit. Checks its name, as ``EventLog.consumer`` does."""
    return len(prefix) + len(encode_text("name", consumer.name)) + 64


def restore(engine: Engine, namespace: Namespace, run_id: str, consumer: ConsumerPosition) -> None:
    """Write its position; ``AlreadyExistsError`` if it has one."""
    key = position_key(namespace, run_id, consumer.name)
    if engine.find(key) is not None:
        raise AlreadyExistsError(f"consumer {consumer.name!r} exists; restore it into a run that has no such consumer")
    write_position(engine, key, consumer.position)


KIND = RecordKind(show, make, size, read, restore, lambda consumer: (consumer.name, 0))

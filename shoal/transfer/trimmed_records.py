"""The record of a trimmed event log in an export: where the log begins, so that it goes on as it was.

    trimmed     first_sequence prev_hash origin chain timestamp         before the events of the log, if any are left

``timestamp`` is that of the last event if all were trimmed, else 0. Hashes are in hex.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from shoal.primitives.engine import Engine
from shoal.primitives.keys import Namespace
from shoal.primitives.rules.hash_chain import CHAINS
from shoal.primitives.views import events
from shoal.primitives.views.events import EventView
from shoal.transfer.fields import Fields, RecordKind, check_names, check_whole, hash_of


class Trimmed(NamedTuple):
    """Where a trimmed log begins: its first sequence, the hash before it, the hash of event 0."""

    first_sequence: int
    prev_hash: bytes
    origin: bytes
    chain: str
    timestamp: int


def facts(engine: Engine, namespace: Namespace, run_id: str) -> Iterator[Trimmed]:
    """The record of a run's log, if it was trimmed."""
    beginning, metadata = events.trimmed(EventView(engine, namespace, run_id))
    if beginning.sequence:
        timestamp = metadata.timestamp if beginning.sequence == metadata.next_sequence else 0
        yield Trimmed(*beginning, metadata.chain, timestamp)


def show(trimmed: Trimmed) -> Fields:
    """Its fields."""
    return trimmed._asdict() | {"prev_hash": trimmed.prev_hash.hex(), "origin": trimmed.origin.hex()}


def make(run_id: str, fields: Fields) -> Trimmed:
    """The record whose fields these are."""
    check_names("trimmed", fields, Trimmed._fields)
    check_whole("first_sequence", fields["first_sequence"], 1)
    check_whole("timestamp", fields["timestamp"], 0)
    if not isinstance(fields["chain"], str) or fields["chain"] not in CHAINS:
        raise ValueError(f"chain is {fields['chain']!r:.100}; it is one of {', '.join(CHAINS)}")
    hashes = {name: hash_of(fields[name]) for name in ("prev_hash", "origin")}
    return Trimmed(**{**fields, **hashes})


def size(prefix: bytes, trimmed: Trimmed) -> int:
    """A bound of the bytes it takes in a commit."""
    return 2 * len(prefix) + 512


def restore(engine: Engine, namespace: Namespace, run_id: str, trimmed: Trimmed) -> None:
    """Have the log begin there; ``ValueError`` if it has begun."""
    *beginning, chain, timestamp = trimmed
    events.begin_trimmed(EventView(engine, namespace, run_id), beginning, chain, timestamp)


KIND = RecordKind(show, make, size, facts, restore, lambda trimmed: ("", 0))

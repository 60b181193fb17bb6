"""The records of leases in an export: facts of who held what when it was made.

    lease       name token slot pid ttl_ms          times in ms

A lease is of a process, so an import gives it to nobody. But it raises the tokens of the store above those in it: what
refuses lower tokens outside goes on to refuse those that were given out before the export.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from shoal.primitives.engine import Engine
from shoal.primitives.facades.leases import holders
from shoal.primitives.keys import Namespace, encode_text
from shoal.primitives.rules import requests
from shoal.transfer.fields import Fields, RecordKind, check_count_on, check_names, check_whole


class LeaseFact(NamedTuple):
    """One holder of a lease when the export was made."""

    name: str
    token: int
    slot: int
    pid: int
    ttl_ms: int


def facts(engine: Engine, namespace: Namespace, run_id: str) -> Iterator[LeaseFact]:
    """Who holds which leases of a run, by name, then token."""
    for name, holder in holders(engine, namespace, run_id):
        yield LeaseFact(name, holder.token, holder.slot, holder.pid, holder.ttl_ms)


def show(fact: LeaseFact) -> dict[str, Any]:
    """Its fields."""
    return fact._asdict()


def make(run_id: str, fields: Fields) -> LeaseFact:
    """The lease of these fields; ``ValueError`` for others."""
    check_names("lease", fields, LeaseFact._fields)
    for name in LeaseFact._fields[1:]:
        check_whole(name, fields[name], 0)
    check_count_on("token", fields["token"])
    return LeaseFact(**fields)


def size(prefix: bytes, fact: LeaseFact) -> int:
    """A bound of the bytes it takes in a commit. Checks its name, as ``lease`` does."""
    return len(prefix) + len(encode_text("name", fact.name)) + 64


def restore(engine: Engine, namespace: Namespace, run_id: str, fact: LeaseFact) -> None:
    """Raise the tokens of the store above it."""
    requests.raise_tokens(engine, fact.token)


KIND = RecordKind(show, make, size, facts, restore, lambda fact: (fact.name, fact.token))

"""Leases: named claims of a run, each held by as many as have slots, and what fences a transaction with one.

``rules.lease_rules`` has the record and the rules; the port ``Holding`` keeps what is held. ``Database.lease`` and
``Database.leases`` are the public calls.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn

from shoal.primitives.engine import Engine, EngineTransaction, Store, Transactions
from shoal.primitives.keys import Namespace, Tag, after, check_namespace, decode_text, encode_text
from shoal.primitives.rules import requests
from shoal.primitives.rules.lease_rules import LeaseHolder, check_held, decode_record
from shoal.primitives.transaction import Fence
from shoal.shm.arguments import check_count, check_positive_seconds, check_wait, text_of
from shoal.shm.clock import now_ms
from shoal.shm.errors import ShoalError
from shoal.shm.fleet_errors import FencedError
from shoal.shm.host.randomness import random_id
from shoal.shm.limits import MAX_INTEGER

_TAG = bytes((Tag.LEASE,))


@dataclass(frozen=True)
class LeaseInfo:
    """One holder of a lease, as ``Database.leases`` lists it.

    - ``name`` (str): the name of the lease.
    - ``token`` (int): higher than that of everybody who held it before.
    - ``slot`` (int): from 0 on; no two holders of a lease have the same.
    - ``pid`` (int): the process that holds it.
    - ``expires_at`` (int): when it ends if its process does not answer from now on; ms since the epoch (UTC). It is
      moved on as long as the process renews it.

    >>> LeaseInfo("deploy", 3, 0, 4711, 1_700_000_030_000).slot
    0
    """

    name: str
    token: int
    slot: int
    pid: int
    expires_at: int


class Lease:
    """A lease that this process holds: what ``Database.lease`` returns. A context manager, which releases it.

    To enter one that was released is ``FencedError``: take it again.

    - ``token`` (int): give it to what is outside the store, which can refuse lower ones. Tokens only rise, in the whole
      store, also over the deletion of a run.
    - ``slot`` (int): from 0 to ``slots`` - 1; no two holders have the same.
    - ``name`` (str): the name of the lease.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     lease = db.lease("run-1", "leader")
    ...     lease.release()
    ...     try:
    ...         db.transact("run-1", lambda txn: txn.kv.put("leader", "me"), fence=lease)
    ...     except shoal.FencedError as error:
    ...         print(error.name, error.token)
    leader 1
    """

    __slots__ = ("_holder", "_holding", "_key", "_released", "_ticket", "name", "slot", "token")

    def __init__(
        self, store: Transactions, key: bytes, name: str, ticket: int, holder: int, token: int, slot: int
    ) -> None:
        self._holding = store.holding
        self._key = key
        self._ticket = ticket
        self._holder = holder
        self._released = False
        self.name = text_of(name)
        self.token = token
        self.slot = slot

    def __enter__(self) -> Lease:
        if self._released:  # the block would do its work with nothing held
            raise FencedError(self.name, self.token)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.release()
        except ShoalError:  # then it is released as soon as a coordinator answers
            raise
        except BaseException:
            self._release_later()
            raise

    def __repr__(self) -> str:
        return f"<shoal.Lease {self.name!r} token={self.token} slot={self.slot}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a lease belongs to the process that took it and cannot be copied or pickled; take one there")

    def release(self) -> None:
        """Release it. Does nothing the second time, in a forked child (which does not hold it), or when it has ended.

        Raises ``CoordinatorLostError`` if no coordinator answers; it is released then as soon as one does.
        """
        if not self._released and self._holding.holder == self._holder:
            requests.release_lease(self._holding, self._key, self._ticket)
            self._released = True  # last: a call that a signal handler interrupts is completed by the next one

    def _release_later(self) -> None:
        """A signal handler has raised where nobody releases it again: it is released soon, and this does not wait."""
        if self._holding.holder == self._holder:
            requests.release_lease_later(self._holding, self._key, self._ticket)

    def _check_held(self, engine: Engine) -> None:
        """Raise ``FencedError`` unless this process holds it, as ``engine`` reads."""
        found = engine.find(self._key)
        holders = decode_record(None if found is None else found.value)
        check_held(holders, self.name, self._holding.holder, self.token)

    def _require(self, transaction: EngineTransaction) -> None:
        requests.fence_lease(transaction, self._holding.holder, self._key, self.name, self.token)


def take(
    store: Store, namespace: Namespace, run_id: str, name: str, ttl: float, wait: float | None, slots: int
) -> Lease:
    """``Database.lease``."""
    key = _prefix(namespace, run_id) + encode_text("name", name)
    ttl_s = check_positive_seconds("ttl", ttl)
    give_up_s = time.monotonic() + check_wait("wait", wait)
    slots = min(check_count("slots", slots, 1), MAX_INTEGER)
    return take_key(store, key, name, slots, ttl_s, give_up_s)


def take_key(store: Transactions, key: bytes, name: str, slots: int, ttl_s: float, give_up_s: float) -> Lease:
    """Take the lease whose record is at ``key``; its users know it by ``name``."""
    ticket, holder = random_id(), store.holding.holder
    token, slot = requests.take_lease(store.holding, key, name, slots, ttl_s, ticket, give_up_s)
    try:
        return Lease(store, key, name, ticket, holder, token, slot)
    except BaseException:  # a signal handler's: nobody has got the lease
        requests.release_lease_later(store.holding, key, ticket)
        raise


def held(store: Store, namespace: Namespace, run_id: str) -> list[LeaseInfo]:
    """``Database.leases``."""
    found = list(holders(store.auto_commit, namespace, run_id))
    if found:
        store.holding.see_ends()
        found = list(holders(store.auto_commit, namespace, run_id))
    if not found:
        return []
    ages = store.holding.ages_ms([holder.holder for _, holder in found])
    now = now_ms()
    return [
        LeaseInfo(name, holder.token, holder.slot, holder.pid, now + max(0, holder.ttl_ms - (age or 0)))
        for (name, holder), age in zip(found, ages, strict=True)
    ]


def holders(engine: Engine, namespace: Namespace, run_id: str) -> Iterator[tuple[str, LeaseHolder]]:
    """Name and holder of each lease of a run that is held, by name, then token."""
    prefix = _prefix(namespace, run_id)
    for key, record in engine.scan(prefix, after(prefix)):
        for holder in decode_record(record.value):
            yield decode_text(key[len(prefix) :]), holder


def check_fence(fence: Fence | None) -> Fence | None:
    """``TypeError`` for what cannot fence a transaction."""
    if fence is not None and not hasattr(fence, "_require"):
        raise TypeError(f"fence has type {type(fence).__name__}; give a shoal.Lease or a shoal.Task")
    return fence


def _prefix(namespace: Namespace, run_id: str) -> bytes:
    return check_namespace(namespace)._run_prefix(run_id) + _TAG

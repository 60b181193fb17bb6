"""What takes place once: transactions with an idempotency key, and effects outside the store.

    key      the run's prefix, the tag IDEMPOTENCY, then
             0 │ idempotency key of a transaction -> its result, as ``codec.encode`` made it; it expires
             1 │ key of an effect -> msgpack [started at in ms, token, result as ``codec.encode`` made it | nil]
             2 │ key of an effect -> the lease of the process that runs it (``rules.lease_rules``)

A transaction writes its result in the commit that has its effect, so either both are there or none.

An effect outside the store cannot be in a commit. So the process that runs it holds a lease, and the record says how
far it is. A record without result is an intent. What SIGKILL right after each step leaves:

1. Take the lease. The lease ends with the process; nothing was begun.
2. Commit the intent, fenced with the lease. The effect is in doubt: nobody can know whether it took place.
3. Call the function. The effect is in doubt.
4. Commit the result, if the intent is still this process's own (by its token). It is done.
5. Release the lease. It is done.

So an effect is in doubt if there is an intent and nobody holds the lease, in one snapshot. The doubt stays until a
result is committed: by a call that finds the result out, by a call that runs the function again, or by the process
itself, if it was only stopped for longer than its lease lasts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Literal, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from shoal.primitives.engine import Engine, EngineTransaction, Store
from shoal.primitives.facades.leases import Lease, take_key
from shoal.primitives.keys import Namespace, Tag, after, check_namespace, decode_text, encode_text, only
from shoal.primitives.retry import retry
from shoal.primitives.rules import requests
from shoal.primitives.rules.lease_rules import decode_record as decode_lease
from shoal.primitives.transaction import Transaction
from shoal.shm import codec
from shoal.shm.arguments import FOREVER_S, check_plain_function, check_plain_result, check_ttl_s
from shoal.shm.clock import now_ms
from shoal.shm.errors import CorruptionError, InvalidOperationError, LeaseHeldError
from shoal.shm.fleet_errors import FencedError, InDoubtError
from shoal.shm.host import tasks

T = TypeVar("T")
OnDoubt = Literal["raise", "retry"] | Callable[[str], Any]

_TAG = bytes((Tag.IDEMPOTENCY,))
_RESULT, _EFFECT, _LEASE = b"\0", b"\1", b"\2"
LEASE_TTL_S = 30.0
_RETRIES = 1000  # of a commit that conflicts only with other calls of the same key

IDEMPOTENCY_TTL_S = 24 * 3600.0


# --- transactions ---------------------------------------------------------------------------------------------------


class Remembered:
    """The result of the transaction with an idempotency key. ``ttl_s``: None is for good.

    Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad key.
    """

    def __init__(self, namespace: Namespace, run_id: str, key: str, ttl_s: float | None) -> None:
        self._key = _prefix(namespace, run_id) + _RESULT + encode_text("idempotency_key", key)
        self._name = key
        self._ttl_s = ttl_s

    def find(self, engine: Engine) -> list[Any]:
        """The recorded result, alone in a list; an empty list if there is none."""
        found = engine.find(self._key)
        return [] if found is None else [codec.stored(found.value, f"the result of {self._name!r}")]

    def run(self, txn: Transaction, fn: Callable[[Transaction], T]) -> T:
        """The recorded result, or else that of ``fn``, which is recorded in the same commit: as it is read back."""
        engine = txn._begun()
        for result in self.find(engine):
            return result  # type: ignore[no-any-return]
        result = fn(txn)
        check_plain_result("fn", fn, result)
        raw = codec.encode(result)
        requests.remember_later(engine, self._key, raw, 0 if self._ttl_s is None else max(1, round(self._ttl_s * 1000)))
        return codec.decode(raw)  # type: ignore[no-any-return]


def remembered(namespace: Namespace, run_id: str, key: str | None, ttl: float | timedelta) -> Remembered | None:
    """The result by a user's arguments; None without a key. Raises as ``Remembered``, and for a bad ttl."""
    if key is None and ttl is IDEMPOTENCY_TTL_S:  # nearly always
        return None
    ttl_s = check_ttl_s(ttl, "idempotency_ttl", "; math.inf is for good")
    return None if key is None else Remembered(namespace, run_id, key, ttl_s)


# --- effects outside the store --------------------------------------------------------------------------------------


class EffectRecord(NamedTuple):
    """How far an effect is. ``result`` None: it was begun, and not recorded. ``token``: of its lease."""

    started_at: int
    token: int
    result: bytes | None


class StoredResult(NamedTuple):
    """A result of a transaction by its idempotency key. ``expires_ms``: ms since the epoch; 0 is never."""

    key: str
    value: Any
    expires_ms: int


class StoredEffect(NamedTuple):
    """An effect by its key."""

    key: str
    record: EffectRecord


def once(store: Store, namespace: Namespace, run_id: str, key: str, fn: Callable[[], T], on_doubt: OnDoubt) -> T:
    """``Database.once``."""
    effect = _Effect(store, namespace, run_id, key)
    check_plain_function("fn", fn)
    _check_on_doubt(on_doubt)
    if effect.is_at_it():
        raise InvalidOperationError(
            f"the function of once for the key {key!r} calls once with that key, and would wait for itself; "
            "use another key, or no second call"
        )
    while True:
        found = effect.wait()
        if found is not None and found.result is None and on_doubt == "raise":
            raise InDoubtError(key, found.started_at)
        lease = effect.take() if found is None or found.result is None else None
        if lease is not None:
            with lease:
                found = effect.run(lease, fn, on_doubt)
        if found is not None and found.result is not None:
            return codec.stored(found.result, f"the result of {key!r}")  # type: ignore[no-any-return]


# What runs now, by who runs it. Weak: what an exception of a signal handler leaves behind goes with its call.
_at_it: WeakValueDictionary[tuple[int, object, bytes], _Effect] = WeakValueDictionary()


class _Effect:
    """One effect, for one call of ``once``."""

    def __init__(self, store: Store, namespace: Namespace, run_id: str, key: str) -> None:
        prefix, name = _prefix(namespace, run_id), encode_text("key", key)
        self._store = store
        self._name = key
        self._record_key = prefix + _EFFECT + name
        self._lease_key = prefix + _LEASE + name
        self._caller = store.holding.holder, tasks.owner(), self._lease_key

    def is_at_it(self) -> bool:
        """Whether the same thread or task runs this effect, so this is called inside it."""
        return self._caller in _at_it

    def wait(self) -> EffectRecord | None:
        """Wait while another process runs the effect; its record then, None if there is none."""
        ranges = [only(self._record_key), only(self._lease_key)]
        (found,) = self._store.auto_commit.wait_for(self._look, ranges, time.monotonic() + FOREVER_S) or [None]
        return found

    def _look(self) -> list[EffectRecord | None] | None:
        """The record, alone in a list; None while it has no result and somebody holds the lease."""
        transaction = self._store.begin()
        try:
            found = self._read(transaction)
            if found is not None and found.result is not None:
                return [found]
            if transaction.read_only:
                transaction.delete(self._record_key)  # refuses: this database cannot record a result
            lease = transaction.find(self._lease_key)
            return None if lease is not None and decode_lease(lease.value) else [found]
        finally:
            transaction.abandon()

    def take(self) -> Lease | None:
        """The lease that the process needs to run the effect; None if another process holds it."""
        try:
            return take_key(self._store, self._lease_key, self._name, 1, LEASE_TTL_S, time.monotonic())
        except LeaseHeldError:
            return None

    def run(self, lease: Lease, fn: Callable[[], Any], on_doubt: OnDoubt) -> EffectRecord | None:
        """``resolve``, and see to it that ``is_at_it`` is true meanwhile."""
        try:
            _at_it[self._caller] = self
            return self.resolve(lease, fn, on_doubt)
        finally:
            _at_it.pop(self._caller, None)

    def resolve(self, lease: Lease, fn: Callable[[], Any], on_doubt: OnDoubt) -> EffectRecord | None:
        """With the lease: run ``fn`` unless the effect was begun before, and record the result. What is recorded then.

        None, or a record without result: look again.
        """
        try:
            found = self._begin(lease, on_doubt == "retry")
        except FencedError:  # the lease was lost before anything was begun
            return None
        if found is not None and found.result is not None:
            return found
        if found is not None and on_doubt == "raise":
            raise InDoubtError(self._name, found.started_at)
        if found is not None and callable(on_doubt):
            value = on_doubt(self._name)
            check_plain_result("on_doubt", on_doubt, value)
            return self._finish(found.token, codec.encode(value))
        try:
            value = fn()
            check_plain_result("fn", fn, value)
        except Exception:
            if found is None:  # else an earlier attempt is still in doubt
                self._clear(lease.token)
            raise
        recorded = self._finish(lease.token, codec.encode(value))
        if recorded is None:
            raise FencedError(self._name, lease.token)
        return recorded

    def _begin(self, lease: Lease, again: bool) -> EffectRecord | None:
        """Commit the intent if there is no record, or if there is one without result and ``again``; what was there.

        Interrupted, as a task that is cancelled, it leaves no intent of its own: ``fn`` will not be called.
        """
        is_first = False

        def attempt(transaction: EngineTransaction) -> EffectRecord | None:
            nonlocal is_first
            lease._require(transaction)
            found = self._read(transaction)
            is_first = found is None
            if found is None or (found.result is None and again):
                started_at = now_ms() if found is None else found.started_at
                self._write(transaction, EffectRecord(started_at, lease.token, None))
            return found

        try:
            return self._transact(attempt)
        except BaseException as error:
            if is_first and not isinstance(error, Exception):  # else it is refused, or an earlier attempt is in doubt
                self._clear(lease.token)
            raise

    def _finish(self, token: int, result: bytes) -> EffectRecord | None:
        """Commit the result if the intent is still that of ``token``; the record then, None if it is not."""

        def attempt(transaction: EngineTransaction) -> EffectRecord | None:
            found = self._read(transaction)
            if found is None or found.result is not None or found.token != token:
                return None
            done = found._replace(result=result)
            self._write(transaction, done)
            return done

        return self._transact(attempt)

    def _clear(self, token: int) -> None:
        """Delete the intent if it is still that of ``token``."""

        def attempt(transaction: EngineTransaction) -> None:
            found = self._read(transaction)
            if found is not None and found.result is None and found.token == token:
                transaction.delete(self._record_key)

        self._transact(attempt)

    def _transact(self, attempt: Callable[[EngineTransaction], T]) -> T:
        def attempt_once() -> T:
            transaction = self._store.begin()
            try:
                result = attempt(transaction)
                transaction.commit()
                return result
            finally:
                transaction.abandon()

        return retry(attempt_once, _RETRIES, self._store)

    def _read(self, engine: Engine) -> EffectRecord | None:
        found = engine.find(self._record_key)
        return None if found is None else _decode(found.value)

    def _write(self, engine: Engine, record: EffectRecord) -> None:
        engine.put(self._record_key, codec.pack(record))


def _prefix(namespace: Namespace, run_id: str) -> bytes:
    return check_namespace(namespace)._run_prefix(run_id) + _TAG


def _decode(raw: bytes) -> EffectRecord:
    try:
        record = EffectRecord(*codec.unpackb(raw))
    except (ValueError, TypeError):  # no msgpack, or not as many fields
        record = EffectRecord(-1, 0, None)
    started_at, token, result = record
    numbers = type(started_at) is int and started_at >= 0 and type(token) is int
    if numbers and (result is None or type(result) is bytes):
        return record
    raise CorruptionError("the record of an effect", 0, "time, token, result", f"{len(raw)} bytes of something else")


def _check_on_doubt(on_doubt: object) -> None:
    if isinstance(on_doubt, str):
        if on_doubt not in ("raise", "retry"):
            raise ValueError(f"on_doubt is {on_doubt!r:.100}; give 'raise', 'retry', or a function of the key")
    elif not callable(on_doubt):
        raise TypeError(f"on_doubt has type {type(on_doubt).__name__}; give 'raise', 'retry', or a function of the key")
    else:
        check_plain_function("on_doubt", on_doubt)


# --- exports --------------------------------------------------------------------------------------------------------


def results(engine: Engine, namespace: Namespace, run_id: str) -> Iterator[StoredResult]:
    """The results of a run's transactions with an idempotency key, by key."""
    prefix = _prefix(namespace, run_id) + _RESULT
    for key, found in engine.scan(prefix, after(prefix)):
        name = decode_text(key[len(prefix) :])
        yield StoredResult(name, codec.stored(found.value, f"the result of {name!r}"), found.expires_ms)


def effects(engine: Engine, namespace: Namespace, run_id: str) -> Iterator[StoredEffect]:
    """The effects of a run, by key: those in doubt, and those that a process runs now, have no result."""
    prefix = _prefix(namespace, run_id) + _EFFECT
    for key, found in engine.scan(prefix, after(prefix)):
        yield StoredEffect(decode_text(key[len(prefix) :]), _decode(found.value))


def restore_result(engine: Engine, namespace: Namespace, run_id: str, stored: StoredResult) -> None:
    """Write a result of an export, unless it has expired."""
    if not stored.expires_ms or stored.expires_ms > now_ms():
        key = _prefix(namespace, run_id) + _RESULT + encode_text("key", stored.key)
        engine.put(key, codec.encode(stored.value), stored.expires_ms)


def restore_effect(engine: Engine, namespace: Namespace, run_id: str, stored: StoredEffect) -> None:
    """Write an effect of an export. One without result is in doubt: no process runs it here."""
    key = _prefix(namespace, run_id) + _EFFECT + encode_text("key", stored.key)
    engine.put(key, codec.pack(stored.record))

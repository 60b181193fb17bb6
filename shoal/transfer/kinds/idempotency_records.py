"""The records of what takes place once in an export.

    result      key value expires_at            the result of a transaction with an idempotency key
    effect      key started_at result           of ``once``; without result: in doubt, or under way when it was exported

Times are ms since the epoch. An import gives effects to no process, so those without result are in doubt there.
"""

from __future__ import annotations

from shoal.primitives.facades.fleet import idempotency
from shoal.primitives.facades.fleet.idempotency import EffectRecord, StoredEffect, StoredResult
from shoal.primitives.keys import encode_text
from shoal.shm import codec
from shoal.transfer.fields import Fields, RecordKind, check_names, check_whole

_RESULT_NAMES = ("key", "value", "expires_at")
_EFFECT_NAMES = ("key", "started_at", "result")
_RECORD_BYTES = 256


def show_result(stored: StoredResult) -> Fields:
    """Its fields."""
    return {"key": stored.key, "value": stored.value, "expires_at": stored.expires_ms or None}


def make_result(run_id: str, fields: Fields) -> StoredResult:
    """The result with these fields."""
    check_names("result", fields, _RESULT_NAMES)
    if fields["expires_at"] is not None:
        check_whole("expires_at", fields["expires_at"], 1)
    return StoredResult(fields["key"], fields["value"], fields["expires_at"] or 0)


def size_result(prefix: bytes, stored: StoredResult) -> int:
    """A bound of the bytes it takes in a commit. Checks key and value."""
    return _RECORD_BYTES + len(prefix) + len(encode_text("key", stored.key)) + len(codec.encode(stored.value))


def show_effect(stored: StoredEffect) -> Fields:
    """Its fields."""
    fields = {"key": stored.key, "started_at": stored.record.started_at}
    result = stored.record.result
    return fields if result is None else fields | {"result": codec.stored(result, f"the result of {stored.key!r}")}


def make_effect(run_id: str, fields: Fields) -> StoredEffect:
    """The effect with these fields."""
    is_done = "result" in fields
    check_names("effect", fields, _EFFECT_NAMES if is_done else _EFFECT_NAMES[:-1])
    check_whole("started_at", fields["started_at"], 0)
    result = codec.encode(fields["result"]) if is_done else None
    return StoredEffect(fields["key"], EffectRecord(fields["started_at"], 0, result))


def size_effect(prefix: bytes, stored: StoredEffect) -> int:
    """A bound of the bytes it takes in a commit. Checks the key."""
    return _RECORD_BYTES + len(prefix) + len(encode_text("key", stored.key)) + len(stored.record.result or b"")


RESULT = RecordKind(
    show_result,
    make_result,
    size_result,
    idempotency.results,
    idempotency.restore_result,
    lambda stored: (stored.key, 0),
)
EFFECT = RecordKind(
    show_effect,
    make_effect,
    size_effect,
    idempotency.effects,
    idempotency.restore_effect,
    lambda stored: (stored.key, 0),
)

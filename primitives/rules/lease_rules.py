"""The record of a lease, and the rules by which it is taken, released and ended.

    key       the run's prefix, the tag LEASE, the lease's name
    record    msgpack [[token, slot, holder, pid, ttl in ms, ticket], ...], in the order of the tokens
    token     of the store: the key 0x00 0x02, msgpack of the last token that was given

Invariants: the record has those that hold the lease now, and is deleted with the last of them. Each has an entry in the
index of holders (``shm.holder_index``), written in the same commit. Tokens are of the whole store, so they only rise,
whatever becomes of a lease or its run. ``holder`` is an open database in one process. ``ticket`` is a random number of
the caller, by which a request that is sent again, or undone, is recognised.
"""

from __future__ import annotations

from typing import NamedTuple

from shoal.shm import codec, holder_index
from shoal.shm.errors import CorruptionError, LeaseHeldError
from shoal.shm.fleet_errors import FencedError
from shoal.shm.limits import MAX_IMPORTED_COUNT
from shoal.shm.operation import Decision, Read, Write

TOKEN_KEY = b"\0\2"
_FIELDS = 6


class LeaseHolder(NamedTuple):
    """One that holds a lease."""

    token: int
    slot: int
    holder: int
    pid: int
    ttl_ms: int
    ticket: int


def decode_record(raw: bytes | None) -> list[LeaseHolder]:
    """Those that hold the lease; none if it has no record. ``CorruptionError`` for other bytes."""
    if raw is None:
        return []
    try:
        holders = [LeaseHolder(*fields) for fields in codec.unpackb(raw)]
    except (ValueError, TypeError):  # no msgpack, or not as many fields
        holders = []
    if holders and all(type(part) is int for holder in holders for part in holder):
        return holders
    raise CorruptionError("the record of a lease", 0, "its holders", f"{len(raw)} bytes of something else")


def take(
    read: Read, now_ms: int, key: bytes, name: str, slots: int, holder: int, pid: int, ttl_ms: int, ticket: int
) -> Decision:
    """Take a lease that fewer than ``slots`` hold; the result is token and slot."""
    if any(type(part) is not int or part < 1 for part in (slots, holder, ttl_ms, ticket)) or type(pid) is not int:
        raise ValueError("slots, holder, pid, ttl or ticket of a lease is no number from 1 on")
    held = _held(read, key)
    for each in held:
        if each.ticket == ticket:  # sent again
            return Decision([], [each.token, each.slot])
    if len(held) >= slots:
        raise LeaseHeldError(name, max(each.ttl_ms for each in held), *(each.pid for each in held))
    taken = {each.slot for each in held}
    slot = next(slot for slot in range(slots) if slot not in taken)
    token = next_token(read)
    held.append(LeaseHolder(token, slot, holder, pid, ttl_ms, ticket))
    writes = [_record(key, held), Write(TOKEN_KEY, codec.pack(token), 0), *_entry(key, holder, held)]
    return Decision(writes, [token, slot])


def next_token(read: Read) -> int:
    """The next token of the store; whoever gives it out writes it to ``TOKEN_KEY``."""
    last = read(TOKEN_KEY)
    return 1 if last is None else int(codec.unpackb(last.value)) + 1


def raise_tokens(read: Read, now_ms: int, key: bytes, token: int) -> Decision:
    """Give out no token from here on that is not above ``token``; ``key`` is ``TOKEN_KEY``."""
    if type(token) is not int or token > MAX_IMPORTED_COUNT:
        raise ValueError("a token to count on from is no number, or too large for those of queues")
    if next_token(read) > token:
        return Decision([], None)
    return Decision([Write(key, codec.pack(token), 0)], None)


def release(read: Read, now_ms: int, key: bytes, holder: int, ticket: int) -> Decision:
    """Release what ``holder`` took with ``ticket``; the result is whether it held it."""
    held = _held(read, key)
    left = [each for each in held if (each.holder, each.ticket) != (holder, ticket)]
    return Decision(_left(read, key, holder, held, left), len(left) < len(held))


def ended(read: Read, key: bytes, holder: int, now_ms: int) -> list[Write]:
    """The holder has ended: it holds the lease no longer. See ``OperationTable.ended``."""
    held = _held(read, key)
    return _left(read, key, holder, held, [each for each in held if each.holder != holder])


def fence(read: Read, now_ms: int, key: bytes, name: str, holder: int, token: int) -> Decision:
    """Raise ``FencedError`` unless ``holder`` holds the lease by ``token``. Writes nothing."""
    check_held(_held(read, key), name, holder, token)
    return Decision([], None)


def check_held(holders: list[LeaseHolder], name: str, holder: int, token: int) -> None:
    """``FencedError`` unless ``holder`` is among the ``holders`` of a lease by ``token``."""
    for each in holders:
        if each.token == token:  # no two have the same
            if each.holder == holder:
                return
            raise FencedError(name, token, each.pid)
    raise FencedError(name, token)


def _held(read: Read, key: bytes) -> list[LeaseHolder]:
    found = read(key)
    return decode_record(None if found is None else found.value)


def _left(read: Read, key: bytes, holder: int, held: list[LeaseHolder], left: list[LeaseHolder]) -> list[Write]:
    """The writes after which ``left`` of ``held`` are left, those of ``holder`` among them or not."""
    writes = [] if len(left) == len(held) else [_record(key, left)]
    entry = _entry(key, holder, left)
    return writes + (entry if read(entry[0].key) is not None else [])


def _record(key: bytes, held: list[LeaseHolder]) -> Write:
    return Write(key, codec.pack(held) if held else None, 0)


def _entry(key: bytes, holder: int, held: list[LeaseHolder]) -> list[Write]:
    """The entry in the index of holders, with the shortest ttl; deleted if ``holder`` holds it no longer."""
    ttls = [each.ttl_ms for each in held if each.holder == holder]
    return [holder_index.entry(holder, key, min(ttls)) if ttls else holder_index.no_entry(holder, key)]

"""The hash of an event, and the check that events follow each other.

    canonical payload   ``codec.encode`` of the payload with the keys of every dict sorted by code point, tuples as
                        lists and every NaN as the same NaN. 1, 1.0 and True differ, as do 0.0 and -0.0, "a" and b"a"
    hashed bytes        msgpack [format 1, sequence, type, canonical payload, timestamp in ms, hash before]
    xxh3                xxh3-128 of them, most significant byte first (as xxh128sum prints it), then 16 zero bytes
    sha256              SHA-256 of them
    hash before         the hash of the event before; 32 zero bytes for the first event

Invariant: hashes outlive the store they were made in, so none of this ever changes. Another way of hashing needs a new
format number.

xxh3 shows order and damage. A process that can write to the store can also write a chain whose xxh3 hashes fit. It can
do so with sha256, too, but then the last hash differs from an anchor that was kept elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgpack

from shoal.shm import codec
from shoal.shm.limits import MAX_NESTING, MAX_VALUE_BYTES

try:
    import cython
except ModuleNotFoundError:
    from shoal.shm import cython_shim as cython  # type: ignore[no-redef]

if cython.compiled:
    from cython.cimports.xxh3 import xxh3_128_padded
else:
    from xxhash import xxh3_128_digest

FORMAT = 1
HASH_BYTES = 32
GENESIS_HASH = bytes(HASH_BYTES)
DEFAULT_CHAIN = "xxh3"

_XXH3_PADDING = bytes(16)
# Values of these types have only one form.
_SETTLED = frozenset((type(None), bool, int, str, bytes))
_TEXT = frozenset((str,))


def _xxh3(raw: bytes) -> bytes:
    if cython.compiled:
        return xxh3_128_padded(raw)
    return xxh3_128_digest(raw) + _XXH3_PADDING


def _sha256(raw: bytes) -> bytes:
    import hashlib  # here, because it takes 4 ms, and most chains are of xxh3

    return hashlib.sha256(raw).digest()


CHAINS: dict[str, Callable[[bytes], bytes]] = {"xxh3": _xxh3, "sha256": _sha256}


def canonical(value: codec.Value) -> bytes:
    """The form of a payload that is stored and hashed. Raises what ``codec.encode`` does."""
    flat = _flat(value) if type(value) is dict else None
    if flat is not None:
        # As most payloads are: a third of the time. ``encode`` refuses what cannot be stored.
        try:
            raw = codec.pack(flat)
        except (ValueError, OverflowError):
            raw = b""
        if 0 < len(raw) <= MAX_VALUE_BYTES:
            return raw
    return codec.encode(value if type(value) in _SETTLED else _settle(value, 0))


def event_hash(chain: str, sequence: int, event_type: str, payload: bytes, timestamp: int, prev_hash: bytes) -> bytes:
    """The hash of an event whose canonical payload is ``payload``."""
    return CHAINS[chain](codec.pack([FORMAT, sequence, event_type, payload, timestamp, prev_hash]))


def chain_of(event_hash: bytes) -> str:
    """The chain of a hash: only xxh3 hashes end with the padding."""
    return "xxh3" if event_hash[16:] == _XXH3_PADDING else "sha256"


class ChainCheck:
    """Checks a chain event by event, beginning with the event ``sequence``, whose hash before is ``head_hash``."""

    __slots__ = ("_chain", "head_hash", "sequence", "timestamp")

    def __init__(
        self, chain: str, sequence: int = 0, head_hash: bytes = GENESIS_HASH, timestamp: int | None = None
    ) -> None:
        self._chain = chain
        self.sequence = sequence  # of the event that must come next
        self.head_hash = head_hash
        self.timestamp = timestamp  # of the last event; the next may not be earlier

    def problem(
        self, sequence: Any, event_type: Any, payload: bytes, timestamp: Any, prev_hash: Any, found_hash: Any
    ) -> str:
        """What is wrong with the next event, whose fields may hold anything. If nothing is, "", and one step on."""
        expected = self.sequence
        if type(sequence) is not int or sequence != expected:
            return f"event {expected} is missing: what follows has sequence {sequence!r}"
        if type(event_type) is not str or type(timestamp) is not int:
            kinds = f"{type(event_type).__name__} and {type(timestamp).__name__}"
            return f"event {expected} has a type and a timestamp of types {kinds}, expected str and int"
        if type(prev_hash) is not bytes or prev_hash != self.head_hash:
            return f"event {expected} has prev_hash {_hex(prev_hash)}, the event before has {_hex(self.head_hash)}"
        if self.timestamp is not None and timestamp < self.timestamp:
            return f"event {expected} has timestamp {timestamp}, before the last event's {self.timestamp}"
        try:
            computed = event_hash(self._chain, expected, event_type, payload, timestamp, prev_hash)
        except (ValueError, OverflowError) as error:  # text that is no UTF-8, a number beyond 64 bits
            return f"event {expected} has a field no event has: {error}"
        if type(found_hash) is not bytes or found_hash != computed:
            return f"event {expected} has hash {_hex(found_hash)}, its content gives {_hex(computed)} ({self._chain})"
        self.sequence, self.head_hash, self.timestamp = expected + 1, computed, timestamp
        return ""


def _flat(value: dict[Any, Any]) -> dict[str, Any] | None:
    """A dict of texts to settled values in the order of its keys; None for another one."""
    last, in_order = "", True
    for key, item in value.items():
        if type(key) is not str or type(item) not in _SETTLED:
            return None
        in_order = in_order and last <= key
        last = key
    return value if in_order else dict(sorted(value.items()))


def _settle(value: Any, depth: int) -> Any:
    """``value`` in canonical form. What cannot be stored is left as it is, and ``encode`` refuses it with its path."""
    if isinstance(value, float):
        return value if value == value else math.nan
    if depth > MAX_NESTING:
        return value
    if isinstance(value, dict):
        if not _TEXT.issuperset(map(type, value)):
            texts = {str.__str__(key): item for key, item in value.items() if isinstance(key, str)}
            if len(texts) != len(value):
                return value
            value = texts
        settled = {}
        for key in sorted(value):
            item = value[key]
            settled[key] = item if type(item) in _SETTLED else _settle(item, depth + 1)
        return settled
    if isinstance(value, (list, tuple)) and not isinstance(value, msgpack.ExtType):
        items = []  # a loop, not a comprehension: half the frames on the way down
        for item in value:
            items.append(item if type(item) in _SETTLED else _settle(item, depth + 1))
        return items
    return value


def _hex(raw: Any) -> str:
    return raw.hex() if type(raw) is bytes else repr(raw)

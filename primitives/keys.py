"""The key space: how everything users name becomes an ordered key, without collisions whatever is in the names.

    key      namespace, run, type tag, rest
    part     1 byte length, then that many bytes of UTF-8: tenant, app, agent, run; 0 first: the store's own
             a tenant, app or agent named "default" is the byte 0x81 alone
    run      length 0 is no run: what belongs to the namespace as a whole (the index of runs)
    tag      KV 0x01, EVENT 0x02, STATE 0x03, TRACE 0x04, RUN 0x05, QUEUE 0x06, BUDGET 0x07, LEASE 0x08,
             IDEMPOTENCY 0x09, CONSUMER 0x0B, RETENTION 0x0C; 0x10 is reserved
    rest     KV, STATE and LEASE: the user's key or name; QUEUE: see ``rules.queues.records``
             elsewhere 1 byte kind (0: the records themselves), then what the primitive defines: sized texts,
             8-byte big-endian numbers, and a last text that needs no length
    text     2 bytes length, then that many bytes of UTF-8

The store's own keys begin with 0x00: 0x01 the index of holders (``shm.holder_index``), 0x02 the last token
(``rules.lease_rules``), 0x03 the index of retention policies (``rules.retention.policies``).

Lengths come first, so no name can reach into another's range; UTF-8 sorts as its code points do, so a scan comes out
in the order Python sorts strings. A run is one contiguous range.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shoal.primitives.rules.layouts.parts import after as after
from shoal.primitives.rules.layouts.parts import bound as bound
from shoal.primitives.rules.layouts.parts import name_part, run_part, split_parts
from shoal.primitives.rules.layouts.parts import number as number
from shoal.primitives.rules.layouts.parts import sized as sized
from shoal.primitives.rules.tags import Tag as Tag
from shoal.shm.arguments import check_type, text_of
from shoal.shm.errors import CorruptionError, LimitExceededError, shown_value
from shoal.shm.limits import MAX_KEY_BYTES, MAX_RUN_ID_BYTES

_PREFIXES_KEPT = 4096
# What messages call the primitives whose keys have a kind behind the tag.
_KINDS = {
    Tag.EVENT: "events",
    Tag.TRACE: "traces",
    Tag.RUN: "runs",
    Tag.BUDGET: "budget",
    Tag.IDEMPOTENCY: "idempotency key",
}
_SHORTER = "use a shorter one, or a hash of it, such as hashlib.sha256(text.encode()).hexdigest()"


@dataclass(frozen=True)
class Namespace:
    """Whose runs these are: the same run id in two namespaces is two runs.

    Each part is a str of 1 to 128 bytes of UTF-8. Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for
    another.

    >>> Namespace(tenant="acme").app
    'default'
    """

    tenant: str = "default"
    app: str = "default"
    agent: str = "default"
    # What every key of the namespace begins with, and what every key of a run begins with, by run id.
    _prefix: bytes = field(init=False, repr=False, compare=False, default=b"")
    _run_prefixes: dict[str, bytes] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        parts = (("tenant", self.tenant), ("app", self.app), ("agent", self.agent))
        object.__setattr__(self, "_prefix", b"".join(name_part(_name(*part)) for part in parts))

    def __reduce__(self) -> tuple[Any, ...]:
        return Namespace, (self.tenant, self.app, self.agent)

    def _runs_prefix(self) -> bytes:
        """What every key that belongs to no single run begins with."""
        return self._prefix + b"\0"

    def _run_prefix(self, run_id: str) -> bytes:
        """What every key of a run begins with. Raises ``TypeError``, ``ValueError`` or ``LimitExceededError``."""
        prefixes = self._run_prefixes
        known = prefixes.get(run_id) if type(run_id) is str else None  # one access: another thread may clear it
        if known is not None:
            return known
        prefix = self._prefix + run_part(_name("run_id", run_id))
        if len(prefixes) >= _PREFIXES_KEPT:
            prefixes.clear()
        prefixes[text_of(run_id)] = prefix
        return prefix


def check_namespace(namespace: object) -> Namespace:
    """``TypeError`` for what is no namespace."""
    return check_type("namespace", namespace, Namespace, "a shoal.Namespace")


def encode_text(what: str, text: object, most_bytes: int = MAX_KEY_BYTES, advice: str = _SHORTER) -> bytes:
    """A user's name as bytes. Raises ``TypeError``, ``ValueError`` or ``LimitExceededError``, naming ``what``."""
    if not isinstance(text, str):
        raise TypeError(f"{what} has type {type(text).__name__}; give a str")
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:
        why = f"{error.reason} at {error.start}"
        raise ValueError(f"{what} {shown_value(text)} is not valid text: {why}; give one that has UTF-8") from error
    if not raw:
        raise ValueError(f"{what} is empty; give 1 to {most_bytes:,} bytes")
    if len(raw) > most_bytes:
        raise LimitExceededError(f"length of {what} in bytes", most_bytes, len(raw), advice)
    return raw


def decode_text(raw: bytes) -> str:
    """The text at the end of a key that was found. Raises ``CorruptionError`` if it is none."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise CorruptionError("a key of the store", 0, "a name in UTF-8", f"{raw!r:.100}") from error
    if not text:
        raise CorruptionError("a key of the store", 0, "a name", "none")
    return text


def encode_prefix(prefix: object) -> bytes:
    """A user's key prefix as bytes; empty means every key."""
    return encode_text("prefix", prefix, advice="no name is longer, so nothing begins with it") if prefix != "" else b""


def only(key: bytes) -> tuple[bytes, bytes]:
    """The range of a single key."""
    return key, key + b"\0"


def texts_of(key: bytes) -> list[str]:
    """Tenant, app, agent and run of a key, or of what one begins with; an empty run is none. ``CorruptionError``."""
    try:
        (*names, run), _ = split_parts(key)
    except ValueError as error:
        raise CorruptionError("a key of the store", 0, "a namespace and a run", f"{key!r:.100}") from error
    return [*map(decode_text, names), decode_text(run) if run else ""]


def user_text(key: bytes) -> str:
    """The name of an engine key in messages: a user's key or name as it is; of other primitives their kind as well."""
    try:
        _, behind = split_parts(key)
        tag, rest = behind[0], behind[1:]
    except (ValueError, IndexError):
        tag, rest = Tag.KV, key
    if tag == Tag.QUEUE:
        return f"queue {rest[2 : 2 + int.from_bytes(rest[:2], 'big')].decode('utf-8', errors='backslashreplace')}"
    if tag in _KINDS:
        what = _KINDS[Tag(tag)]
        named = rest[1:].decode("utf-8", errors="backslashreplace") if rest[:1] == b"\0" and tag != Tag.EVENT else ""
        return f"{what} {named}".rstrip()
    return rest.decode("utf-8", errors="backslashreplace")


def _name(what: str, text: object) -> bytes:
    return encode_text(what, text, MAX_RUN_ID_BYTES)

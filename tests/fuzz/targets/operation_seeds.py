"""One valid call of every operation: seeds of the fuzzed engine."""

from __future__ import annotations

from typing import Any

from shoal.primitives import trace_index
from shoal.primitives.keys import Namespace
from shoal.primitives.rules import registry as operations
from shoal.primitives.rules.hash_chain import event_hash
from shoal.primitives.rules.lease_rules import TOKEN_KEY
from shoal.primitives.trace_types import TraceOptions, TraceType
from shoal.shm import codec
from tests.fuzz.targets.queue_seeds import QUEUE_OPERATIONS

RUN = Namespace()._run_prefix("r")
KV, EVENT, STATE, TRACE, BUDGET, LEASE = (RUN + bytes((tag,)) for tag in (1, 2, 3, 4, 7, 8))


def trace_call(trace_id: str, parent_id: str | None = None) -> list[Any]:
    said = TraceType.Thought("hm")
    writes = trace_index.encode_trace(TRACE, trace_id, said, TraceOptions(parent_id=parent_id, tags=["t"]), 1000)
    required = [] if parent_id is None else [TRACE + b"\0" + parent_id.encode(), "no such parent"]
    return [writes[0], "it is there", required, writes]


def restorable(chain: str) -> list[Any]:
    events, head_hash = [], bytes(32)
    for sequence in range(2):
        payload = codec.encode({"n": sequence})
        prev_hash, head_hash = head_hash, event_hash(chain, sequence, "e", payload, 1000, head_hash)
        events.append([sequence, "e", payload, 1000, prev_hash, head_hash])
    return events


# One valid call of every operation, in an order in which each is done.
OPERATIONS: list[tuple[str, list[Any]]] = [
    (operations.INCREMENT, [KV + b"n", 3]),
    (operations.CELL_INIT, [STATE + b"cell", "cell", codec.encode(1)]),
    (operations.CELL_CAS, [STATE + b"cell", "cell", 1, codec.encode(2)]),
    (operations.CELL_SET, [STATE + b"other", codec.encode([1])]),
    (operations.CELL_SWAP, [STATE + b"other", "other", 1, codec.encode([2])]),
    (operations.EVENT_APPEND, [EVENT + b"\0", "xxh3", [["type", codec.encode(1)], ["type", codec.encode({})]]]),
    (operations.EVENT_RESTORE, [EVENT[:-2] + b"z\2\0", restorable("sha256")]),
    (operations.EVENT_TRIM, [EVENT + b"\3", 0, 1, [1]]),
    (operations.EVENT_BEGIN, [EVENT[:-2] + b"x\2\3", [5, b"p" * 32, b"o" * 32], "sha256", 1000]),
    (operations.INSERT, trace_call("a")),
    (operations.INSERT, trace_call("b", "a")),
    (operations.CELL_DELETE, [STATE + b"other"]),
    (operations.DELETE, [KV + b"text"]),
    (operations.REMEMBER, [KV + b"text", codec.encode("again"), 30_000]),
    (operations.LEASE_TAKE, [LEASE + b"a", "a", 2, 4711, 1, 30_000, 99]),
    (operations.LEASE_FENCE, [LEASE + b"a", "a", 4711, 1]),
    (operations.LEASE_RELEASE, [LEASE + b"a", 4711, 99]),
    (operations.LEASE_TAKE, [LEASE + b"a", "a", 2, 4712, 1, 30_000, 98]),
    (operations.BUDGET_CREATE, [BUDGET + b"\0a", "a", 10, 1]),
    (operations.BUDGET_RESERVE, [BUDGET + b"\0a", "a", 5, 4711, 30_000, 97]),
    (operations.BUDGET_SETTLE, [BUDGET + b"\0a", "a", 97, 4, True]),
    (operations.BUDGET_ADJUST, [BUDGET + b"\0a", "a", 20]),
    *QUEUE_OPERATIONS,
    (operations.TOKENS_RAISE, [TOKEN_KEY, 7]),
]
assert {name for name, _ in OPERATIONS} == operations.OPERATIONS.keys(), "an operation without a seed"

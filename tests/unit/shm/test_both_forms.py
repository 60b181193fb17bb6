"""Compiled, the formats are packed and parsed in C where they have their usual form: the bytes and the values, and what
is refused, are those of the plain Python files.

Each test runs the compiled module and its Python file, imported under another name, on the same inputs.
"""

from __future__ import annotations

import importlib.util
import math
import random
import struct
from collections.abc import Callable
from types import ModuleType
from typing import Any

import msgpack
import pytest

from shoal.coordinator.log import format as wal_format
from shoal.primitives.rules import hash_chain
from shoal.shm import codec
from shoal.shm.compilation import is_compiled
from shoal.shm.errors import LimitExceededError
from shoal.shm.wire import answer, frames, request
from tests.fuzz.mutation import BOMBS, mutated, some_tree
from tests.support.repository import python_file

pytestmark = pytest.mark.skipif(not is_compiled(), reason="compares compiled modules with their Python files")

ROUNDS = 1_000
KNOWN = {"increment", "event_append"}
WORDS = (0, 1, 7, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
# Where msgpack changes from one header to the next.
SIZES = (0, 1, 15, 16, 17, 31, 32, 33, 255, 256, 65_535, 65_536)
INTEGERS = sorted({s * 2**b + o for b in (0, 5, 7, 8, 15, 16, 31, 32, 63, 64) for s in (1, -1) for o in (-1, 0, 1)})
FLOATS = (0.0, -0.0, 1.5, 5e-324, math.inf, math.nan, -math.nan)


class _Integer(int):
    pass


class _Text(str):
    __slots__ = ()


class _Extension(msgpack.ExtType):  # type: ignore[misc]  # msgpack has no types
    pass


# What the usual form is not.
ODD: list[Any] = [
    *(_Integer(5), _Text("x"), bytearray(b"x"), memoryview(b"x"), {1: 2}, {b"x": 1}, {_Text("x"): 1}, {1, 2}, print),
    *("\ud800", {"\udcff": 1}, msgpack.ExtType(5, b"x"), _Extension(5, b"x"), msgpack.Timestamp(1, 2)),
]


@pytest.fixture
def rng() -> random.Random:
    """Random numbers; the seed is printed."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


def _plain(module: ModuleType) -> Any:
    """The Python file of a compiled module."""
    spec = importlib.util.spec_from_file_location(f"plain_{module.__name__}", python_file(module.__name__))
    assert spec is not None
    assert spec.loader is not None
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    return plain


def _outcome(function: Callable[..., Any], *arguments: Any) -> str:
    """What a call returns, as text, so that each NaN is as the other; or the type of its error."""
    try:
        returned = function(*arguments)
        return f"{type(returned).__name__} {returned!r}"
    except Exception as error:
        return type(error).__name__


def _value(rng: random.Random, depth: int = 0) -> Any:
    """A value that can be stored, or one part of which cannot."""
    kind = rng.randrange(12 if depth < 4 else 7)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind == 1:
        return rng.choice(INTEGERS)
    if kind == 2:
        return rng.choice(FLOATS)
    if kind == 3:
        return rng.choice(("x", "é", "\U0001f600")) * rng.choice(SIZES)
    if kind == 4:
        return bytes(rng.choice(SIZES))
    if kind == 5 and rng.random() < 0.1:
        return rng.choice(ODD)
    if kind == 6:
        return some_tree(rng)
    count = rng.choice((0, 1, 2, 15, 16, 17)) if depth < 2 else 1
    items = [_value(rng, depth + 1) for _ in range(count)]
    if kind == 7:
        return {f"k{i}" * rng.choice((1, 1, 20)): item for i, item in enumerate(items)}
    if kind == 8:
        nested: Any = items
        for _ in range(rng.choice((1, 13, 14, 15, 16, 200))):
            nested = [nested] if rng.random() < 0.5 else {"k": nested}
        return nested
    return items if kind < 11 else tuple(items)


def test_values(rng: random.Random) -> None:
    """``encode``, ``decode``, ``pack``, ``unpackb``: the same bytes and values, and the same errors."""
    plain, plain_canonical = _plain(codec), _plain(hash_chain).canonical
    for _ in range(ROUNDS):
        value = _value(rng)
        assert _outcome(codec.encode, value) == _outcome(plain.encode, value)
        assert _outcome(codec.pack, value) == _outcome(plain.pack, value)
        assert _outcome(hash_chain.canonical, value) == _outcome(plain_canonical, value)
        try:
            raw = plain.encode(value)
        except (TypeError, ValueError, LimitExceededError):
            raw = rng.choice(BOMBS)
        for data in (raw, mutated(raw, rng)):
            assert _outcome(codec.decode, data) == _outcome(plain.decode, data)
            assert _outcome(codec.unpackb, data) == _outcome(plain.unpackb, data)


def test_hashes_of_events(rng: random.Random) -> None:
    """The hash of an event is the same in both chains; a field that no event has is the same error."""
    plain = _plain(hash_chain)
    for _ in range(ROUNDS):
        event_type = rng.choice(("e", "tool_call", "é" * rng.choice(SIZES), "\ud800"))
        fields = (rng.choice(INTEGERS), event_type, bytes(rng.choice(SIZES)), rng.choice(INTEGERS), rng.randbytes(32))
        for chain in hash_chain.CHAINS:
            assert _outcome(hash_chain.event_hash, chain, *fields) == _outcome(plain.event_hash, chain, *fields)


def _writes(rng: random.Random) -> list[Any]:
    writes: list[Any] = []
    for _ in range(rng.choice((0, 1, 1, 1, 2, 6, 20))):
        key = b"k%d" % rng.randrange(200) if rng.random() < 0.9 else bytes(rng.choice((1, 4096, 4097)))
        value = None if rng.random() < 0.2 else rng.randbytes(rng.choice(SIZES[:10]))
        writes += (key, value, rng.choice((0, 0, 1, 127, 128, 2**40, 2**63 - 1, 2**63, -1)))
    return writes


def _request(rng: random.Random) -> bytes:
    """A request, one part of which may be anything."""
    operations = [[rng.choice(("increment", "event_append", "other")), [b"k", _value(rng)]] for _ in range(2)]
    mutations: list[Any] = [
        _writes(rng),
        rng.choice((None, None, [b"a", b"b"], [b"a"], [])),
        rng.choice((None, None, operations[:1], operations, [])),
        rng.choice((None, None, None, ["check", [1]])),
    ]
    keys = [b"r%d" % i for i in range(rng.randrange(4))]
    reads: list[Any] = [keys, [[b"", b"z"]] * rng.randrange(3)]
    if rng.random() < 0.2:
        mutations[rng.randrange(4)] = some_tree(rng)
    if rng.random() < 0.1:
        reads[rng.randrange(2)] = some_tree(rng)
    packed = codec.pack(reads) if rng.random() < 0.5 else b""
    numbers = (rng.choice(WORDS), rng.choice(WORDS), rng.choice(WORDS))
    return request.encode_request(*numbers, packed, msgpack.packb(mutations))


def test_requests(rng: random.Random) -> None:
    """A request is the same commit set, or refused with the same error, whatever a client sends."""
    plain = _plain(request)
    found = 0
    for _ in range(ROUNDS):
        try:
            message = _request(rng)
        except (ValueError, TypeError, OverflowError):  # a part that msgpack does not pack
            continue
        for data in (message, mutated(message, rng), message[: rng.randrange(len(message))]):
            expected = _outcome(plain.decode_request, data, KNOWN)
            found += expected.startswith("CommitSet")
            assert _outcome(request.decode_request, data, KNOWN) == expected
            logged = data[request.HEADER_BYTES :]
            assert _mutations(request, logged) == _mutations(plain, logged)
    assert found > ROUNDS // 10


def _mutations(module: Any, data: bytes) -> str:
    outcome = _outcome(module.decode_mutations, data)
    return outcome if outcome.startswith("tuple") else "refused"  # as TypeError or ValueError


def test_requests_at_the_limits() -> None:
    """Long keys, a list that says it is longer than its message, numbers in any width: both decide alike."""
    plain = _plain(request)
    key, value = b"\xc4\x01k", b"\xc4\x01v"
    for parts in (
        *(b"\x94\x93" + key + value + number + b"\xc0\xc0\xc0" for number in _numbers()),
        *(
            b"\x94" + size + key + value + b"\0\xc0\xc0\xc0"
            for size in (b"\xdc\0\3", b"\xdd\0\0\0\3", b"\xdd\x7f\xff\xff\xff")
        ),
        *(
            b"\x94\x93" + name + value + b"\0\xc0\xc0\xc0"
            for name in (b"\xc5\0\1k", b"\xc6\0\0\0\1k", b"\xc4\0", b"\xa1k")
        ),
        *(b"\x94\x90\xc0" + some + b"\xc0" for some in (b"\x91\x92\xa9increment\x91" + key, b"\x91\x91\xc0", b"\x90")),
        b"\x94\x90\xc0\xc0\xc0\xc0",
        b"\x94\x90\xc0\xc0",
        b"\x94\x96" + (key + value + b"\0") * 2 + b"\xc0\xc0\xc0",
    ):
        message = struct.pack("<QQQI", 1, 0, 0, 0) + parts
        assert _outcome(request.decode_request, message, KNOWN) == _outcome(plain.decode_request, message, KNOWN)


def _numbers() -> list[bytes]:
    """Headers of numbers, each with the largest and the smallest number behind it."""
    widths = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8, 0xCA: 4, 0xCB: 8}
    return [bytes((tag,)) + bytes((fill,)) * width for tag, width in widths.items() for fill in (0, 1, 0x7F, 0xFF)]


def test_frames(rng: random.Random) -> None:
    """Pieces of a stream give the same messages, the same rest and the same wish for more."""
    plain = _plain(frames)
    for _ in range(ROUNDS):
        sizes = [rng.randrange(20) for _ in range(rng.randrange(4))]
        stream = b"".join(struct.pack("<I", size) + rng.randbytes(size) for size in sizes)
        if rng.random() < 0.3:
            stream = mutated(stream, rng)
        compiled_buffer, plain_buffer = frames.FrameBuffer(), plain.FrameBuffer()
        while stream:
            size = rng.randrange(1, 60)
            piece, stream = stream[:size], stream[size:]
            expected = _outcome(plain_buffer.feed, piece)
            assert _outcome(compiled_buffer.feed, piece) == expected
            if expected == "FrameError":
                break
            assert compiled_buffer._pieces == plain_buffer._pieces
            assert compiled_buffer.wanted_bytes == plain_buffer.wanted_bytes


def test_answers_and_log_records(rng: random.Random) -> None:
    """Their bytes are the same; of damaged records both find the same, or none."""
    plain_answer, plain_log = _plain(answer), _plain(wal_format)
    for _ in range(ROUNDS):
        version, details = rng.choice(WORDS), rng.choice((None, [], [1, "x" * 300], [[[0, bytes(32)]]]))
        arguments = (rng.choice(WORDS), rng.randrange(4), version, details)
        assert answer.encode_answer(*arguments) == plain_answer.encode_answer(*arguments)
        fields: list[Any] = [rng.choice(WORDS) for _ in range(5)]
        fields += (rng.randbytes(rng.choice(SIZES[:10])), rng.randbytes(rng.choice(SIZES[:5])))
        raw = wal_format.encode_record(*fields)
        assert raw == plain_log.encode_record(*fields)
        data, offset = rng.choice(((raw, 0), (mutated(raw, rng), 0), (raw * 2, len(raw)), (raw, 8), (raw[:-9], 0)))
        assert _outcome(wal_format.decode_record, data, offset) == _outcome(plain_log.decode_record, data, offset)

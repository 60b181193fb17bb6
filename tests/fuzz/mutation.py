"""Changes that get past a parser: msgpack and JSON, also inside each other, changed node by node.

Everything is drawn from one ``random.Random``: the same seed gives the same input.
"""

from __future__ import annotations

import json
import random
import struct
from typing import Any

import msgpack

# What announces more than there is, or is what msgpack may be and shoal never writes.
TIMESTAMP_BEYOND_ALL_YEARS = b"\xc7\x0c\xff" + struct.pack(">Iq", 0, 2**62)
BOMBS = [
    b"\xdd\xff\xff\xff\xff",  # 4 billion items
    b"\xdf\xff\xff\xff\xff",  # 4 billion pairs
    b"\xc6\xff\xff\xff\xff",  # 4 GiB of bytes
    b"\xdb\xff\xff\xff\xff",  # 4 GiB of text
    b"\xc9\xff\xff\xff\xff\x05",  # 4 GiB of an extension
    b"\x91" * 5000,  # nested deeper than any value
    b"\x91" * 1000 + b"\xc0",  # as deep as msgpack goes
    b"\x81\xa1k" * 5000,
    b"\x81\x90\xc0",  # a list as a key
    b"\x81\x01\xc0",  # a number as a key
    b"\xd4\xff\x00",  # a timestamp of a wrong length
    TIMESTAMP_BEYOND_ALL_YEARS,
    b"\xc1" + TIMESTAMP_BEYOND_ALL_YEARS,
    b"\xc7\x0c\xff" + struct.pack(">Iq", 2**32 - 1, 0),
    b"\xa2\xff\xff",  # text that is no UTF-8
    b"\xc1",
    b"\xc1\xc1",
    b"",
]
NUMBERS = [
    *(0, 1, -1, 2, 3, 7, 8, 127, 255, 256, 4095, 4096, 4097, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32),
    *(2**40, 2**48, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1, -(2**31), -(2**63)),
]
LEAVES: list[Any] = [
    *(None, True, False, 0.0, -1.5, float("nan"), float("inf"), "", "x", "key", "\0", "é" * 600, b"", b"k", b"\0"),
    *(b"k" * 4096, b"k" * 4097, b"\xff" * 9, [], {}, [[]], {"k": None}, [None] * 3, {b"k": 1}, {"": 0}),
    *(msgpack.ExtType(5, b"x"), msgpack.Timestamp(2**40, 5)),
]
_DEEPEST = 40


def mutated(data: bytes, dice: random.Random, most_bytes: int = 1 << 16) -> bytes:
    """A changed copy of an input."""
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        data = _mutated_bytes(data, dice, 0)
    return data[:most_bytes]


def some_tree(dice: random.Random, depth: int = 0) -> Any:
    """Any value msgpack holds."""
    kind = dice.randrange(8 if depth < 4 else 5)
    if kind < 2:
        return dice.choice(NUMBERS)
    if kind < 4:
        return dice.choice(LEAVES)
    if kind == 4:
        return dice.choice(BOMBS)
    if kind < 7:
        return [some_tree(dice, depth + 1) for _ in range(dice.randrange(5))]
    return {dice.choice(("", "k", "kind", b"k")): some_tree(dice, depth + 1) for _ in range(dice.randrange(4))}


def _mutated_bytes(data: bytes, dice: random.Random, depth: int) -> bytes:
    """Bytes changed as what they hold (msgpack behind a byte or none, JSON), or as mere bytes."""
    if depth < _DEEPEST and dice.random() < 0.85:
        start = 1 if data[:1] == b"\xc1" else 0
        try:
            tree = msgpack.unpackb(data[start:], strict_map_key=False)
        except (ValueError, TypeError):
            tree = None
        if tree is not None and not (type(tree) is int and len(data) == 1):
            try:
                return data[:start] + bytes(msgpack.packb(_mutated_tree(tree, dice, depth)))
            except (ValueError, OverflowError):  # nested too deep, a number beyond 64 bits
                return data
        if data[:1] in (b"{", b"["):
            try:
                return (
                    json.dumps(_mutated_tree(json.loads(data), dice, depth), default=str, skipkeys=True).encode()
                    + b"\n"
                )
            except (ValueError, RecursionError):
                pass
    return _mutated_raw(data, dice)


def _mutated_tree(tree: Any, dice: random.Random, depth: int) -> Any:
    """One node somewhere changed."""
    if type(tree) is list and tree and dice.random() < 0.9:
        return _mutated_list(tree, dice, depth)
    if type(tree) is dict and tree and dice.random() < 0.9:
        copy = dict(tree)
        key = dice.choice(list(copy))
        if dice.random() < 0.8:
            copy[key] = _mutated_tree(copy[key], dice, depth + 1)
        else:
            value = copy.pop(key)
            if dice.random() < 0.5:
                copy[dice.choice(("", "k", b"k", "x" * 40))] = value
        return copy
    if type(tree) is bytes and dice.random() < 0.2:  # nearly what it was
        return dice.choice((b"", tree.decode("latin-1"), None, 0, [tree], tree[:200] * 40, b"k" * 4097, True))
    if type(tree) is bytes and dice.random() < 0.8:
        return _mutated_bytes(tree, dice, depth + 1)
    if type(tree) is str and dice.random() < 0.5:
        return _mutated_raw(tree.encode("utf-8", "surrogatepass"), dice).decode(errors="replace")
    if type(tree) is int and dice.random() < 0.5:
        return max(-(2**63), min(2**64 - 1, tree + dice.choice((-1, 1, 2, -2, 256))))
    return some_tree(dice)


def _mutated_list(tree: list[Any], dice: random.Random, depth: int) -> list[Any]:
    copy = list(tree)
    i = dice.randrange(len(copy))
    what = dice.random()
    if what < 0.65 and depth < _DEEPEST:
        copy[i] = _mutated_tree(copy[i], dice, depth + 1)
    elif what < 0.72:
        del copy[i]
    elif what < 0.80:
        copy.insert(i, copy[dice.randrange(len(copy))])
    elif what < 0.85:
        copy[i], copy[-1] = copy[-1], copy[i]
    elif what < 0.90:
        copy.insert(i, some_tree(dice))
    elif what < 0.95:
        copy += copy[i:]  # writes twice, say
    else:
        copy[i] = [copy[i]] if dice.random() < 0.5 else {"k": copy[i]}
    return copy


def _mutated_raw(data: bytes, dice: random.Random) -> bytes:
    place = dice.randrange(len(data) + 1)
    what = dice.randrange(7)
    if what == 0 and data:
        place = min(place, len(data) - 1)
        return data[:place] + bytes((data[place] ^ 1 << dice.randrange(8),)) + data[place + 1 :]
    if what == 1:
        return data[:place]
    if what == 2:
        return data[:place] + dice.choice(BOMBS) + data[place:]
    if what == 3:
        return data[:place] + struct.pack("<I", dice.choice(NUMBERS) % 2**32) + data[place + 4 :]
    if what == 4:
        return data[:place] + struct.pack("<Q", dice.choice(NUMBERS) % 2**64) + data[place + 8 :]
    if what == 5:
        return data[:place] + data[place // 2 :]
    return data[:place] + dice.randbytes(dice.randrange(1, 9)) + data[place:]

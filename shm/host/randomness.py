"""Random bits from the kernel. ``secrets`` gives the same, and takes 5 ms to import for what nobody here uses."""

from __future__ import annotations

import os

_ID_BITS = 62


def random_bits(count: int) -> int:
    """An integer of ``count`` random bits, 64 at most.

    >>> random_bits(62) < 2**62
    True
    """
    return int.from_bytes(os.urandom(8), "big") >> 64 - count


def random_id() -> int:
    """A number from 1 to 2**62 that no other process has chosen: of a client, a watch, a ticket.

    >>> 1 <= random_id() <= 2**62
    True
    """
    return random_bits(_ID_BITS) + 1

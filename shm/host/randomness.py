"""Random bits from the kernel. ``secrets`` gives the same, and takes 5 ms to import for what nobody here uses."""

from __future__ import annotations

import os


def random_bits(count: int) -> int:
    """An integer of ``count`` random bits, 64 at most.

    >>> random_bits(62) < 2**62
    True
    """
    return int.from_bytes(os.urandom(8), "big") >> 64 - count

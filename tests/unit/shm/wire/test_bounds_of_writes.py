"""What may be written: one rule, which has three forms for speed.

``check_writes`` looks at one key after the other, its twin in C at the bytes of a request, and a checkpoint at a column
of many keys. What one of them takes and another refuses would be a key that a restart loses.
"""

from __future__ import annotations

from typing import Any

import pytest

from shoal.shm.files import checkpoint
from shoal.shm.limits import MAX_ENCODED_VALUE_BYTES, MAX_ENGINE_KEY_BYTES, MAX_TIME_MS
from shoal.shm.wire import request

KEYS = [b"", b"k", b"k" * MAX_ENGINE_KEY_BYTES, b"k" * (MAX_ENGINE_KEY_BYTES + 1), "k", 1, None]
VALUES = [b"", b"v" * MAX_ENCODED_VALUE_BYTES, b"v" * (MAX_ENCODED_VALUE_BYTES + 1), "v", 1]
TIMES = [-1, 0, MAX_TIME_MS, MAX_TIME_MS + 1, True, 1.0, None, b""]


def _raises(call: Any, *arguments: Any) -> bool:
    try:
        call(*arguments)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize(
    "write",
    [*([key, b"v", 0] for key in KEYS), *([b"k", value, 0] for value in VALUES), *([b"k", b"v", ms] for ms in TIMES)],
    ids=lambda write: f"{write!r:.40}",
)
def test_each_form_has_the_same_bounds(write: list[Any]) -> None:
    """Each takes what the others take, at and beyond each bound, and of each type."""
    key, value, expires_ms = write
    refused = _raises(request.check_writes, write)
    assert _raises(request.decode_mutations, request.encode_mutations(write)) == refused
    block = checkpoint.KeyBlock([key, value, 1, expires_ms])
    try:
        is_sound = checkpoint._is_sound(block, b"", 1)
    except TypeError:  # a column of another type
        is_sound = False
    assert is_sound is not refused

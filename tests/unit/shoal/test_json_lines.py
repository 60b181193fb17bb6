"""Values as lines of JSON: whatever can be stored comes back as it was, and nothing else is read."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.shm import codec
from shoal.transfer import json_lines
from tests.support.stores.full_store import VALUES

TEXTS = st.text(st.characters(exclude_categories=()), max_size=8)


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_nothing_is_lost(value: Any) -> None:
    """What was stored is what comes back, bit by bit; the line is one line of strict ASCII JSON."""
    line = json_lines.dump(value)
    assert codec.encode(json_lines.load(line)) == codec.encode(codec.decode(codec.encode(value)))
    assert line.isascii()
    assert line.count(b"\n") == 1
    json.loads(line, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))


VALUES_OF_ANY_KIND = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | TEXTS | st.binary(max_size=8)
    | st.datetimes(timezones=st.timezones()).filter(lambda moment: 1 < moment.year < 9999)
    | st.binary(min_size=8, max_size=8).map(lambda raw: struct.unpack(">d", raw)[0]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(TEXTS | st.sampled_from(["$int", "$text:", "$$", "$bytes"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.long
@given(value=VALUES_OF_ANY_KIND)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_nothing_is_lost_of_any_value(value: Any) -> None:
    """Whatever can be stored."""
    stored = codec.encode(value)
    assert codec.encode(json_lines.load(json_lines.dump(codec.decode(stored)))) == stored


def test_values_as_deep_as_can_be_stored() -> None:
    """Lists and dicts inside each other, with keys that need their dollar signs."""
    value: Any = 0
    for i in range(256):
        value = [value] if i % 2 else {"$k": value}
    codec.encode(value)
    assert json_lines.load(json_lines.dump(value)) == value


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b"NaN", b"-Infinity", b"1e999", b'"', b"'a'", b"[1,]", b"1 2", b"\xff", b"\xef\xbb\xbf1",
        b"[" * 5000, b'{"a":' * 5000, b"1" * 5000, b'"\x01"', b'{"a":1,"a":2}', b'{"$a":1}', b'{"a":1,"$b":2}',
        b'{"$bytes":1}', b'{"$bytes":"!"}', b'{"$bytes":"eA=="', b'{"$datetime":"2024-01-01"}', b'{"$datetime":"x"}',
        b'{"$float":"1.5"}', b'{"$float":"xx"}', b'{"$int":"x"}', b'{"$int":"' + b"9" * 5000 + b'"}',
        b'{"$text":"/w=="}', b'{"$text:!":1}', b'{"$$a":1,"$text:JGE=":2,"$text:JCRh":3}',
    ],
)  # fmt: skip
def test_what_dump_does_not_write_is_refused(line: bytes) -> None:
    """ValueError, whatever it is."""
    with pytest.raises(ValueError, match=r"."):
        json_lines.load(line)


def test_lines_are_bounded() -> None:
    """A line longer than any export has is refused before it is parsed."""
    with pytest.raises(ValueError, match="longest"):
        json_lines.load(b" " * (json_lines.LONGEST_LINE_BYTES + 1))
    with pytest.raises(ValueError, match="items"):
        json_lines.load(b"[" + b"0," * (17 << 20) + b"0]")

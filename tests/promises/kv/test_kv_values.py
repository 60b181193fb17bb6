"""KVStore: what was put is what get gives, whatever kind of value it is (section 3 of the contract)."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

import shoal

VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
    0.0,
    1.5,
    -1e308,
    math.inf,
    -math.inf,
    "",
    "text",
    "nul \0 inside",
    "🦀",
    b"",
    b"\x00\xff",
    [],
    [1, [2, [3, []]]],
    {},
    {"": "", "a": {"b": [None, True, {"c": b"x"}]}},
    ["1", 1, 1.0, True, None],
]


class TestPutAndGet:
    def test_value_comes_back(self, kv: shoal.KVStore, run: str) -> None:
        """What was put is what get gives; the last put wins."""
        kv.put(run, "k", "first")
        kv.put(run, "k", {"now": 2})
        assert kv.get(run, "k") == {"now": 2}

    def test_absent_key_gives_the_default(self, kv: shoal.KVStore, run: str) -> None:
        """get of an absent key is None, or the default given."""
        marker = object()
        assert kv.get(run, "nothing") is None
        assert kv.get(run, "nothing", marker) is marker

    def test_a_stored_none_is_not_absent(self, kv: shoal.KVStore, run: str) -> None:
        """None is a value: the default is not used, and the key exists."""
        kv.put(run, "k", None)
        assert kv.get(run, "k", "default") is None
        assert kv.exists(run, "k")
        assert kv.list_with_values(run) == [("k", None)]

    @pytest.mark.parametrize("value", VALUES, ids=repr)
    def test_every_kind_of_value_keeps_value_and_type(self, kv: shoal.KVStore, run: str, value: Any) -> None:
        """Every storable value reads back equal, with its type, at the top and nested."""
        kv.put(run, "top", value)
        kv.put(run, "nested", {"in": [value]})
        top, nested = kv.get(run, "top"), kv.get(run, "nested")["in"][0]
        assert (top, type(top)) == (value, type(value))
        assert (nested, type(nested)) == (value, type(value))

    def test_bool_int_and_float_stay_apart(self, kv: shoal.KVStore, run: str) -> None:
        """1, 1.0 and True keep their types inside a list, too."""
        kv.put(run, "k", [1, 1.0, True])
        assert [type(item) for item in kv.get(run, "k")] == [int, float, bool]

    def test_nan_and_negative_zero(self, kv: shoal.KVStore, run: str) -> None:
        """Floats are kept bit for bit as far as Python can tell."""
        kv.put(run, "k", [math.nan, -0.0])
        nan, zero = kv.get(run, "k")
        assert math.isnan(nan)
        assert math.copysign(1, zero) == -1

    def test_tuple_reads_as_list(self, kv: shoal.KVStore, run: str) -> None:
        """A tuple comes back as a list, nested ones too."""
        kv.put(run, "k", (1, ("a", {"t": ()})))
        assert kv.get(run, "k") == [1, ["a", {"t": []}]]

    @pytest.mark.parametrize(
        "moment",
        [
            datetime(2026, 11, 22, 18, 0, 0, 123456, tzinfo=UTC),
            datetime(2026, 11, 22, 18, tzinfo=timezone(timedelta(hours=5, minutes=30))),
            datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
            datetime(1, 1, 1, tzinfo=UTC),
            datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        ],
        ids=str,
    )
    def test_aware_datetime_comes_back_equal(self, kv: shoal.KVStore, run: str, moment: Any) -> None:
        """An aware datetime is the same moment when read, to the microsecond, and aware."""
        kv.put(run, "k", moment)
        found = kv.get(run, "k")
        assert found == moment
        assert found.utcoffset() is not None

    @pytest.mark.parametrize(
        "moment",
        [
            datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
            datetime(9999, 12, 31, 23, 30, tzinfo=timezone(timedelta(hours=-1))),
        ],
        ids=str,
    )
    def test_datetime_beyond_utc_is_refused_or_readable(self, kv: shoal.KVStore, run: str, moment: Any) -> None:
        """A datetime that has no UTC form is refused by put, or reads back: never stored and unreadable."""
        try:
            kv.put(run, "k", moment)
        except (TypeError, ValueError):
            assert not kv.exists(run, "k")
        else:
            assert kv.get(run, "k") == moment

    def test_what_is_read_is_a_copy(self, kv: shoal.KVStore, run: str) -> None:
        """Changing a value that was read changes nothing in the store."""
        kv.put(run, "k", {"list": [1]})
        kv.get(run, "k")["list"].append(2)
        assert kv.get(run, "k") == {"list": [1]}

    def test_large_value(self, kv: shoal.KVStore, run: str) -> None:
        """A value of several MiB comes back whole, and can be replaced by a small one."""
        value = bytes(range(256)) * (5 * 4096)
        kv.put(run, "k", value)
        assert kv.get(run, "k") == value
        kv.put(run, "k", b"small")
        assert kv.get(run, "k") == b"small"

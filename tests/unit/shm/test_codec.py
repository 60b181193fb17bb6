"""shm.codec: values to bytes and back."""

from __future__ import annotations

import collections
import enum
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.primitives.rules.hash_chain import canonical
from shoal.shm import limits
from shoal.shm.codec import decode, encode
from shoal.shm.errors import LimitExceededError

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec=None, exclude_categories=()))
    | st.binary()
    | st.datetimes(
        datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7))])
    )
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=20
)


def same(left: Any, right: Any) -> bool:
    """Equal, of the same types all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return bool(left == right)


@pytest.mark.long
@given(VALUES)
def test_round_trip(value: Any) -> None:
    """Every storable value comes back equal and of the same type, at every depth, lone surrogates included."""
    assert same(decode(encode(value)), value)


@pytest.mark.long
@given(VALUES, VALUES)
def test_different_values_have_different_bytes(left: Any, right: Any) -> None:
    """Two values have the same stored form only if they are the same."""
    if encode(left) == encode(right):
        assert same(decode(encode(left)), decode(encode(right)))


def test_subclasses_read_back_as_what_they_extend() -> None:
    """An IntEnum reads as int, a namedtuple as list, an OrderedDict as dict, a str subclass as str."""
    color = enum.IntEnum("color", "RED")
    text = type("Text", (str,), {})
    point = collections.namedtuple("point", "x y")
    value = {"e": color.RED, "n": point(1, 2), "o": collections.OrderedDict(a=1), "s": text("t")}
    found = decode(encode(value))
    assert found == {"e": 1, "n": [1, 2], "o": {"a": 1}, "s": "t"}
    assert [type(item) for item in found.values()] == [int, list, dict, str]


class _Moment(datetime):
    """As libraries for times have, and those that stop the clock in tests."""


@pytest.mark.parametrize("form", [encode, canonical])
def test_a_subclass_of_datetime(monkeypatch: pytest.MonkeyPatch, form: Callable[[Any], bytes]) -> None:
    """It has the form of the datetime that it extends, to the microsecond, also if it has taken datetime's place."""
    summer, winter = (
        _Moment(2024, 10, 27, 2, 30, 0, 123456, tzinfo=ZoneInfo("Europe/Berlin"), fold=fold) for fold in (0, 1)
    )
    moments = [summer, winter, _Moment(1, 1, 1, tzinfo=UTC), _Moment(9999, 12, 31, 23, 59, 59, 999999, UTC)]
    plain = [datetime.combine(moment.date(), moment.timetz()) for moment in moments]
    expected, expected_winter = form({"at": plain}), form(plain[1])
    for _ in range(2):
        assert form({"at": moments}) == expected
        assert form(winter) == expected_winter != form(summer)
        found = decode(form(moments))
        assert {type(moment) for moment in found} == {datetime}
        assert found == [moment.astimezone(UTC) for moment in plain]
        monkeypatch.setattr("datetime.datetime", _Moment)


class _Alone(str):
    """A text that equals only itself."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


@pytest.mark.parametrize("form", [encode, canonical])
def test_keys_that_are_the_same_text(form: Callable[[Any], bytes]) -> None:
    """Only the text of a key is stored: a dict with two keys of one text is refused, as one would be lost."""
    for value, where in (
        ({_Alone("a"): 1, _Alone("a"): 2}, r"\$"),
        ({"in": [{_Alone("a"): 1, "a": 2}]}, r"\$.in\[0\]"),
    ):
        with pytest.raises(TypeError, match=rf"value at {where} has two keys that are the text 'a'"):
            form(value)
    assert decode(form({_Alone("a"): [1], _Alone("b"): {_Alone("a"): 2}})) == {"a": [1], "b": {"a": 2}}
    assert form({_Alone("b"): 1.5, "a": []}) == form({"b": 1.5, "a": []} if form is encode else {"a": [], "b": 1.5})


def test_containers_that_miscount() -> None:
    """One of a user's own type that gives other than it announces is refused: nobody could read what is stored."""

    class Items(dict[str, int]):
        def items(self) -> Any:
            return [("a", 1), ("b", 2)]

    class Length(dict[str, int]):
        def __len__(self) -> int:
            return 5

    class Elements(list[int]):
        def __iter__(self) -> Any:
            return iter([7])

    for value, text in (
        (Items(a=1), "gives 2 elements and counts 1"),
        (Length(a=1), "gives 1 elements and counts 5"),
        (Elements([1, 2]), "gives 1 elements and counts 2"),
    ):
        with pytest.raises(TypeError, match=rf"value at \$\[0\] {text}"):
            encode([value])


def test_a_tuple_that_gives_its_elements_itself() -> None:
    """What it gives is stored, as of a list of a user's own type, alone and inside others."""

    class Other(tuple[int, ...]):
        def __iter__(self) -> Any:
            return iter([7] * len(self))

    assert decode(encode(Other((1, 2)))) == [7, 7]
    assert decode(encode({"in": [Other((1, 2))]})) == {"in": [[7, 7]]}
    assert encode(Other((1, 2))) == canonical(Other((1, 2)))


def test_int_bounds() -> None:
    """-2**63 to 2**64 - 1 and not one more."""
    for value in (-(2**63), 2**64 - 1):
        assert decode(encode(value)) == value
    for value in (-(2**63) - 1, 2**64):
        with pytest.raises(TypeError, match=str(value)):
            encode(value)


def test_nan() -> None:
    """NaN is stored."""
    assert math.isnan(decode(encode(math.nan)))


def test_nesting() -> None:
    """Lists and dicts inside each other are stored as deep as the limit says, and refused beyond, never a crash."""

    def nested(depth: Any, wrap: Any) -> Any:
        value = 0
        for _ in range(depth):
            value = wrap(value)
        return value

    for wrap in (lambda v: [v], lambda v: {"k": v}):
        deep = nested(limits.MAX_NESTING, wrap)
        assert decode(encode(deep)) == deep
        with pytest.raises(LimitExceededError) as caught:
            encode(nested(5000, wrap))
        assert caught.value.limit == limits.MAX_NESTING


def test_size_limit_is_of_the_stored_form() -> None:
    """16 MiB is the limit of the encoded value; the error has the encoded size."""
    assert len(encode(bytes(limits.MAX_VALUE_BYTES - 5))) == limits.MAX_VALUE_BYTES
    with pytest.raises(LimitExceededError) as caught:
        encode([bytes(limits.MAX_VALUE_BYTES - 5)])
    assert caught.value.size == limits.MAX_VALUE_BYTES + 1

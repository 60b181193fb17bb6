"""primitives.key_space: users' names in one ordered key space, without collisions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.primitives.keys import Namespace, after, encode_prefix, encode_text, sized, texts_of, user_text
from shoal.primitives.rules.layouts.parts import namespace_of, parts_end, run_of
from shoal.primitives.rules.tags import Tag
from shoal.shm.errors import CorruptionError, LimitExceededError
from shoal.shm.limits import MAX_ENGINE_KEY_BYTES

TEXT = st.text(st.sampled_from("\0\x01\x02a_/\x7fé\uffff🦀"), min_size=1, max_size=6)
NAME = TEXT | st.sampled_from(["default", "defaul", "default\0", "\x07default", "\x81"])
PATHS = st.tuples(NAME, NAME, NAME, NAME, st.sampled_from(sorted(Tag)), TEXT)


def engine_key(path: Any) -> bytes:
    tenant, app, agent, run, tag, text = path
    return Namespace(tenant, app, agent)._run_prefix(run) + bytes((tag,)) + encode_text("key", text)


KINDS = {Tag.TRACE: "traces", Tag.RUN: "runs", Tag.BUDGET: "budget", Tag.IDEMPOTENCY: "idempotency key"}


@given(PATHS, PATHS)
def test_different_names_are_different_keys(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    """Two keys are equal only if every part is."""
    assert (engine_key(one) == engine_key(other)) == (one == other)


@given(PATHS, PATHS)
def test_a_run_is_one_range(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    """A key is in the range of a run exactly if it belongs to it, whatever the names hold."""
    prefix = Namespace(*one[:3])._run_prefix(one[3])
    inside = prefix <= engine_key(other) < after(prefix)
    assert inside == (one[:4] == other[:4])


@given(PATHS)
def test_the_names_come_back(path: Any) -> None:
    """A key says whose it is, whatever the names are; "default" is one byte."""
    key, space = engine_key(path), Namespace(*path[:3])
    assert texts_of(key) == [*path[:4]]
    assert (namespace_of(key), run_of(key)) == (space._prefix, space._run_prefix(path[3]))
    assert key[parts_end(key)] == path[4]
    assert texts_of(space._runs_prefix()) == [*path[:3], ""]
    assert Namespace()._run_prefix("r") == b"\x81\x81\x81\1r"


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"\x81\x81",
        b"\x81\x81\x81",  # no part for the run, not even an empty one
        b"\x81\x81\x81\x05run",
        b"\x81\x81\x81\x81",  # a run's name has a length
        b"\x82\x81\x81\0",
        b"\0\x81\x81\1r",
        b"\x07default\x81\x81\1r",  # there is one key for each name
    ],
)
def test_what_no_primitive_writes(key: bytes) -> None:
    """Other bytes are damage, not somebody's names."""
    with pytest.raises(CorruptionError):
        texts_of(key)


@given(PATHS, TEXT)
def test_order_is_the_order_of_strings(path: Any, text: Any) -> None:
    """Keys of one run and tag sort as Python sorts the names."""
    left, right = engine_key(path), engine_key((*path[:5], text))
    assert (left < right) == (path[5] < text)


@given(PATHS)
def test_user_text_is_the_name(path: Any) -> None:
    """The user's name can be had back from a key, for messages; of the other primitives with what kind it is."""
    *_, run, tag, text = path
    record = Namespace(*path[:3])._run_prefix(run) + bytes((tag,)) + b"\0" + text.encode()
    if tag == Tag.EVENT:
        assert user_text(engine_key(path)) == user_text(record) == "events"
    elif tag in KINDS:
        assert user_text(record) == f"{KINDS[tag]} {text}"
    elif tag == Tag.QUEUE:
        assert user_text(record[: -1 - len(text.encode())] + sized(text.encode()) + b"\0") == f"queue {text}"
    else:
        assert user_text(engine_key(path)) == text


@given(st.sampled_from((Tag.TRACE, Tag.RUN)), st.integers(1, 255), st.binary(max_size=6))
def test_user_text_of_an_index_key_is_its_kind(tag: Any, kind: Any, rest: Any) -> None:
    """What indices hold is no name of a user's: only the kind is told, whatever bytes follow."""
    key = Namespace()._run_prefix("r") + bytes((tag, kind)) + rest
    assert user_text(key) == {Tag.TRACE: "traces", Tag.RUN: "runs"}[tag]


@given(st.binary(max_size=40))
def test_user_text_of_anything_is_text(key: Any) -> None:
    """A message never fails over the key it names."""
    assert isinstance(user_text(key), str)


@given(st.binary(min_size=1, max_size=5).filter(lambda b: b.strip(b"\xff")), st.binary(max_size=5))
def test_after_is_the_end_of_the_prefix(prefix: Any, other: Any) -> None:
    """after(p) is above everything that begins with p and not above anything else that is above p."""
    assert (prefix <= other < after(prefix)) == other.startswith(prefix)


def test_longest_key_fits_the_engine() -> None:
    """The longest names together are within what the engine takes."""
    longest = engine_key(("x" * 128,) * 4 + (Tag.KV, "y" * 1024))
    assert len(longest) <= MAX_ENGINE_KEY_BYTES


def test_encode_text_names_what_is_wrong() -> None:
    """Type, emptiness, length and encoding each have their error, with the name of the argument."""
    assert encode_text("name", "é") == b"\xc3\xa9"
    assert encode_prefix("") == b""
    assert encode_prefix("a") == b"a"
    with pytest.raises(TypeError, match="name has type bytes; give a str"):
        encode_text("name", b"x")
    with pytest.raises(ValueError, match="name is empty; give 1 to 1,024 bytes"):
        encode_text("name", "")
    with pytest.raises(ValueError, match=r"not valid text: .* at 5000; give one that has UTF-8") as caught:
        encode_text("name", "a" * 5000 + "\ud800")
    assert len(str(caught.value)) < 200  # not all of the text
    with pytest.raises(LimitExceededError, match="length of name in bytes is 3; the limit is 2"):
        encode_text("name", "abc", 2)


def test_namespace_forgets_no_run() -> None:
    """However many runs were used, each keeps its own prefix."""
    space = Namespace()
    prefixes = [space._run_prefix(f"r{number}") for number in range(10_000)]
    assert len(set(prefixes)) == 10_000
    assert [space._run_prefix(f"r{number}") for number in range(10_000)] == prefixes

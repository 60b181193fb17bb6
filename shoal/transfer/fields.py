"""What every kind of record of an export has, and checks of its fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from shoal.primitives.engine import Engine
from shoal.primitives.keys import Namespace
from shoal.primitives.rules.hash_chain import HASH_BYTES
from shoal.shm.limits import MAX_IMPORTED_COUNT, MAX_TIME_MS

Fields = dict[str, Any]


class RecordKind(NamedTuple):
    """How to handle a kind of record. ``make`` and ``size`` raise what the primitives raise."""

    show: Callable[[Any], Fields]  # item -> fields of the JSON object
    make: Callable[[str, Fields], Any]  # run id, fields -> item
    size: Callable[[bytes, Any], int]  # run's prefix, item -> bound of its bytes in a commit; checks the whole item
    read: Callable[[Engine, Namespace, str], Iterator[Any]]  # engine, namespace, run id -> all items of a run
    restore: Callable[[Engine, Namespace, str, Any], None]  # writes an item; AlreadyExistsError if it is there
    place: Callable[[Any], tuple[str | bytes, int]]  # item -> by what the items of a run are sorted; "" if they are not


def check_names(kind: str, fields: Fields, names: tuple[str, ...]) -> None:
    """``ValueError`` unless a record has these fields and no other."""
    missing = [name for name in names if name not in fields]
    unknown = [name for name in fields if name not in names]
    if missing or unknown:
        problem = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(map(repr, unknown[:5]))!s:.200}"
        raise ValueError(f"a record of kind {kind} {problem}; its fields are {', '.join(names)}")


def check_whole(name: str, value: object, least: int) -> None:
    """``ValueError`` unless the field is an integer from ``least`` to 2**63 - 1."""
    if type(value) is not int or not least <= value <= MAX_TIME_MS:
        raise ValueError(f"{name} is {value!r:.100}, not an integer from {least} to 2**63 - 1")


def check_count_on(name: str, value: int) -> None:
    """``ValueError`` if the field is more than any store has come to: nothing could count on from it."""
    if value > MAX_IMPORTED_COUNT:
        raise ValueError(f"{name} is {value}, more than any store has come to")


def check_tags(tags: object) -> None:
    """``TypeError`` or ``ValueError`` unless these are tags."""
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise TypeError(f"tags is {tags!r:.100}, not a list of str")
    if len(set(tags)) < len(tags):
        raise ValueError("tags has the same tag twice")


def hash_of(text: object) -> bytes:
    """The hash in a field; ``ValueError`` if there is none."""
    if not isinstance(text, str) or len(text) != 2 * HASH_BYTES:
        raise ValueError(f"a hash is {text!r:.100}, not {2 * HASH_BYTES} characters of hex")
    return bytes.fromhex(text)

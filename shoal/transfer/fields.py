"""Checks of the fields of an export's records, for all kinds of them."""

from __future__ import annotations

from typing import Any

from shoal.primitives.rules.hash_chain import HASH_BYTES

LATEST_MS = 2**63 - 1

Fields = dict[str, Any]


def check_names(kind: str, fields: Fields, names: tuple[str, ...]) -> None:
    """ValueError unless a record has exactly the fields ``names``."""
    missing = [name for name in names if name not in fields]
    unknown = [name for name in fields if name not in names]
    if missing or unknown:
        problem = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(map(repr, unknown[:5]))!s:.200}"
        raise ValueError(f"a record of kind {kind} {problem}; its fields are {', '.join(names)}")


def check_whole(name: str, value: object, least: int) -> None:
    """ValueError unless ``value`` is a whole number from ``least`` that can be stored."""
    if type(value) is not int or not least <= value <= LATEST_MS:
        raise ValueError(f"{name} is {value!r:.100}, not an integer from {least} to 2**63 - 1")


def check_tags(tags: object) -> None:
    """TypeError or ValueError unless ``tags`` are tags as they are kept: each once."""
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise TypeError(f"tags is {tags!r:.100}, not a list of str")
    if len(set(tags)) < len(tags):
        raise ValueError("tags has the same tag twice")


def hash_of(text: object) -> bytes:
    """The hash in a field; ValueError if there is none."""
    if not isinstance(text, str) or len(text) != 2 * HASH_BYTES:
        raise ValueError(f"a hash is {text!r:.100}, not {2 * HASH_BYTES} characters of hex")
    return bytes.fromhex(text)

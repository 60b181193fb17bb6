"""Checks of the fields that the records of an export have; each raises ``TypeError`` or ``ValueError``."""

from __future__ import annotations

from typing import Any

_LARGEST = 2**63 - 1


def check_names(kind: str, fields: dict[str, Any], names: tuple[str, ...]) -> None:
    """A record, or a part of one, has the fields ``names`` and no others."""
    missing = [name for name in names if name not in fields]
    unknown = [name for name in fields if name not in names]
    if missing or unknown:
        problem = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(map(repr, unknown[:5]))!s:.200}"
        raise ValueError(f"a record of kind {kind} {problem}; its fields are {', '.join(names)}")


def check_whole(name: str, value: object, least: int) -> None:
    """A field is an integer from ``least``."""
    if type(value) is not int or not least <= value <= _LARGEST:
        raise ValueError(f"{name} is {value!r:.100}, not an integer from {least} to 2**63 - 1")


def check_tags(tags: object) -> None:
    """A field is a list of tags, none of them twice."""
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise TypeError(f"tags is {tags!r:.100}, not a list of str")
    if len(set(tags)) < len(tags):
        raise ValueError("tags has the same tag twice")

"""What a test knows to be there."""

from typing import TypeVar

_T = TypeVar("_T")


def present(found: _T | None) -> _T:
    """``found``, which is not None: a fixture or an earlier step of the test has stored it."""
    assert found is not None
    return found

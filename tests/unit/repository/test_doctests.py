"""The examples in the docstrings say the truth."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import shoal
from tests.support.repository import ROOT
from tests.support.slow import slow

pytestmark = pytest.mark.plain

MODULES = ["shoal"]  # public classes say that this is their module
MODULES += sorted(
    module.name
    for module in pkgutil.walk_packages(shoal.__path__, "shoal.")
    if not module.name.startswith("shoal.bench") and not module.name.endswith("__main__")
)


def test_modules_are_found() -> None:
    """The walk sees every floor."""
    assert {"shoal.database", "shoal.shm.codec", "shoal.primitives.facades.kv_store", "shoal.primitives.retry"} <= set(
        MODULES
    )


# Those of public classes, ``shoal`` says to have them, are run by ``contract/test_docstrings.py``.
@pytest.mark.parametrize("name", [*slow(MODULES[0]), *MODULES[1:]])
def test_examples(name: str) -> None:
    """Every example of the module does what it shows."""
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


@pytest.mark.long
def test_example_of_the_asyncio_page() -> None:
    """docs/asyncio.md shows what happens."""
    pytest.importorskip("greenlet")
    result = doctest.testfile(str(ROOT / "docs" / "asyncio.md"), module_relative=False)
    assert (result.attempted, result.failed) == (4, 0)


@pytest.mark.parametrize("name", ["primitives.md", "patterns.md"])
def test_examples_of_the_guides(name: str) -> None:
    """These pages show what happens."""
    guide = ROOT / "docs" / name
    result = doctest.testfile(str(guide), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 30
    assert result.failed == 0


def test_examples_about_exactly_once() -> None:
    """docs/exactly_once.md shows what happens."""
    result = doctest.testfile(str(ROOT / "docs" / "exactly_once.md"), module_relative=False)
    assert result.attempted > 15
    assert result.failed == 0

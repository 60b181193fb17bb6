"""Errors as users and other processes see them."""

from __future__ import annotations

import pickle
import traceback

import pytest

import shoal
from shoal.shm import errors, fleet_errors
from tests.support.present import present

ARGUMENTS = {
    "ConflictError": ("key", 3, 4),
    "SnapshotExpiredError": (3, 9),
    "CASConflictError": ("cell", 1, 2),
    "InvalidStatusTransitionError": (shoal.RunStatus.Completed, shoal.RunStatus.Active),
    "LimitExceededError": ("size of the value in bytes", 10, 11, "split it"),
    "LeaseHeldError": ("deploy", 30_000, 4711, 4712),
    "FencedError": ("deploy", 7, 4711),
    "BudgetExceededError": ("tokens", 500, 120.5),
    "InDoubtError": ("charge 42", 1_700_000_000_000),
    "TaskFailedError": ("mail/1", "Dead", "ValueError: no address"),
    "StoreMovedError": ("/store", True),
    "WorkerTaskError": ("Broken", "text", "Traceback ..."),
    "TaskTimeoutError": ("work", 1.5),
    "CorruptionError": ("wal-1.log", 64, "a record", "zeros"),
}
DEFINED = vars(errors) | vars(fleet_errors)
# Those of another module stay inside shoal.
NAMES = sorted(name for name, found in DEFINED.items() if isinstance(found, type) and found.__module__ == "shoal")


def made(name: str) -> shoal.ShoalError:
    error: shoal.ShoalError = getattr(shoal, name)(*ARGUMENTS.get(name, ("a text",)))
    return error


def test_every_error_is_public() -> None:
    """``shoal`` has every class of the hierarchy under its own name."""
    assert all(getattr(shoal, name) is DEFINED[name] for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
class TestEachError:
    def test_is_named_as_users_name_it(self, name: str) -> None:
        """A traceback and a pickle say ``shoal.NAME``, wherever the class is defined."""
        error = made(name)
        assert traceback.format_exception_only(error)[0].startswith(f"shoal.{name}: ")
        assert b"shoal.shm" not in pickle.dumps(error)

    def test_survives_pickling(self, name: str) -> None:
        """Class, arguments, attributes and text are the same afterwards."""
        error = made(name)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            back = pickle.loads(pickle.dumps(error, protocol))
            assert type(back) is type(error)
            assert (back.args, vars(back), str(back)) == (error.args, vars(error), str(error))

    def test_documents_its_attributes(self, name: str) -> None:
        """The docstring names every attribute an instance has."""
        error = made(name)
        assert all(f"``{attribute}``" in present(type(error).__doc__) for attribute in vars(error))


def test_what_to_do_about_changes_that_are_not_kept() -> None:
    """Who watches from too old a version is told to read and watch from now on: there is no snapshot to start again."""
    error = errors.changes_not_kept(4, 110)
    assert (error.snapshot_version, error.oldest_version) == (4, 110)
    assert str(error) == (
        "the change after version 4 is older than what the store keeps, from version 110 on; "
        "read what there is in a snapshot, and watch from its version on"
    )
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_pool_is_named_as_users_name_it() -> None:
    """``WorkerPool`` is ``shoal.WorkerPool`` in a traceback and a pickle."""
    assert shoal.WorkerPool.__module__ == "shoal"
    assert pickle.loads(pickle.dumps(shoal.WorkerPool)) is shoal.WorkerPool


@pytest.mark.parametrize(
    ("number", "expected"),
    [(1234, "1,234"), (10**400, "an integer of 1,329 bits"), (-(10**400), "minus an integer of 1,329 bits")],
)
def test_numbers_in_messages(number: int, expected: str) -> None:
    """A number of any size can be shown."""
    assert errors.shown(number, ",") == expected

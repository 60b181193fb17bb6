"""A signal handler raises at the end of a call that takes something to hold, or of the block that gives it back.

Nobody has it then, or nobody gives it back any more. So another thread gives it back, and nobody waits for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.primitives.facades import event_log, leases
from shoal.primitives.rules import requests
from shoal.workers.presence.holding import Holding
from tests.processes.interrupted.handling import RUN, Alarm
from tests.support.shared_memory import store_of
from tests.support.workers.crash_workers import wait_for

Interrupt = Callable[[Any, str], None]


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """Have a function raise, once, as if a handler raised right before it."""

    def begin(owner: Any, name: str) -> None:
        def interrupted(*_: object, **__: object) -> None:
            monkeypatch.undo()
            raise Alarm

        monkeypatch.setattr(owner, name, interrupted)

    return begin


@pytest.fixture
def other(db: shoal.Database, store: Path) -> Iterator[shoal.Database]:
    """The store as another holder sees it. ``db`` stays open: its end would end all that it holds."""
    with shoal.open(store) as opened:
        yield opened


def _holds_nothing(db: shoal.Database) -> bool:
    holding = store_of(db).holding
    assert isinstance(holding, Holding)
    return not holding._held and not holding._undone


def test_a_lease_that_is_taken(db: shoal.Database, other: shoal.Database, interrupt: Interrupt) -> None:
    """Others get it."""
    interrupt(leases, "Lease")
    with pytest.raises(Alarm):
        db.lease(RUN, "job")
    with other.lease(RUN, "job", wait=30):
        wait_for(lambda: _holds_nothing(db), "all to be forgotten")


def test_the_end_of_a_block_with_a_lease(db: shoal.Database, other: shoal.Database, interrupt: Interrupt) -> None:
    """Others get it."""
    with pytest.raises(Alarm), db.lease(RUN, "job"):
        interrupt(requests, "release_lease")
    with other.lease(RUN, "job", wait=30):
        wait_for(lambda: _holds_nothing(db), "all to be forgotten")


@pytest.mark.parametrize("where", ["taken", "left"])
def test_a_consumer(db: shoal.Database, other: shoal.Database, interrupt: Interrupt, where: str) -> None:
    """Another one gets the name."""
    if where == "taken":
        interrupt(event_log, "Consumer")
    with pytest.raises(Alarm), shoal.EventLog(db).consumer(RUN, "reader"):
        interrupt(requests, "release_lease")
    with shoal.EventLog(other).consumer(RUN, "reader", wait=30):
        wait_for(lambda: _holds_nothing(db), "all to be forgotten")


def test_a_release_that_is_interrupted_at_its_end(db: shoal.Database, interrupt: Interrupt) -> None:
    """Nothing is left to be renewed."""
    lease = db.lease(RUN, "job")
    interrupt(Holding, "_drop")
    with pytest.raises(Alarm):
        lease.release()
    wait_for(lambda: _holds_nothing(db), "the lease to be forgotten")

"""What tests of leases, queues, budgets and watches share."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

import shoal


@pytest.fixture(scope="session")
def toy_db(toy_fleet_db: shoal.Database) -> shoal.Database:
    """``any_db`` takes it."""
    return toy_fleet_db


@pytest.fixture
def budget(any_db: shoal.Database) -> shoal.Budget:
    return shoal.Budget(any_db)


def later(call: Any, *arguments: Any) -> threading.Thread:
    """A thread that does a call, begun long enough ago to be in line."""
    thread = threading.Thread(target=call, args=arguments)
    thread.start()
    time.sleep(0.05)
    return thread

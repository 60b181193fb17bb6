"""Every timeout, ttl and linger takes the same numbers: infinity and what no float can hold are for ever."""

import fractions
import math
import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import shoal
from tests.support.present import present


class Seconds(float):
    """As numpy's float64: a subclass of float."""


class Number:
    def __float__(self) -> float:
        return 1.0


FOR_EVER = [math.inf, 1e308, 10**400, Seconds("inf")]
WRONG = [
    (math.nan, ValueError),
    (-math.inf, ValueError),
    (-1, ValueError),
    (-(10**5000), ValueError),
    (True, TypeError),
    ("1", TypeError),
    (Decimal(1), TypeError),
    (fractions.Fraction(1), TypeError),
    (Number(), TypeError),
    (1j, TypeError),
]
IDS = [f"{type(value).__name__} {index}" for index, (value, _) in enumerate(WRONG)]


@pytest.mark.parametrize("forever", FOR_EVER, ids=lambda value: type(value).__name__)
class TestForEver:
    def test_opening(self, tmp_path: Path, forever: Any) -> None:
        """A store opens with an infinite timeout and linger, and takes over with them after a kill."""
        with shoal.open(tmp_path / "s", durability="memory", timeout=forever) as db:
            shoal.KVStore(db).put("run", "k", 1)
            assert shoal.KVStore(db).get("run", "k") == 1

    def test_waits(self, memory_db: shoal.Database, run: str, forever: Any) -> None:
        """transition, wait and follow end when what they wait for is there."""
        cells, log = shoal.StateCell(memory_db), shoal.EventLog(memory_db)
        cells.init(run, "c", 1)
        log.append(run, "e", 1)
        assert cells.transition(run, "c", lambda state: (2, "done"), timeout=forever) == "done"
        assert present(cells.wait(run, "c", 1, timeout=forever)).version == 2
        assert next(log.follow(run, timeout=forever)).payload == 1

    def test_a_key(self, memory_db: shoal.Database, run: str, forever: Any) -> None:
        """A key with an infinite ttl is permanent, as one without; it loses the ttl it had."""
        kv = shoal.KVStore(memory_db)
        kv.put(run, "k", 1, ttl=1000)
        kv.put(run, "k", 2, ttl=forever)
        assert (kv.get(run, "k"), kv.ttl(run, "k")) == (2, None)
        kv.put_with_ttl(run, "l", 3, forever)
        assert (kv.get(run, "l"), kv.ttl(run, "l")) == (3, None)


def test_the_longest_timedelta_is_permanent(memory_db: shoal.Database, run: str) -> None:
    """So is timedelta.max; a century is not."""
    kv = shoal.KVStore(memory_db)
    kv.put(run, "k", 1, ttl=timedelta.max)
    kv.put(run, "century", 1, ttl=timedelta(days=36525))
    assert kv.ttl(run, "k") is None
    assert present(kv.ttl(run, "century")) > 3e9


@pytest.mark.long
def test_an_infinite_linger_keeps_the_coordinator(tmp_path: Path) -> None:
    """A coordinator that lingers for ever takes its next clients after a while, without being started again."""
    with shoal.open(tmp_path / "s", durability="memory", linger=math.inf) as db:
        pid = db.info().coordinator_pid
    try:
        time.sleep(2.5)  # longer than a coordinator waits by default
        with shoal.open(tmp_path / "s") as db:
            assert db.info().coordinator_pid == pid
    finally:
        os.kill(pid, signal.SIGTERM)


@pytest.mark.parametrize(("value", "error"), WRONG, ids=IDS)
def test_what_is_no_length_of_time_is_refused(
    tmp_path: Path, memory_db: shoal.Database, run: str, value: Any, error: type[Exception]
) -> None:
    """Before anything is sent or made, with an error that names the argument."""
    cells, log, kv = shoal.StateCell(memory_db), shoal.EventLog(memory_db), shoal.KVStore(memory_db)
    cells.init(run, "c", 1)
    calls: list[tuple[str, Callable[[], object]]] = [
        ("timeout", lambda: shoal.open(tmp_path / "s", timeout=value)),
        ("linger", lambda: shoal.open(tmp_path / "s", linger=value)),
        ("timeout", lambda: cells.transition(run, "c", lambda state: (2, 2), timeout=value)),
        ("timeout", lambda: cells.wait(run, "c", 0, timeout=value)),
        ("timeout", lambda: log.follow(run, timeout=value)),
        ("ttl", lambda: kv.put(run, "k", 1, ttl=value)),
        ("ttl", lambda: kv.put_with_ttl(run, "k", 1, value)),
    ]
    for name, call in calls:
        with pytest.raises(error, match=f"{name} (is|has type)"):
            call()
    assert not (tmp_path / "s").exists()
    assert present(cells.read(run, "c")).version == 1
    assert not kv.exists(run, "k")


def test_any_number_of_retries(memory_db: shoal.Database, run: str) -> None:
    """retries is a whole number of any size; a negative one, or no int, is refused."""
    assert memory_db.transact(run, lambda txn: 5, retries=10**400) == 5
    refused: list[Any] = [-1, -(10**5000), math.inf, 1.0, True, "1", None]
    for wrong in refused:
        with pytest.raises(ValueError, match=r"retries|digits"):
            memory_db.transact(run, lambda txn: 5, retries=wrong)


def test_integers_too_long_to_be_shown(memory_db: shoal.Database, run: str) -> None:
    """An int of more digits than Python writes out is refused as other wrong ones are, by name and path."""
    kv, cells, huge = shoal.KVStore(memory_db), shoal.StateCell(memory_db), 10**5000
    for wrong in (huge, -huge):
        with pytest.raises(TypeError, match=r"value at \$\.a\[0\] is (minus )?an integer of 16,610 bits"):
            kv.put(run, "k", {"a": [wrong]})
        with pytest.raises(ValueError, match=r"by is (minus )?an integer"):
            kv.increment(run, "k", wrong)
        with pytest.raises(ValueError, match=r"expected_version is (minus )?an integer"):
            cells.cas(run, "c", wrong, 1)
        with pytest.raises(shoal.ConfigurationError, match=r"max_bytes is (minus )?an integer"):
            shoal.open("unused", max_bytes=wrong)

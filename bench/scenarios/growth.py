"""What each operation costs as a store grows from a thousand keys on, and how much memory a key takes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import msgpack

import shoal

from ..latencies import percentiles
from .base import RUN, Result, Scenario, fill, key_of, median, opened, times_of, value_of

_FIRST_KEYS = 1_000
_SAMPLES, _BATCH = 2_000, 20
_SETTLE_S, _SETTLE_TIMEOUT_S = 0.3, 5.0
_LOG_RUN = "log"
_BYTES_PER_KEY = 400  # of the store's bound
_LEAST_BYTES = 256 * 1024**2


class Growth(Scenario):
    """One process measures while nothing else is committed."""

    name = "growth"
    title = "growth: medians of one process's calls by the number of keys in the store, buffered"
    note = (
        f"{_SAMPLES:,} calls each, {_BATCH} of them timed together. A claim lists a prefix of 10 keys and writes the "
        "first, in a transaction. "
        "The last rows of inserts show pauses, when an index splits. Memory: bytes used by the store for a key, less "
        "those of the key and its packed value."
    )

    def run(self, directory: Path) -> Result:
        """Fill up to each size, and measure there."""
        sizes = [_FIRST_KEYS]
        while sizes[-1] * 10 <= self.scale.keys:
            sizes.append(sizes[-1] * 10)
        bound_bytes = max(_LEAST_BYTES, sizes[-1] * _BYTES_PER_KEY)
        with opened(directory / "store", max_bytes=bound_bytes) as db:
            key_bytes, filled = 0, 0
            for size in sizes:
                samples = min(_SAMPLES, size // 2)
                before_bytes = _settled_bytes(db)
                fill(db, RUN, range(filled, size - samples))
                inserts = self._inserts(db, range(size - samples, size))
                key_bytes += _settled_bytes(db) - before_bytes
                self._note("memory of a key beyond key and value", size, key_bytes / size - _own_bytes(), "bytes")
                self._note_inserts(size, inserts)
                self._measure(db, size)
                filled = size
        self._note_growth(sizes)
        return self.result

    def _measure(self, db: shoal.Database, size: int) -> None:
        rng = random.Random(size)
        numbers = [rng.randrange(size) for _ in range(_SAMPLES)]
        kv, events = shoal.KVStore(db), shoal.EventLog(db)

        def claim(number: int) -> None:
            def first_of_ten(txn: shoal.Transaction) -> None:
                first = txn.kv.list(key_of(number)[:-1])[0]
                txn.kv.put(first, value_of(number))

            db.transact(RUN, first_of_ten)

        calls: dict[str, Callable[[int], object]] = {
            "first get of a key": lambda number: kv.get(RUN, key_of(number)),
            "get": lambda number: kv.get(RUN, key_of(number)),
            "put": lambda number: kv.put(RUN, key_of(number), value_of(number)),
            "append": lambda number: events.append(_LOG_RUN, "measured", value_of(number)),
            "claim": claim,
            "scan of 10": lambda number: kv.list_with_values(RUN, key_of(number)[:-1]),
        }
        for name, call in calls.items():
            times_s = [_each_s(call, numbers[at : at + _BATCH]) for at in range(0, _SAMPLES, _BATCH)]
            self._note(f"{name}, median", size, median(times_s) * 1e6, "us")

    def _inserts(self, db: shoal.Database, numbers: range) -> dict[str, float]:
        kv = shoal.KVStore(db)
        return percentiles(
            times_of(lambda number=number: kv.put(RUN, key_of(number), value_of(number)) for number in numbers)  # type: ignore[misc]
        )

    def _note_inserts(self, size: int, inserts: dict[str, float]) -> None:
        for name, value_s in inserts.items():
            self._note(f"insert, {'median' if name == 'p50' else name}", size, value_s * 1e6, "us", name != "p50")

    def _note(self, row: str, size: int, value: float, unit: str, noisy: bool = False) -> None:
        self.add(row, f"{size:,} keys", value, unit, noisy=noisy)

    def _note_growth(self, sizes: list[int]) -> None:
        """How much dearer each call is in the largest store than in the smallest."""
        first, last = f"{sizes[0]:,} keys", f"{sizes[-1]:,} keys"
        found = {(figure.row, figure.column): figure for figure in self.result.figures}
        for (row, column), figure in found.items():
            if column == first and figure.unit == "us" and figure.value:
                self.add(row, "last / first", found[row, last].value / figure.value, "x", noisy=figure.noisy)


def _each_s(call: Callable[[int], object], numbers: list[int]) -> float:
    """How long one of these calls takes."""
    begun_s = time.perf_counter()
    for number in numbers:
        call(number)
    return (time.perf_counter() - begun_s) / len(numbers)


def _settled_bytes(db: shoal.Database) -> int:
    """What the store uses once the memory of overwritten versions is given back."""
    give_up_s = time.monotonic() + _SETTLE_TIMEOUT_S
    before, used_bytes = -1, db.info().bytes_used
    while used_bytes != before and time.monotonic() < give_up_s:
        time.sleep(_SETTLE_S)
        before, used_bytes = used_bytes, db.info().bytes_used
    return used_bytes


def _own_bytes() -> int:
    return len(key_of(0)) + len(msgpack.packb(value_of(0)))

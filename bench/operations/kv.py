"""Operations on keys and values."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from itertools import count, cycle, islice
from typing import Any

from ..peers import PIPELINE_DEPTH, BenchError, Session
from .base import BySeed, Operation, Step

READ_KEYS = 100_000
KEYS_PER_GROUP = 100
PUT_KEYS = 10_000
COUNTERS = 1_000
# Random picks that a worker makes before the clock runs; it repeats them in a circle.
_PICKS = 20_000
_LONGEST_WARM_UP_S = 3.0


class Get(Operation):
    """Point reads of keys that the worker has read before."""

    name = "get"
    title = f"get: begin, get, decode; random order over {READ_KEYS:,} keys, each read before"
    batch = 32
    writes = False

    def items(self) -> dict[str, Any]:
        """Groups of keys, each value small."""
        return {_key(i): _value(i) for i in range(READ_KEYS)}

    def targets(self) -> list[str]:
        """All keys in one random order, the same for every peer."""
        return _shuffled([_key(i) for i in range(READ_KEYS)])

    def warm_up(self, session: Session, targets: Sequence[str]) -> None:
        """Read every key, or as many as fit a time limit: some stores fill caches of their own."""
        give_up_s = time.monotonic() + _LONGEST_WARM_UP_S
        keys = iter(targets)
        while time.monotonic() < give_up_s and (batch := list(islice(keys, 1000))):
            for key in batch:
                session.get(key)

    def step(self, session: Session, targets: Sequence[str], worker: int, seed: int) -> Step:
        """Each worker goes round the keys from a position of its own."""
        keys = _round_from(targets, worker * 7919)
        get, batch = session.get, self.batch

        def step() -> None:
            for key in islice(keys, batch):
                get(key)

        return step

    def check(self, session: Session, targets: Sequence[str], operations: int, by_seed: BySeed = ()) -> None:
        """Values are those that were loaded."""
        found = [session.get(key)["a"] for key in targets[:100]]
        expected = _shuffled(list(range(READ_KEYS)))[:100]
        if found != expected:
            raise BenchError("get returned other values than were loaded")


class Scan(Operation):
    """Prefix scans."""

    name = "scan"
    title = f"scan: list keys and decoded values of a prefix of {KEYS_PER_GROUP} keys out of {READ_KEYS:,}"
    writes = False

    def items(self) -> dict[str, Any]:
        """As for get."""
        return Get().items()

    def targets(self) -> list[str]:
        """The prefix of every group, in one random order."""
        return _shuffled([_prefix(group) for group in range(READ_KEYS // KEYS_PER_GROUP)])

    def step(self, session: Session, targets: Sequence[str], worker: int, seed: int) -> Step:
        """Each worker goes round the prefixes from a position of its own."""
        prefixes = _round_from(targets, worker * 79)
        scan = session.scan

        def step() -> None:
            scan(next(prefixes))

        return step

    def check(self, session: Session, targets: Sequence[str], operations: int, by_seed: BySeed = ()) -> None:
        """A scan finds the whole group, in order, and nothing else."""
        group = _shuffled(list(range(READ_KEYS // KEYS_PER_GROUP)))[0]
        first = group * KEYS_PER_GROUP
        if session.scan(targets[0]) != [(_key(i), _value(i)) for i in range(first, first + KEYS_PER_GROUP)]:
            raise BenchError("scan did not return exactly the keys and values of its prefix")


class Put(Operation):
    """Blind overwrites."""

    name = "put"
    title = f"put: overwrite a small dict, a commit each; random over {PUT_KEYS:,} keys"

    def items(self) -> dict[str, Any]:
        """Every key is there, so that puts overwrite and never insert."""
        return {_key(i): _value(-1) for i in range(PUT_KEYS)}

    def targets(self) -> list[str]:
        """All keys."""
        return [_key(i) for i in range(PUT_KEYS)]

    def step(self, session: Session, targets: Sequence[str], worker: int, seed: int) -> Step:
        """Each worker has random keys of its own."""
        keys = random_picks(targets, seed)
        numbers = count()
        put = session.put

        def step() -> None:
            put(next(keys), _value(next(numbers)))

        return step

    def check(self, session: Session, targets: Sequence[str], operations: int, by_seed: BySeed = ()) -> None:
        """Every value is whole, and exactly the keys have changed that the workers have put."""
        changed = set()
        for key in targets:
            value = session.get(key)
            if value != _value(value["a"]):
                raise BenchError(f"put left a value that no worker wrote: {value!r}")
            if value["a"] != -1:
                changed.add(key)
        put = {key for seed, done in by_seed for key in _picks(targets, seed)[:done]}
        if changed != put:
            lost = len(put - changed)
            raise BenchError(f"{operations} puts of {len(put)} keys were acknowledged, and {lost} keys are unchanged")


class ReadModifyWrite(Operation):
    """Increments in a transaction."""

    name = "rmw"
    title = f"rmw: read, add one, write, in a transaction; random over {COUNTERS:,} keys, no addition lost"

    def items(self) -> dict[str, Any]:
        """Counters at zero."""
        return {_key(i): 0 for i in range(COUNTERS)}

    def targets(self) -> list[str]:
        """All counters."""
        return [_key(i) for i in range(COUNTERS)]

    def step(self, session: Session, targets: Sequence[str], worker: int, seed: int) -> Step:
        """Each worker has random keys of its own: workers in the same order would never conflict."""
        keys = random_picks(targets, seed)
        rmw = session.rmw

        def step() -> None:
            rmw(next(keys))

        return step

    def check(self, session: Session, targets: Sequence[str], operations: int, by_seed: BySeed = ()) -> None:
        """The counters add up to the operations done."""
        total = sum(session.get(key) for key in targets)
        if total != operations:
            raise BenchError(f"{operations} increments were acknowledged and the counters add up to {total}")


class Pipelined(Put):
    """Blind overwrites, where a store can send the next before the last is answered."""

    name = "pipelined"
    title = (
        f"pipelined: put as above, {PIPELINE_DEPTH} commits under way at once where the store can; else one at a time"
    )
    batch = PIPELINE_DEPTH

    def batch_of(self, session: Session) -> int:
        """One where they are done one at a time: a step of many that wait for the disk would be too coarse to count."""
        return self.batch if session.pipelines else 1

    def step(self, session: Session, targets: Sequence[str], worker: int, seed: int) -> Step:
        """As many puts as are under way at once; the time of a step is that of all of them."""
        keys = random_picks(targets, seed)
        numbers = count()
        pipelined, batch = session.pipelined, self.batch_of(session)

        def step() -> None:
            pipelined([(next(keys), _value(next(numbers))) for _ in range(batch)])

        return step


def _prefix(group: int) -> str:
    return f"group-{group:05}/"


def _key(number: int) -> str:
    return f"{_prefix(number // KEYS_PER_GROUP)}item-{number % KEYS_PER_GROUP:03}"


def _value(number: int) -> dict[str, Any]:
    return {"a": number, "b": "hello" * 10}


def _shuffled(items: list[Any]) -> list[Any]:
    # With a seed, so that every peer, round and run has the same order.
    random.Random(len(items)).shuffle(items)
    return items


def _round_from(targets: Sequence[str], offset: int) -> Iterator[Any]:
    start = offset % len(targets)
    return cycle([*targets[start:], *targets[:start]])


def random_picks(targets: Sequence[str], seed: int) -> Iterator[Any]:
    """Random targets without end."""
    return cycle(_picks(targets, seed))


def _picks(targets: Sequence[str], seed: int) -> list[str]:
    return random.Random(seed).choices(targets, k=_PICKS)

"""What clients of a fleet do in a history: drawn from the seed, beside what other clients do."""

from __future__ import annotations

import random
from typing import Any

# Names of leases, and how many may hold each at a time.
SLOTS = {"one": 1, "two": 2}
QUEUES = ["q", "r"]
# Names of budgets: limit, and refill per second.
BUDGETS = {"fixed": (20, 0), "rate": (20, 400)}
KEYED = ["a", "b", "c"]
EFFECTS = {"x": "raise", "y": "raise", "z": "retry"}
PREFIXES = ["", "", "f/", "e/", "t/"]
# What a holder keeps while it does not answer. The longest is longer than any history, but for its end.
TTLS_S = [0.03, 0.06, 1.0]
_PAUSES_S = [0.0, 0.0, 0.002, 0.01, 0.04]
_WAITS_S = [0.0, 0.005, 0.03, 0.1]

_WEIGHTS = {
    "lease": 6, "put tasks": 6, "work": 9, "spend": 6, "keyed": 2, "once": 3, "watch": 4, "pipeline": 2,
    "append": 2, "trim": 1, "retain": 1, "consume": 1, "temporary": 1, "wipe": 1, "end task": 1,
}  # fmt: skip

_FAVOURITES = ["lease", "work", "work", "spend", "once", "pipeline", "watch", "retain"]
FLEET_KINDS = frozenset(_WEIGHTS)


def draw_clients(seed: int, clients: int) -> list[list[tuple[Any, ...]]]:
    """The operations of ``clients`` clients of a fleet, none in most histories."""
    rng = random.Random(f"fleet {seed}")
    if rng.random() < 0.5:
        return []
    weights = dict(_WEIGHTS)
    if rng.random() < 0.7:
        weights[rng.choice(_FAVOURITES)] += 30
    if weights["work"] > 20:
        weights["put tasks"] += 12
    if weights["retain"] > 20:
        weights["append"] += 30
    crowd = {"wait_s": 0.3, "name": "one", "queue": "q", "budget": "fixed", "effect": "x"} if rng.random() < 0.4 else {}
    slow = {"pause_s": 0.05, "ttl_s": 0.03} if rng.random() < 0.3 else {}
    drawn = []
    for client in range(clients):
        first = ["put tasks", "watch"] if rng.random() < 0.6 else []
        rng.shuffle(first)
        kinds = [*first[:1], *rng.choices([*weights], [*weights.values()], k=rng.randint(3, 9))]
        drawn.append([_operation(rng, f"f{client}.{i}", kind, crowd | slow) for i, kind in enumerate(kinds)])
    return drawn


def draw_faults(seed: int, steps: int) -> list[tuple[int, str, int]]:
    """Faults of one phase with a fleet, beside those of any history: step, kind, number."""
    rng = random.Random(f"fleet faults {seed}")
    kinds = rng.choice(
        [["stop client"], ["kill client"], ["kill coordinator", "kill in sync"], ["kill client", "stop client"]]
    )
    return [(rng.randrange(steps), rng.choice(kinds), rng.randrange(100)) for _ in range(rng.choice([0, 1, 3, 6]))]


def _operation(rng: random.Random, unique: str, kind: str, given: dict[str, Any]) -> tuple[Any, ...]:
    options = _DRAW[kind](rng) | {"pause_s": rng.choice(_PAUSES_S)}
    options.update((name, value) for name, value in given.items() if name in options)
    return kind, unique, rng.choice(_PAUSES_S), options


def _lease(rng: random.Random) -> dict[str, Any]:
    return {
        "name": rng.choice([*SLOTS]), "ttl_s": rng.choice(TTLS_S), "wait_s": rng.choice(_WAITS_S),
        "commits": rng.randint(0, 4), "leaves": rng.random() < 0.3,
    }  # fmt: skip


def _put_tasks(rng: random.Random) -> dict[str, Any]:
    return {
        "queue": rng.choice(QUEUES), "count": rng.choice([1, 1, 2, 5, 30]), "priority": rng.choice([0, 0, 1]),
        "delay_s": rng.choice([None, None, 0.003, 0.02]), "key": rng.choice([None, None, "k"]),
        "max_attempts": rng.choice([1, 2, 5]),
    }  # fmt: skip


def _work(rng: random.Random) -> dict[str, Any]:
    return {
        "queue": rng.choice(QUEUES), "limit": rng.choice([1, 1, 1, 3]), "ttl_s": rng.choice(TTLS_S),
        "wait_s": rng.choice(_WAITS_S), "how": rng.choice(["do"] * 6 + ["fail", "release", "leave", "complete"]),
        "retry_s": rng.choice([None, 0.005]),
    }  # fmt: skip


def _spend(rng: random.Random) -> dict[str, Any]:
    return {
        "budget": rng.choice([*BUDGETS]), "amount": rng.randint(1, 12), "wait_s": rng.choice(_WAITS_S),
        "used": rng.randint(0, 13), "how": rng.choice(["settle", "settle", "together", "refund", "leave", "adjust"]),
    }  # fmt: skip


_DRAW: dict[str, Any] = {
    "lease": _lease,
    "put tasks": _put_tasks,
    "work": _work,
    "spend": _spend,
    "keyed": lambda rng: {"key": rng.choice(KEYED)},
    "once": lambda rng: {"effect": rng.choice([*EFFECTS])},
    "watch": lambda rng: {
        "prefix": rng.choice(PREFIXES), "back": rng.choice([None, None, 0, 3, 30]),
        "timeout_s": rng.choice([0.0, 0.02, 0.1, 0.3]),
    },
    "pipeline": lambda rng: {"count": rng.choice([1, 3, 8, 40]), "depth": rng.choice([1, 2, 8])},
    "append": lambda rng: {"count": rng.randint(1, 6)},
    "trim": lambda rng: {"back": rng.randint(0, 6)},
    "retain": lambda rng: {"events": rng.choice([2, 5, None])},
    "consume": lambda rng: {"count": rng.randint(1, 4), "wait_s": rng.choice(_WAITS_S)},
    "temporary": lambda rng: {"ttl_s": rng.choice([0.002, 0.02]), "key": rng.choice(["t/0", "t/1"])},
    "wipe": lambda rng: {"prefix": rng.choice(["f/", "t/"])},
    "end task": lambda rng: {"queue": rng.choice(QUEUES), "number": rng.randrange(30),
                             "how": rng.choice(["cancel", "retry", "purge"])},
}  # fmt: skip

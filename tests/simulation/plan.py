"""What happens in a history, drawn from its seed beforehand: so a failing one can be tried again with less of it."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from tests.simulation.fleet.plan import FLEET_KINDS, draw_clients, draw_faults

KEYS = [f"k{i:02}" for i in range(14)]
COUNTERS = ["c0", "c1"]
LISTS = ["l0", "l1", "l2"]
CELLS = ["s0", "s1"]
EXPIRING = ["t0", "t1", "t2"]
PREFIXES = ["k", "k0", "k1", "c"]
_LONGEST_PAUSE_S = 0.01
# Steps of a phase in which faults are put: most histories have about so many.
_STEPS = 700

# Kinds of operations, and how often they come. A history has a favourite or none: so the rare meet each other, too.
_WEIGHTS = {
    "transaction": 8, "snapshot": 2, "get": 2, "put": 3, "delete": 2, "increment": 5, "event": 5, "events": 1,
    "list": 6, "cas": 1, "transition": 2, "set cell": 1, "expiring": 3,
    "counting on expiring": 2, "clear": 2, "hold": 2, "blind": 1,
}  # fmt: skip
_FAVOURITES = [each for each in _WEIGHTS if each not in ("snapshot", "get", "put", "blind")]
_FAVOURITES += ["event", "event", "event", "hold"]

Operation = tuple[Any, ...]


class Fault(NamedTuple):
    """``step`` is counted from the beginning of its phase; ``number`` picks one of several processes, or a length."""

    step: int
    kind: str
    number: int


class Phase(NamedTuple):
    """From one boot of the machine to the next power cut."""

    clients: list[list[Operation]]
    faults: list[Fault]


class Plan(NamedTuple):
    """A whole history."""

    seed: int
    durability: str
    revoking: bool  # so little room for history that old snapshots are revoked
    phases: list[Phase]
    history_ms: int = 0  # how long past versions are kept; then half of all snapshots are of one

    @property
    def has_fleet(self) -> bool:
        """Whether some of the clients are those of a fleet."""
        return any(
            operation[0] in FLEET_KINDS for phase in self.phases for client in phase.clients for operation in client
        )


def draw(seed: int) -> Plan:
    """The plan of a seed."""
    rng = random.Random(f"plan {seed}")
    durability = rng.choice(["strict", "strict", "buffered"])
    phases = []
    weights, hurry = dict(_WEIGHTS), rng.random() < 0.5
    if rng.random() < 0.6:
        weights[rng.choice(_FAVOURITES)] += 20
    count = rng.choice([1, 1, 2, 3])
    for number in range(count):
        clients = [
            [_operation(rng, f"{number}.{client}.{i}", weights, hurry) for i in range(rng.randint(3, 9))]
            for client in range(rng.randint(2, 5))
        ]
        if rng.random() < 0.4:  # somebody who only looks, all the time
            reading = dict.fromkeys(("snapshot", "get"), 1)
            clients.append([_operation(rng, f"{number}.r.{i}", reading, True) for i in range(25)])
        faults = [
            Fault(
                rng.randrange(_STEPS),
                rng.choice(
                    ["kill coordinator"] * 3
                    + ["freeze coordinator", "kill in sync"] * 3
                    + ["kill client"] * 4
                    + ["stop coordinator", "stop client", "stop client", "kill checkpoint", "kill starter"]
                    + ["fail sync", "fill disk"]
                ),
                rng.randrange(100),
            )
            for _ in range(rng.choice([0, 1, 2, 3, 5]))
        ]
        if number + 1 < count:
            step = rng.randrange(60, _STEPS)
            faults.append(Fault(step, rng.choice(["cut power", "cut power in sync", "freeze and cut power"]), 0))
            if rng.random() < 0.3:
                faults.append(Fault(max(0, step - rng.randrange(300)), "fail sync", 0))
        phases.append(Phase(clients, sorted(faults)))
    _add_fleet(seed, phases)
    revoking = rng.random() < 0.2
    history_ms = random.Random(f"history {seed}").choice([0, 0, 0, 5, 50, 3_600_000])
    return Plan(seed, durability, revoking, phases, 0 if revoking else history_ms)


def _add_fleet(seed: int, phases: list[Phase]) -> None:
    """Have some of the clients be those of a fleet."""
    rng = random.Random(f"fleet clients {seed}")
    places = [(n, i) for n, phase in enumerate(phases) for i in range(len(phase.clients)) if rng.random() < 0.7]
    drawn = draw_clients(seed, len(places))
    for (n, i), operations in zip(places, drawn, strict=False):
        phases[n].clients[i] = operations
    if places and drawn:
        n = places[0][0]
        faults = [Fault(*fault) for fault in draw_faults(seed, _STEPS)]
        phases[n] = phases[n]._replace(faults=sorted([*phases[n].faults, *faults]))


def _operation(rng: random.Random, unique: str, weights: dict[str, int], hurry: bool) -> Operation:
    pause_s = rng.random() * _LONGEST_PAUSE_S if not hurry and rng.random() < 0.3 else 0.0
    (kind,) = rng.choices([*weights], [*weights.values()])
    if kind in ("transaction", "snapshot", "hold"):
        return kind, unique, pause_s, [_step(rng, kind, f"{unique}.{i}") for i in range(rng.randint(1, 5))]
    if kind == "blind":
        return kind, unique, pause_s, [("put", rng.choice(KEYS), _value(rng, f"{unique}.{i}"), 0.0) for i in range(3)]
    if kind == "list":
        steps = [(rng.choice(["append", "append", "read"]), rng.choice(LISTS), f"{unique}.{i}", _pause_s(rng))
                 for i in range(rng.randint(1, 3))]  # fmt: skip
        return kind, unique, pause_s, steps
    if kind in ("expiring", "counting on expiring"):
        ttl_s = rng.choice([0.002, 0.01, 0.05, None])
        return kind, unique, pause_s, rng.choice(EXPIRING), ttl_s, rng.choice(KEYS), _pause_s(rng)
    key = {"increment": COUNTERS, "cas": CELLS, "transition": CELLS, "set cell": CELLS}.get(kind, KEYS)
    bounds = tuple(sorted(rng.sample(KEYS, 2)))
    return kind, unique, pause_s, rng.choice(key), _value(rng, unique), rng.randint(1, 5), bounds


def _step(rng: random.Random, kind: str, unique: str) -> Operation:
    hot = rng.random() < 0.5
    key = rng.choice(KEYS[:4] if hot else KEYS)
    if kind == "transaction":
        name = rng.choices(["get", "scan", "put", "delete", "increment", "clear", "event"], [5, 2, 5, 2, 2, 1, 2])[0]
    else:
        name = rng.choice(["get", "scan"])
    if name == "scan":
        return name, rng.choice(PREFIXES), None, _pause_s(rng)
    if name == "clear":
        return name, "", tuple(sorted(rng.sample(KEYS, 2))), _pause_s(rng)
    if name == "increment":
        return name, rng.choice(COUNTERS), rng.randint(1, 5), _pause_s(rng)
    return name, key, _value(rng, unique) if name in ("put", "event") else None, _pause_s(rng)


def _value(rng: random.Random, unique: str) -> str:
    return unique + "x" * (rng.randrange(300) if rng.random() < 0.2 else 0)


def _pause_s(rng: random.Random) -> float:
    return rng.random() * _LONGEST_PAUSE_S if rng.random() < 0.15 else 0.0

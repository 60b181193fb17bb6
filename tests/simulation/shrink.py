"""Tries a failing history again with less of it, while it still fails in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.simulation.plan import Phase, Plan

_MOST_TRIES = 300


def shrink(plan: Plan, fails: Callable[[Plan], bool], most_tries: int = _MOST_TRIES) -> Plan:
    """The smallest plan found that fails, too: fewer phases, clients, faults and operations."""
    tries = 0
    again = True
    while again and tries < most_tries:
        again = False
        for smaller in _smaller(plan):
            tries += 1
            if fails(smaller):
                plan, again = smaller, True
                break
            if tries == most_tries:
                break
    return plan


def _smaller(plan: Plan) -> Iterator[Plan]:
    """All plans with one thing less, the large things first."""
    phases = plan.phases
    for i in range(len(phases)):
        if len(phases) > 1:
            yield plan._replace(phases=phases[:i] + phases[i + 1 :])
    for i, phase in enumerate(phases):
        for fewer in _smaller_phase(phase):
            yield plan._replace(phases=[*phases[:i], fewer, *phases[i + 1 :]])


def _smaller_phase(phase: Phase) -> Iterator[Phase]:
    clients, faults = phase.clients, phase.faults
    for i, operations in enumerate(clients):
        if operations:  # the place stays: the names of the others follow from it
            yield phase._replace(clients=[*clients[:i], [], *clients[i + 1 :]])
    for i in range(len(faults)):
        yield phase._replace(faults=faults[:i] + faults[i + 1 :])
    for i, operations in enumerate(clients):
        half = len(operations) // 2
        if half > 1:
            yield phase._replace(clients=[*clients[:i], operations[:half], *clients[i + 1 :]])
            yield phase._replace(clients=[*clients[:i], operations[half:], *clients[i + 1 :]])
        for j in range(len(operations)):
            yield phase._replace(clients=[*clients[:i], operations[:j] + operations[j + 1 :], *clients[i + 1 :]])


def size(plan: Plan) -> str:
    """How large a plan is, for people."""
    operations = [operation for phase in plan.phases for client in phase.clients for operation in client]
    clients = sum(bool(client) for phase in plan.phases for client in phase.clients)
    faults = [fault for phase in plan.phases for fault in phase.faults]
    return f"{len(plan.phases)} boots, {clients} clients, {len(operations)} operations, {len(faults)} faults"

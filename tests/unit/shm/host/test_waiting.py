"""Waiting beside processes that want the processor: looking stops when it costs, and begins again when it pays."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from types import SimpleNamespace

import pytest

from shoal.shm.host import waiting
from shoal.shm.host.waiting import Lookout
from shoal.shm.limits import FIRST_REST_S, LONG_OFFER_S, LONGER_REST, LONGEST_REST_S

_LOOK_S = 0.001
_SHORT_S = 0.000_002


class Machine:
    """A clock, and how long the processor is away when it is offered."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.away_s = _SHORT_S
        self.offers = 0
        self.looks = 0
        self.found: list[int] = []

    def sched_yield(self) -> None:
        self.offers += 1
        self.now_s += self.away_s

    def poll(self, _timeout: float) -> list[int]:
        self.looks += 1
        self.now_s += 0.000_001
        return self.found


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine instead of the real one."""
    made = Machine()
    monkeypatch.setattr(waiting, "os", SimpleNamespace(sched_yield=made.sched_yield))
    monkeypatch.setattr(waiting, "time", SimpleNamespace(perf_counter=lambda: made.now_s))
    return made


@pytest.mark.plain
def test_looks_as_long_as_nobody_wants_the_processor(machine: Machine) -> None:
    """On an idle machine every wait looks for its whole time, offering the processor before each look."""
    lookout = Lookout()
    for _ in range(3):
        before_s = machine.now_s
        assert lookout.look(machine.poll, _LOOK_S) is None
        assert machine.now_s - before_s >= _LOOK_S
    assert machine.offers == machine.looks > 100


@pytest.mark.plain
def test_one_long_offer_stops_looking(machine: Machine) -> None:
    """Who was kept away from the processor sleeps at once from then on, and does not offer it again."""
    lookout = Lookout()
    machine.away_s = 2 * LONG_OFFER_S
    lookout.look(machine.poll, _LOOK_S)
    assert machine.offers == 1
    for _ in range(100):
        assert lookout.look(machine.poll, _LOOK_S) is None
    assert machine.offers == machine.looks == 1


@pytest.mark.plain
def test_what_came_during_a_long_offer_is_found(machine: Machine) -> None:
    """The look after a long offer counts."""
    machine.away_s, machine.found = 2 * LONG_OFFER_S, [7]
    assert Lookout().look(machine.poll, _LOOK_S) == [7]


@pytest.mark.plain
def test_the_rest_grows_up_to_a_bound_and_ends(machine: Machine) -> None:
    """Beside endless loops the offers become rare; when they have gone, looking is back within the longest rest."""
    lookout = Lookout()
    machine.away_s = 2 * LONG_OFFER_S
    offered_at_s: list[float] = []
    while len(offered_at_s) < 12:
        before = machine.offers
        lookout.look(machine.poll, _LOOK_S)
        if machine.offers > before:
            offered_at_s.append(machine.now_s)
        machine.now_s += 0.001
    gaps_s = [later - earlier for earlier, later in pairwise(offered_at_s)]
    assert gaps_s[0] == pytest.approx(FIRST_REST_S, abs=0.01)
    assert gaps_s[1] == pytest.approx(LONGER_REST * FIRST_REST_S, abs=0.01)
    assert gaps_s[-1] == pytest.approx(LONGEST_REST_S, abs=0.01)
    machine.away_s = _SHORT_S
    machine.now_s += LONGEST_REST_S
    machine.offers = 0
    assert lookout.look(machine.poll, _LOOK_S) is None
    assert machine.offers > 100


@pytest.mark.plain
def test_a_rest_long_ago_does_not_count(machine: Machine) -> None:
    """A machine that is busy now and then makes each rest a short one."""
    lookout = Lookout()
    for _ in range(5):
        machine.away_s = 2 * LONG_OFFER_S
        lookout.look(machine.poll, _LOOK_S)
        assert lookout.look(machine.poll, _LOOK_S) is None
        machine.now_s += FIRST_REST_S + 0.001
        machine.away_s = _SHORT_S
        offers = machine.offers
        lookout.look(machine.poll, _LOOK_S)
        assert machine.offers > offers + 100
        machine.now_s += 10.0


@pytest.mark.plain
def test_a_long_offer_after_many_looks_does_not_count(machine: Machine) -> None:
    """Where many clients share a processor, an offer is long now and then: each rest is a short one."""
    lookout = Lookout()
    for _ in range(5):
        machine.away_s = 2 * LONG_OFFER_S
        lookout.look(machine.poll, _LOOK_S)
        machine.now_s += FIRST_REST_S + 0.001
        machine.away_s = _SHORT_S
        looks_until_s = machine.now_s + 2 * FIRST_REST_S
        while machine.now_s < looks_until_s:
            offers = machine.offers
            lookout.look(machine.poll, _LOOK_S)
            assert machine.offers > offers + 100


@pytest.mark.plain
def test_asks_whether_it_rests(machine: Machine) -> None:
    """``rests`` says beforehand that a look would be none."""
    lookout = Lookout()
    assert not lookout.rests(machine.now_s)
    machine.away_s = 2 * LONG_OFFER_S
    lookout.look(machine.poll, _LOOK_S)
    assert lookout.rests(machine.now_s)
    assert not lookout.rests(machine.now_s + FIRST_REST_S)
    assert Lookout(looks=False).rests(machine.now_s)


@pytest.mark.plain
def test_keeps_the_processor_first(machine: Machine) -> None:
    """For the first part of its time the coordinator looks without an offer, if its client has another processor."""
    Lookout().look(machine.poll, _LOOK_S, keep_s=_LOOK_S / 2)
    assert 0 < machine.offers < machine.looks / 2


def test_the_real_clock_and_processor() -> None:
    """A look ends, and finds what is there."""
    lookout = Lookout()
    assert lookout.look(lambda _timeout: [], 0.01) is None
    deadline = time.monotonic() + 20
    while not (found := lookout.look(lambda _timeout: [os.getpid()], 0.01)):  # it rests after a look that cost much
        assert time.monotonic() < deadline
    assert found == [os.getpid()]

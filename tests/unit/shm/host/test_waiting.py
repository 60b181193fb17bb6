"""Waiting beside processes that want the processor: looking stops when it costs, and begins again when it pays."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import pytest

from shoal.shm.host import waiting
from shoal.shm.host.waiting import Lookout
from shoal.shm.limits import FEW_OFFERS, FIRST_REST_S, LONG_OFFER_S, LONGER_REST, LONGEST_REST_S

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


def _look_beside_a_loop(lookout: Lookout, machine: Machine) -> None:
    """Look until the lookout rests, on a machine where every third offer is long."""
    until = machine.offers + 10 * FEW_OFFERS
    while not lookout.rests(machine.now_s):
        assert machine.offers < until
        machine.away_s = 2 * LONG_OFFER_S if machine.offers % 3 == 2 else _SHORT_S
        lookout.look(machine.poll, _SHORT_S / 2)  # one offer


def _look_idle(lookout: Lookout, machine: Machine, offers: int) -> None:
    """Look until there were so many offers more, all of them short."""
    until, machine.away_s = machine.offers + offers, _SHORT_S
    while machine.offers < until:
        assert lookout.look(machine.poll, _SHORT_S / 2) is None


@pytest.mark.plain
def test_long_offers_close_together_stop_looking(machine: Machine) -> None:
    """Who is kept away from the processor again and again sleeps at once from then on, and does not offer it."""
    lookout = Lookout()
    _look_beside_a_loop(lookout, machine)
    offers = machine.offers
    assert offers <= 6  # two long ones
    for _ in range(100):
        assert lookout.look(machine.poll, _LOOK_S) is None
    assert machine.offers == machine.looks == offers


@pytest.mark.plain
def test_a_long_offer_now_and_then_does_not_stop_looking(machine: Machine) -> None:
    """Where many clients share a processor, an offer is long now and then: none of them sleeps for that."""
    lookout = Lookout()
    for _ in range(20):
        machine.away_s = 2 * LONG_OFFER_S
        lookout.look(machine.poll, _LOOK_S)
        assert not lookout.rests(machine.now_s)
        _look_idle(lookout, machine, FEW_OFFERS)


@pytest.mark.plain
def test_one_short_offer_less_makes_a_long_one_count(machine: Machine) -> None:
    """The bound is exact: with one short offer less in between, the second long offer stops looking."""
    lookout = Lookout()
    machine.away_s = 2 * LONG_OFFER_S
    lookout.look(machine.poll, _LOOK_S)
    _look_idle(lookout, machine, FEW_OFFERS - 1)
    machine.away_s = 2 * LONG_OFFER_S
    lookout.look(machine.poll, _LOOK_S)
    assert lookout.rests(machine.now_s)


@pytest.mark.plain
def test_what_came_during_a_long_offer_is_found(machine: Machine) -> None:
    """The look after a long offer counts, whether or not a rest begins with it."""
    lookout = Lookout()
    machine.away_s, machine.found = 2 * LONG_OFFER_S, [7]
    assert lookout.look(machine.poll, _LOOK_S) == [7]
    assert not lookout.rests(machine.now_s)
    assert lookout.look(machine.poll, _LOOK_S) == [7]
    assert lookout.rests(machine.now_s)


@pytest.mark.plain
def test_the_rest_grows_up_to_a_bound_and_ends(machine: Machine) -> None:
    """Beside endless loops the offers become rare; when they have gone, looking is back within the longest rest."""
    lookout = Lookout()
    rests_s = []
    for _ in range(6):
        _look_beside_a_loop(lookout, machine)
        began_s = machine.now_s
        while lookout.rests(machine.now_s):
            machine.now_s += 0.001
        rests_s.append(machine.now_s - began_s)
    assert rests_s[0] == pytest.approx(FIRST_REST_S, abs=0.01)
    assert rests_s[1] == pytest.approx(LONGER_REST * FIRST_REST_S, abs=0.01)
    assert rests_s[-1] == pytest.approx(LONGEST_REST_S, abs=0.01)
    _look_idle(lookout, machine, 100)
    assert not lookout.rests(machine.now_s)


@pytest.mark.plain
def test_a_machine_that_was_idle_meanwhile_makes_the_rest_short_again(machine: Machine) -> None:
    """A machine that is busy now and then makes each first rest a short one."""
    lookout = Lookout()
    for _ in range(5):
        _look_beside_a_loop(lookout, machine)
        assert not lookout.rests(machine.now_s + FIRST_REST_S + 0.001)
        machine.now_s += FIRST_REST_S + 0.001
        _look_idle(lookout, machine, FEW_OFFERS)


@pytest.mark.plain
def test_asks_whether_it_rests(machine: Machine) -> None:
    """``rests`` says beforehand that a look would be none."""
    lookout = Lookout()
    assert not lookout.rests(machine.now_s)
    _look_beside_a_loop(lookout, machine)
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

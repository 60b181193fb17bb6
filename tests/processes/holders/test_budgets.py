"""Budgets whose processes are killed or stopped, and whose coordinators are killed."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import shoal
from shoal.primitives.facades.fleet import budget as budget_module
from tests.support.workers.crash_workers import DEADLINE_S, kill, wait_for

from .conftest import Start

pytestmark = pytest.mark.long

RUN = "run"
_HOLDER = """
import sys, shoal
budget = shoal.Budget(shoal.open(sys.argv[1]))
reservation = budget.reserve("run", sys.argv[2], int(sys.argv[3]))
print("held", flush=True)
sys.stdin.readline()
reservation.settle(int(sys.argv[3]))
"""
# Reserves, waits a little, and settles; notes in a file what it is going to settle, and that it has.
_SPENDER = """
import os, random, sys, time, shoal
path, file, seed = sys.argv[1:]
rng = random.Random(int(seed))
out = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
budget = shoal.Budget(shoal.open(path, timeout=60.0))
print("ready", flush=True)
while True:
    amount = rng.randrange(1, 40)
    reservation = budget.reserve("run", "shared", amount, wait=None)
    used = rng.randrange(amount + 1)
    os.write(out, b"i %d\\n" % used)
    reservation.settle(used)
    os.write(out, b"a %d\\n" % used)
"""


def test_a_killed_process_is_refunded_at_once(db: shoal.Database, start: Start) -> None:
    """Those that wait get it then, long before its ttl."""
    budget = shoal.Budget(db)
    budget.create(RUN, "b", 10)
    holder = start(_HOLDER, "b", 10, says="held")
    assert budget.read(RUN, "b").available == 0
    got: list[shoal.Reservation] = []
    thread = threading.Thread(target=lambda: got.append(budget.reserve(RUN, "b", 10, wait=None)))
    thread.start()
    time.sleep(0.05)
    begin_s = time.monotonic()
    holder.kill()
    thread.join(DEADLINE_S)
    assert time.monotonic() - begin_s < budget_module.TTL_MS / 2000
    got[0].settle(4)
    assert budget.read(RUN, "b") == shoal.BudgetState(10, 4, 0, 6)


def test_a_stopped_process_is_refunded_after_its_ttl(
    db: shoal.Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What it used all the same counts when it comes back and settles, above the limit if need be."""
    budget = shoal.Budget(db)
    budget.create(RUN, "b", 10)
    monkeypatch.setattr(budget_module, "TTL_MS", 300)
    pid = os.fork()
    if pid == 0:
        try:
            with budget.reserve(RUN, "b", 10) as reservation:
                os.kill(os.getpid(), signal.SIGSTOP)
                reservation.settle(7)
                (tmp_path / "settled").touch()
        finally:
            os._exit(0)
    os.waitpid(pid, os.WUNTRACED)
    begin_s = time.monotonic()
    held = budget.reserve(RUN, "b", 10, wait=DEADLINE_S)
    assert time.monotonic() - begin_s > 0.1
    os.kill(pid, signal.SIGCONT)
    os.waitpid(pid, 0)
    assert (tmp_path / "settled").exists()
    assert budget.read(RUN, "b") == shoal.BudgetState(10, 7, 10, 0)
    held.settle(5)
    assert budget.read(RUN, "b") == shoal.BudgetState(10, 12, 0, 0)


def test_it_outlives_the_coordinator(db: shoal.Database, start: Start) -> None:
    """Who is there keeps what it has reserved; those that wait go on waiting, also for a refill."""
    budget = shoal.Budget(db)
    budget.create(RUN, "b", 10)
    budget.create(RUN, "rate", 10, refill_per_s=2)
    budget.reserve(RUN, "rate", 10).settle(10)
    holder = start(_HOLDER, "b", 6, says="held")
    mine = budget.reserve(RUN, "b", 4)
    got: list[str] = []

    def take(name: str, amount: int) -> None:
        budget.reserve(RUN, name, amount, wait=None).settle(0)
        got.append(name)

    threads = [threading.Thread(target=take, args=arguments) for arguments in (("b", 10), ("rate", 3))]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    for _ in range(2):
        kill(db.info().coordinator_pid)
        assert budget.read(RUN, "b") == shoal.BudgetState(10, 0, 10, 0)
        shoal.KVStore(db).put(RUN, "k", 1)
    threads[1].join(DEADLINE_S)
    assert got == ["rate"]
    mine.settle(0)
    holder.communicate("\n", timeout=DEADLINE_S)
    assert budget.read(RUN, "b") == shoal.BudgetState(10, 6, 0, 4)
    budget.adjust(RUN, "b", 16)
    threads[0].join(DEADLINE_S)
    assert got == ["rate", "b"]
    assert db.check() == []


def test_who_died_with_the_coordinator_is_refunded_after_its_ttl(
    db: shoal.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody saw the death."""
    budget = shoal.Budget(db)
    budget.create(RUN, "b", 10)
    monkeypatch.setattr(budget_module, "TTL_MS", 500)
    pid = os.fork()
    if pid == 0:
        budget.reserve(RUN, "b", 10)
        kill(db.info().coordinator_pid)
        os._exit(0)
    os.waitpid(pid, 0)
    budget.reserve(RUN, "b", 10, wait=DEADLINE_S).settle(0)


def test_an_interrupted_wait_reserves_nothing(db: shoal.Database) -> None:
    """An exception of a signal handler leaves the line, and what it may have got is refunded."""
    budget = shoal.Budget(db)
    budget.create(RUN, "b", 10)

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for delay_s in (0.0005, 0.002, 0.1):
            held = budget.reserve(RUN, "b", 10)
            signal.setitimer(signal.ITIMER_REAL, delay_s)
            with pytest.raises(KeyboardInterrupt):
                budget.reserve(RUN, "b", 10, wait=None)
            held.settle(0)
            wait_for(lambda: budget.read(RUN, "b").available == 10, "nothing to be reserved")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def settled(files: list[Path]) -> tuple[int, int]:
    """What the spenders have noted that they settled, and what they may have settled besides when they were killed."""
    noted = in_doubt = 0
    for file in files:
        lines = file.read_text().splitlines()
        noted += sum(int(line[2:]) for line in lines if line.startswith("a"))
        for line, following in itertools.pairwise([*lines, ""]):
            in_doubt += int(line[2:]) if line.startswith("i") and not following.startswith("a") else 0
    return noted, in_doubt


def spend_and_kill(db: shoal.Database, start: Start, tmp_path: Path, seconds: float, coordinator_kills: int) -> None:
    """8 processes spend from one budget while they, and coordinators, are killed; then compare with their files."""
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    budget, kv = shoal.Budget(db), shoal.KVStore(db)
    limit = 100
    budget.create(RUN, "shared", limit, refill_per_s=0)
    files = [tmp_path / f"spender-{number}" for number in range(8)]

    def spender(number: int) -> subprocess.Popen[str]:
        return start(_SPENDER, files[number], rng.randrange(1 << 30), says="ready")

    def raise_limit() -> None:
        nonlocal limit
        limit += 150
        budget.adjust(RUN, "shared", limit)

    spenders = [spender(number) for number in range(8)]
    end_s = time.monotonic() + seconds
    kills = sorted(rng.uniform(0, seconds) for _ in range(coordinator_kills))
    while time.monotonic() < end_s:
        time.sleep(rng.uniform(0, 0.05))
        state = budget.read(RUN, "shared")
        assert state.used + state.reserved <= limit
        if state.used > limit - 100:
            raise_limit()
        if rng.random() < 0.15:
            number = rng.randrange(8)
            spenders[number].kill()
            spenders[number].wait()
            spenders[number] = spender(number)
        if kills and end_s - time.monotonic() < seconds - kills[0]:
            kills.pop(0)
            kill(db.info().coordinator_pid)
            kv.put(RUN, "k", 1)
    for process in spenders:
        process.kill()
        process.wait()
    wait_for(lambda: not budget.read(RUN, "shared").reserved, "all to be refunded")
    noted, in_doubt = settled(files)
    used = budget.read(RUN, "shared").used
    assert noted <= used <= noted + in_doubt
    assert used > 100
    assert db.check() == []
    entries = list(db._store.auto_commit.scan(b"\0\1", b"\0\2"))
    assert entries == []


def test_never_over_and_all_refunded(db: shoal.Database, start: Start, tmp_path: Path) -> None:
    """Whoever is killed: used plus reserved never passes the limit, and what was settled is what counts."""
    spend_and_kill(db, start, tmp_path, 1.5, 0)


@pytest.mark.slow
def test_never_over_and_all_refunded_for_longer(db: shoal.Database, start: Start, tmp_path: Path) -> None:
    """For half a minute, with coordinators killed, too."""
    spend_and_kill(db, start, tmp_path, 30.0, 5)


def _kill_some(
    db: shoal.Database,
    rng: random.Random,
    victims: list[str],
    seconds: float,
    spenders: list[subprocess.Popen[str]],
    anew: Callable[[int], subprocess.Popen[str]] | None,
) -> None:
    """Kill ``victims``, spread over ``seconds``; ``anew`` starts a spender in the place of one that was killed."""
    for victim in victims:
        time.sleep(seconds / (len(victims) + 1))
        if victim == "coordinator":
            kill(db.info().coordinator_pid)
            continue
        number = rng.randrange(len(spenders))
        spenders[number].kill()
        spenders[number].wait()
        if anew is not None:
            spenders[number] = anew(number)
    time.sleep(seconds / (len(victims) + 1))


@pytest.mark.parametrize(
    ("processes", "seconds", "kills", "coordinator_kills"),
    [(4, 2.5, 1, 0), pytest.param(8, 30.0, 15, 3, marks=pytest.mark.slow)],
)
def test_the_rate_of_many_processes(
    db: shoal.Database,
    start: Start,
    tmp_path: Path,
    processes: int,
    seconds: float,
    kills: int,
    coordinator_kills: int,
) -> None:
    """While somebody always waits, what was given is the refill, to 2 %, whoever is killed on the way."""
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    budget = shoal.Budget(db)
    # While no coordinator serves the store nobody is given anything: the limit is more than comes back in that time.
    refill_per_s = 200
    limit = refill_per_s * (10 if coordinator_kills else 2)
    budget.create(RUN, "shared", limit, refill_per_s=refill_per_s)
    lives = 0

    def spender(number: int) -> subprocess.Popen[str]:
        nonlocal lives
        lives += 1
        return start(_SPENDER, tmp_path / f"spender-{number}", seed + lives, says="ready")

    spenders = [spender(number) for number in range(processes)]
    wait_for(lambda: budget.read(RUN, "shared").available < 40, "the limit to be reached")

    files = [tmp_path / f"spender-{number}" for number in range(processes)]

    def given() -> tuple[float, float, float]:
        """At least and at most how much was settled beyond what is used now, and when."""
        least, _ = settled(files)
        state = budget.read(RUN, "shared")
        now_s = time.monotonic()
        assert state.used + state.reserved <= limit
        noted, in_doubt = settled(files)
        return least - state.used, noted + in_doubt - state.used, now_s

    least_before, most_before, begin_s = given()
    victims = [*["spender"] * kills, *["coordinator"] * coordinator_kills]
    rng.shuffle(victims)
    _kill_some(db, rng, victims, seconds, spenders, spender if processes > 4 else None)
    least_after, most_after, end_s = given()
    expected = refill_per_s * (end_s - begin_s)
    least, most = least_after - most_before, most_after - least_before
    print("spent from", least, "to", most, "expected", expected)
    assert least <= 1.02 * expected
    assert most >= 0.98 * expected

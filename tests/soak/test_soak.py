"""The soak and the kills by the thousand (``tests/soak``, ``tests/kills``): short ones, and that they notice faults."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shoal
from tests.kills.__main__ import kill_all, plan
from tests.mutants.coordinator import mutated_coordinators
from tests.soak import ledger, verdict
from tests.soak.auditing import audit
from tests.soak.auditing.breach import ANOMALY, DOUBLED, LEFT_BEHIND, LOST, WRONG
from tests.soak.auditing.fleet import trimmed
from tests.soak.ledger import Slots, note_time, percentile_ms
from tests.soak.plan import Plan, troubles
from tests.soak.soak import Soak
from tests.soak.workload import names
from tests.soak.workload.operations import MIX, Worker
from tests.soak.workload.stopping import Countdown
from tests.support.histories.history_workers import seed_from
from tests.support.slow import slow


def _soak(directory: Path, seconds: float, mutant: str | None = None) -> tuple[bool, str, list[dict[str, Any]]]:
    window_s = min(1.5, seconds / 4)
    good, text = Soak(Plan(seconds, directory, seed_from(51), window_s=window_s, mutant=mutant)).run()
    lines = (directory / "soak.jsonl").read_text().splitlines()
    return good, text, [json.loads(line) for line in lines]


@pytest.mark.uncompiled
@pytest.mark.long
def test_soak_of_a_few_seconds(tmp_path: Path) -> None:
    """Everything at once, each kind of trouble among it: all that was acknowledged is there, once, in order."""
    good, text, samples = _soak(tmp_path / "soak", 1.0)
    assert good, f"{text}\n{(tmp_path / 'soak' / 'breaches.txt').read_text()}"
    last = samples[-1]
    for store in ("buffered", "strict"):
        found = last["stores"][store]
        # For one of them a worker must be in an effect just then, which a second may not have.
        done = {trouble.name for trouble in troubles(1.0, store)} - {"kill_in_effect"}
        assert all(found["done"][name] for name in done)
        assert found["commits_per_s"] > 0
        assert 0 < found["commit_ms"]["p50"] <= found["commit_ms"]["p99"] <= found["commit_ms"]["p99.9"]
        assert {"worker 0", "worker 1", "worker 2", "watcher 0", "watcher 1", "auditor"} <= found["processes"].keys()
        assert all(process["descriptors"] > 0 for process in found["processes"].values())
    # Of both stores, and at the end: a soak of a second may take its last sample before its first audit.
    sightings = re.findall(r"fleets +([\d,]+) sightings", text)
    assert len(sightings) == 2
    assert all(int(count.replace(",", "")) > 0 for count in sightings)
    assert (tmp_path / "soak" / "soak.png").exists() != ("matplotlib is not installed" in text)
    assert text == (tmp_path / "soak" / "summary.txt").read_text().rstrip("\n")


def _kill(directory: Path, workers: int, coordinators: int) -> None:
    rounds = plan(workers, coordinators)
    done = kill_all(rounds, directory, seed_from(52), lanes=4)
    assert [result["breaches"] for result in done] == [[]] * len(rounds)
    assert all(result["acknowledged"] for result in done)
    assert sum(result["kills"] for result in done) == workers + coordinators
    assert kill_all(rounds, directory, 0, lanes=4) == done


@pytest.mark.slow
def test_kills_of_many_coordinators_and_workers(tmp_path: Path) -> None:
    """Several rounds of each in each durability."""
    _kill(tmp_path, workers=600, coordinators=120)


def test_plan_of_kills_is_exact() -> None:
    """As many as were asked for, half of them in each durability."""
    rounds = plan(workers=1_001, coordinators=77)
    for what, buffered, strict in (("workers", 501, 500), ("coordinators", 39, 38)):
        for durability, expected in (("buffered", buffered), ("strict", strict)):
            assert sum(r.kills for r in rounds if (r.what, r.durability) == (what, durability)) == expected
    assert [r.number for r in rounds] == list(range(len(rounds)))


def _worked(db: shoal.Database, directory: Path, window: int) -> None:
    """A window in which one worker has done something of everything."""
    audit.prepare(db, window)
    slots = Slots(1)
    slots.window = window
    mix = {name: 1 if name in ("put_large", "scratch", "runs") else 5 for name in MIX if name != "put_with_ttl"}
    Worker(db, slots, 0, "w0.1", directory, random.Random(1), 0.0, Countdown(160)).work(mix)


def _lose_key(db: shoal.Database, run: str) -> None:
    shoal.KVStore(db).delete(run, shoal.KVStore(db).list(run, names.UNIQUE)[0])


def _overwrite_key(db: shoal.Database, run: str) -> None:
    shoal.KVStore(db).put(run, shoal.KVStore(db).list(run, names.UNIQUE)[0], "other")


def _increment_twice(db: shoal.Database, run: str) -> None:
    shoal.KVStore(db).increment(run, names.SUM)


def _lose_increment(db: shoal.Database, run: str) -> None:
    shoal.KVStore(db).increment(run, names.SUM, -1)


def _append_twice(db: shoal.Database, run: str) -> None:
    event = shoal.EventLog(db).head(run)
    assert event is not None
    shoal.EventLog(db).append(run, event.event_type, event.payload)


def _half_a_pair(db: shoal.Database, run: str) -> None:
    shoal.KVStore(db).increment(run, f"{names.RIGHT}w0.1")


def _lose_element(db: shoal.Database, run: str) -> None:
    kv = shoal.KVStore(db)
    key, elements = next(pair for pair in kv.list_with_values(run, names.LISTS) if len(pair[1]) > 1)
    kv.put(run, key, elements[1:])


def _swap_elements(db: shoal.Database, run: str) -> None:
    kv = shoal.KVStore(db)
    key, elements = next(pair for pair in kv.list_with_values(run, names.LISTS) if len(pair[1]) > 1)
    kv.put(run, key, elements[::-1])


def _lose_run(db: shoal.Database, run: str) -> None:
    shoal.RunIndex(db).delete_run(shoal.RunIndex(db).get_child_runs(run)[0].run_id)


def _unknown_trace(db: shoal.Database, run: str) -> None:
    shoal.TraceStore(db).record(run, shoal.TraceType.Thought("who?"), tags=["w0.1"])


def _effect_twice(db: shoal.Database, run: str) -> None:
    done = shoal.TaskQueue(db).list(run, names.QUEUE, status=shoal.TaskStatus.Done)
    shoal.KVStore(db).increment(run, f"{names.EFFECTS}{done[0].id}")


def _effect_of_no_task(db: shoal.Database, run: str) -> None:
    shoal.KVStore(db).increment(run, f"{names.EFFECTS}nobody")


def _lose_task(db: shoal.Database, run: str) -> None:
    shoal.TaskQueue(db).purge(run, names.QUEUE, shoal.TaskStatus.Done)


def _lower_token(db: shoal.Database, run: str) -> None:
    shoal.KVStore(db).put(run, names.LAST_TOKEN, 0)


def _turn_twice(db: shoal.Database, run: str) -> None:
    shoal.KVStore(db).increment(run, names.TURNS)


def _use_budget(db: shoal.Database, run: str) -> None:
    shoal.Budget(db).reserve(run, names.BUDGET, 1).settle(1)


def _consume_twice(db: shoal.Database, run: str) -> None:
    shoal.KVStore(db).increment(run, names.CONSUMED)


@pytest.mark.long
@pytest.mark.parametrize(
    ("tamper", "kind"),
    [
        (None, None),
        (_effect_twice, DOUBLED),
        (_lower_token, LOST),
        (_use_budget, WRONG),
        *slow((_effect_of_no_task, WRONG), (_lose_task, LOST), (_turn_twice, DOUBLED), (_consume_twice, DOUBLED)),
        (_lose_key, LOST),
        (_increment_twice, DOUBLED),
        (_half_a_pair, WRONG),
        (_swap_elements, ANOMALY),
        *slow((_overwrite_key, WRONG), (_lose_increment, LOST), (_append_twice, DOUBLED)),
        *slow((_lose_element, LOST), (_lose_run, LOST), (_unknown_trace, WRONG)),
    ],
)
def test_audit_names_what_was_tampered_with(
    memory_db: shoal.Database, tmp_path: Path, tamper: Callable[[shoal.Database, str], None] | None, kind: str | None
) -> None:
    """A window as its worker left it passes; with one thing changed behind its back it does not."""
    window = random.SystemRandom().randrange(1 << 40)
    _worked(memory_db, tmp_path, window)
    if tamper is not None:
        tamper(memory_db, names.run_of(window))
    found = audit.audit(memory_db, window, tmp_path)
    assert found.acknowledged > 30
    assert (kind in {breach.kind for breach in found.breaches}) if kind else found.breaches == []
    assert audit.clear(memory_db, window, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_audit_of_a_log_that_is_not_trimmed(store: Path) -> None:
    """More events than the policy keeps, however long one waits, are noticed; as many as it keeps are not."""
    with shoal.open(store, durability="memory", linger=0.2) as db:
        log = shoal.EventLog(db)
        log.append_many(names.ROLLING, [("step", n) for n in range(names.ROLLING_EVENTS)])
        assert trimmed(db, 0.0) == []
        log.append(names.ROLLING, "step", 0)
        assert [breach.kind for breach in trimmed(db, 0.0)] == [LEFT_BEHIND]


def test_ledger_that_a_kill_cut_short(tmp_path: Path) -> None:
    """A line that is not whole was not begun, or not told."""
    path = tmp_path / "000001-w0.1.ledger"
    whole = b'["i","put",1,0,1.0]\n["a","put",1,null,2.0]\n["i","put",2,0,3.0]\n'
    for rest in (b"", b'["a","put",2,nu', b'["a","put",2,null,4.0]'):
        path.write_bytes(whole + rest)
        operations, wrong = ledger.read_ledger("w0.1", path)
        assert [(operation.number, operation.outcome) for operation in operations] == [(1, "a"), (2, "")]
        assert wrong == []


def test_percentiles_of_a_histogram() -> None:
    """A percentile is the upper bound of its bucket: never below the truth, and an eighth above it at most."""
    slot = Slots(1).slot(0)
    times = [random.Random(5).randrange(1, 10**9) for _ in range(2_000)]
    for ns in times:
        note_time(slot, ledger.COMMIT_HISTOGRAM, ledger.SLOWEST_COMMIT, ns)
    histogram = slot[ledger.COMMIT_HISTOGRAM : ledger.COMMIT_HISTOGRAM + ledger.BUCKETS].tolist()
    for share in (0.5, 0.99, 0.999, 1.0):
        exact = sorted(times)[round(len(times) * share) - 1] / 1e6
        assert exact <= percentile_ms(histogram, share) <= exact * 1.126
    assert slot[ledger.SLOWEST_COMMIT] == max(times)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([50.0 + i % 5 for i in range(60)], "flat"),
        ([50.0 + i / 3 for i in range(60)], "GROWS"),
        ([50.0 + i / 3 for i in range(10)], "not judged: too short"),
        ([50.0 - i / 3 for i in range(60)], "flat"),
    ],
)
def test_growth_is_judged_by_a_line(values: list[float], expected: str) -> None:
    """20 MiB more over five minutes is growth; a saw, or a fall, is not."""
    series = [(5.0 * i, value * verdict.MIB) for i, value in enumerate(values)]
    assert verdict.judge("store", "own memory", verdict.BOUNDS["own memory"], series).verdict == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([8.0] * 60 + [20.0] * 60, "flat"),
        ([8.0] * 60 + [40.0] * 60, "GROWS"),
        ([8.0 + i / 2 for i in range(120)], "GROWS"),
        ([40.0] * 60 + [8.0] * 60, "flat"),
        ([8.0 + 900.0 * (i % 3 == 0) for i in range(120)], "flat"),
        ([8.0] * 20 + [40.0] * 20, "not judged: too short"),
    ],
)
def test_latency_is_judged_by_its_quarters(values: list[float], expected: str) -> None:
    """Commits that take five times as long at the end are growth; twice as long, or outliers all the way, are not."""
    series = [(6.0 * i, value) for i, value in enumerate(values)]
    found = verdict.judge_quarters("store", "commit p99", verdict.BOUNDS["commit p99"], series)
    assert found.verdict == expected
    assert verdict.breaches({}, [found])["growing"] == (expected == "GROWS")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutant", "kinds"),
    [
        ("answer_before_log", {LOST, DOUBLED, ANOMALY}),
        ("die_logged+forget_outcomes", {DOUBLED}),
        ("skip_point_validation", {ANOMALY}),
        ("skip_range_validation", {ANOMALY}),
        ("watch_told_twice", {DOUBLED}),
        ("watch_begins_anew", {LOST}),
    ],
)
def test_soak_notices(tmp_path: Path, mutant: str, kinds: set[str]) -> None:
    """A soak over a coordinator with a fault fails, and says what kind of fault it is."""
    good, text, _ = _soak(tmp_path / "soak", 10.0, mutant)
    assert not good, text
    said = (tmp_path / "soak" / "breaches.txt").read_text()
    assert any(f": {kind}: " in said for kind in kinds), text


@pytest.mark.slow
@pytest.mark.parametrize(("mutant", "what"), [("leak_memory", "own memory"), ("leak_descriptors", "descriptors")])
def test_soak_notices_growth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutant: str, what: str) -> None:
    """A coordinator that keeps something of every client that has gone is one that grows."""
    monkeypatch.setattr(verdict, "SHORTEST_S", 10.0)
    monkeypatch.setattr(verdict, "FEWEST_SAMPLES", 6)
    monkeypatch.setattr(verdict, "WARM_UP_S", 3.0)
    plan = Plan(60.0, tmp_path / "soak", seed_from(53), sample_every_s=1.0, mutant=mutant)
    good, text = Soak(plan).run()
    assert not good
    assert any(f"coordinator: {what}" in line and "GROWS" in line for line in text.splitlines()), text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutant", "what", "kinds"),
    [
        ("answer_before_log", "coordinators", {LOST, DOUBLED, ANOMALY, WRONG}),  # what a worker made is not there
        ("die_logged+forget_outcomes", "coordinators", {DOUBLED, WRONG}),  # an id of its own "exists already"
        ("skip_point_validation", "workers", {ANOMALY, LOST}),
        ("leak_descriptors", "workers", {LEFT_BEHIND}),
    ],
)
def test_kills_notice(tmp_path: Path, mutant: str, what: str, kinds: set[str]) -> None:
    """Rounds of kills over a coordinator with a fault find it."""
    with mutated_coordinators(mutant):
        done = kill_all(plan(**{"workers": 0, "coordinators": 0, what: 40}), tmp_path, seed_from(54), lanes=2)
    assert kinds & {kind for result in done for kind, _ in result["breaches"]}

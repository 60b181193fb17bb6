"""``python -m tests.kills --workers 10000 --coordinators 10000 [--seed S] [--directory D]``: exit code 1 on any breach.

Rounds run side by side, as a take-over is mostly waiting for an interpreter to start. Each finished round is a line in
``kills.jsonl``: called again with the same directory, what is there is not done again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tests.kills.rounds import Killing, Round
from tests.soak.auditing.breach import KINDS

KILLS_IN_A_ROUND = {"coordinators": 50, "workers": 250}
DURABILITIES = ("buffered", "strict")
REPORT_EVERY_S = 30.0
_FORK = multiprocessing.get_context("fork")

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # half of what a coordinator's start costs would be compiling it anew


def plan(workers: int, coordinators: int) -> list[Round]:
    """The rounds: half of the kills in each durability."""
    rounds: list[Round] = []
    for what, total in (("coordinators", coordinators), ("workers", workers)):
        left = {DURABILITIES[0]: total - total // 2, DURABILITIES[1]: total // 2}
        while any(left.values()):
            for durability in DURABILITIES:
                kills = min(left[durability], KILLS_IN_A_ROUND[what])
                left[durability] -= kills
                if kills:
                    rounds.append(Round(len(rounds), what, durability, kills))
    return rounds


def kill_all(
    rounds: list[Round], directory: Path, seed: int, lanes: int, progress: bool = False
) -> list[dict[str, Any]]:
    """Run all rounds that ``directory`` has no result of; the results of all."""
    record = directory / "kills.jsonl"
    done = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    waiting = [plan for plan in rounds if plan.number not in {result["number"] for result in done}]
    running: dict[Any, Round] = {}
    reported = time.monotonic()
    bar = tqdm(total=sum(plan.kills for plan in waiting), unit="kill", disable=None if progress else True)
    try:
        while waiting or running:
            while waiting and len(running) < lanes:
                plan = waiting.pop(0)
                _forget(plan, directory)  # what a run that was cut short has left of it
                process = _FORK.Process(target=_run, args=(plan, directory, seed))
                process.start()
                running[process] = plan
            for process in [process for process in running if not process.is_alive()]:
                plan = running.pop(process)
                done.append(_result(plan, directory, process.exitcode))
                process.close()
                with open(record, "a", encoding="utf-8") as out:
                    out.write(json.dumps(done[-1]) + "\n")
                bar.update(plan.kills)
                if progress and (done[-1]["breaches"] or time.monotonic() - reported >= REPORT_EVERY_S):
                    reported = time.monotonic()
                    bar.write(report(done))
            time.sleep(0.02)
    finally:
        bar.close()
        for process in running:
            process.terminate()
            process.join()
    return done


def _forget(plan: Round, directory: Path) -> None:
    shutil.rmtree(directory / f"round-{plan.number:05}", ignore_errors=True)
    (directory / f"round-{plan.number:05}.json").unlink(missing_ok=True)


def _run(plan: Round, directory: Path, seed: int) -> None:
    out = directory / f"round-{plan.number:05}.json"
    killing = Killing(plan, directory, seed)
    try:
        out.write_text(json.dumps(killing.run()))
    except Exception:
        breaches = [*map(list, killing.breaches), ["wrong", traceback.format_exc()]]
        out.write_text(json.dumps({**plan._asdict(), "breaches": breaches}))


def _result(plan: Round, directory: Path, exitcode: int) -> dict[str, Any]:
    out, home = directory / f"round-{plan.number:05}.json", directory / f"round-{plan.number:05}"
    if not out.exists():
        return {**plan._asdict(), "breaches": [["wrong", f"the round's process ended with {exitcode}"]]}
    result: dict[str, Any] = json.loads(out.read_text())
    out.unlink()
    if not result["breaches"]:
        shutil.rmtree(home)  # of a breach everything is kept: store, log, ledgers
    return result


def report(done: list[dict[str, Any]]) -> str:
    """Figures so far."""
    lines = []
    for what in ("coordinators", "workers"):
        for durability in DURABILITIES:
            of = [result for result in done if (result["what"], result["durability"]) == (what, durability)]
            if not of:
                continue
            sums: Counter[str] = Counter()
            for result in of:
                sums.update({key: result.get(key, 0) for key in ("kills", "in_start", "acknowledged", "transactions")})
            pauses = sorted(result.get("pause_p50_s", 0.0) for result in of)
            more = f", {sums['in_start']:,} more processes killed while they started" if sums["in_start"] else ""
            if what == "coordinators":
                longest = max(result.get("pause_max_s", 0.0) for result in of)
                more += f"; next commit after {pauses[len(pauses) // 2]:.3f} s (median), {longest:.3f} s (longest)"
            lines.append(
                f"{what:>12} {durability:<8} {sums['kills']:>6,} killed under load in {len(of)} rounds, "
                f"{sums['acknowledged']:,} acknowledged and audited, {sums['transactions']:,} list transactions{more}"
            )
    found = Counter(kind for result in done for kind, _ in result["breaches"])
    lines.append(", ".join(f"{found[kind]} {kind}" for kind in KINDS))
    return "\n".join(lines)


def main() -> int:
    """Kill, and say how it went."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description="kill -9 under load, audited.")
    parser.add_argument("--workers", type=int, default=500)
    parser.add_argument("--coordinators", type=int, default=200)
    parser.add_argument(
        "--seed", type=int, help="decides on what is done and when; what the machine makes of it varies"
    )
    parser.add_argument("--directory", type=Path, help="where results go; one that has some is gone on with")
    parser.add_argument("--lanes", type=int, default=2 * (os.cpu_count() or 1), help="rounds at a time")
    options = parser.parse_args()
    directory = (options.directory or Path(tempfile.mkdtemp(prefix="shoal-kills-"))).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # in order: nobody stays behind
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}, results in {directory}", flush=True)
    began = time.monotonic()
    done = kill_all(plan(options.workers, options.coordinators), directory, seed, options.lanes, progress=True)
    print(report(done))
    bad = [(result["number"], *breach) for result in done for breach in result["breaches"]]
    for number, kind, what in bad[:20]:
        print(f"round {number}: {kind}: {what}")
    print(f"{'FAIL' if bad else 'PASS'} in {time.monotonic() - began:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

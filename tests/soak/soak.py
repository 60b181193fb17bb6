"""The run itself: everything at once, a line of JSON every few seconds, and a verdict."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

import shoal
from shoal.primitives.rules.lease_rules import TOKEN_KEY
from tests.mutants.coordinator import mutated_coordinators
from tests.soak.auditing.breach import LEFT_BEHIND, UNSOUND, WRONG
from tests.soak.plan import DURABILITIES, Plan, troubles
from tests.soak.plot import plot
from tests.soak.samples import process_sample
from tests.soak.verdict import breaches, findings, summary
from tests.soak.workload.operations import TIMEOUT_S
from tests.soak.workload.subject import Subject
from tests.support.workers.crash_workers import (
    descriptors,
    processes_of,
    shoal_mappings,
    strangers,
    wait_for,
    wait_until_left,
)

_TICK_S = 0.02
_LONGEST_HELD_S = 45.0  # the dead may hold something for its ttl, which is 30 s at most
_LATEST_S = 30.0  # a short run is so much longer at most, until it had its share of every trouble


class Soak:
    """One run."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._last: dict[str, Any] = {}  # the others are in the file: this process is not to grow either
        self._subjects: list[Subject] = []

    def run(self) -> tuple[bool, str]:
        """Whether all was well, and the summary. ``plan.directory`` must be new or empty."""
        plan = self._plan
        plan.directory.mkdir(parents=True, exist_ok=True)
        if any(plan.directory.iterdir()):
            raise FileExistsError(f"{plan.directory} is not empty; give a new directory")
        with _own_temporary_directory(plan.directory / "tmp") as temporary, mutated_coordinators(plan.mutant):
            gc.collect()
            before, mapped = descriptors(), shoal_mappings()
            self._subjects += [Subject(plan, durability) for durability in DURABILITIES]
            is_over = False
            with open(plan.directory / "soak.jsonl", "w", encoding="utf-8") as out:
                try:
                    self._go(out)
                    is_over = True
                except (AssertionError, shoal.ShoalError) as error:
                    self._subjects[0].report(WRONG, f"the soak ended early: {error!r}")
            for subject in self._subjects:
                try:
                    _look_at_the_rest(subject, is_over)
                except shoal.ShoalError as error:
                    subject.report(WRONG, f"the store cannot be opened: {error!r}")
            gc.collect()
            left = [what for fd, what in descriptors().items() if before.get(fd) != what]
            left += [line for line in shoal_mappings() if line not in mapped]
            left += [str(path) for path in temporary.iterdir()]
            if left:
                self._subjects[0].report(LEFT_BEHIND, f"by the process that ran it all: {left}")
        return self._conclude()

    def _go(self, out: IO[str]) -> None:
        plan = self._plan
        bar = tqdm(total=round(plan.seconds), unit="s", disable=None if plan.progress else True)
        ahead = {subject.name: troubles(plan.seconds, subject.name) for subject in self._subjects}
        try:
            for subject in self._subjects:
                subject.start()
            began = sampled = time.monotonic()
            while (passed := time.monotonic() - began) < plan.seconds or (
                passed < plan.seconds + _LATEST_S and any(s.spared(ahead[s.name]) for s in self._subjects)
            ):
                for subject in self._subjects:
                    subject.trouble(passed / plan.seconds, ahead[subject.name])
                now = time.monotonic()
                if now - sampled >= min(plan.sample_every_s, plan.seconds / 3):
                    self._sample(now - began, now - sampled, out)
                    sampled = now
                    bar.set_postfix_str(self._progress())
                    bar.update(round(now - began) - bar.n)
                time.sleep(_TICK_S)
            now = time.monotonic()
            self._sample(now - began, now - sampled, out)
            for subject in self._subjects:
                subject.tell_to_end()
            for subject in self._subjects:
                subject.finish()
        finally:
            bar.close()
            for subject in self._subjects:
                subject.abandon()

    def _sample(self, passed: float, seconds: float, out: IO[str]) -> None:
        stores = {subject.name: subject.sample(seconds) for subject in self._subjects}
        gc.collect()  # the databases that were just opened and closed
        sample = {"time": round(passed, 2), "process": process_sample(os.getpid()), "stores": stores}
        self._last = sample
        out.write(json.dumps(sample) + "\n")
        out.flush()

    def _progress(self) -> str:
        stores = self._last["stores"].values()
        commits = sum(store["commits_per_s"] for store in stores)
        done = {
            name: sum(store["done"].get(name, 0) for store in stores) for name in ("kill_worker", "kill_coordinator")
        }
        audited = sum(store["oracles"]["acknowledged"] for store in stores)
        found = breaches(self._oracles(), [])
        bad = ", ".join(f"{count} {kind}" for kind, count in found.items() if count) or "no breach"
        kills = f"{done['kill_worker']}+{done['kill_coordinator']} kills"
        return f"{commits:,.0f} commits/s, {kills}, {audited:,} audited, {bad}"

    def _oracles(self) -> dict[str, dict[str, int]]:
        return {subject.name: subject.board.counts() for subject in self._subjects}

    def _conclude(self) -> tuple[bool, str]:
        plan, oracles = self._plan, self._oracles()
        lines = (plan.directory / "soak.jsonl").read_text(encoding="utf-8").splitlines()
        samples = [json.loads(line) for line in lines]
        found = findings(samples, list(oracles))
        title = f"soak of {plan.seconds / 60:g} minutes, seed {plan.seed}, {os.cpu_count()} processors"
        text = summary(title, samples, oracles, found)
        missing = plot(samples, list(oracles), plan.directory / "soak.png")
        if missing:
            text += f"\n{missing}"
        (plan.directory / "summary.txt").write_text(text + "\n", encoding="utf-8")
        return not any(breaches(oracles, found).values()), text


def _look_at_the_rest(subject: Subject, is_deleted: bool) -> None:
    """Who is still there; and what the store still holds, if everything was deleted, as when a soak is over."""
    for _ in range(2):  # as it was left, and as it is recovered
        with shoal.open(subject.path, timeout=TIMEOUT_S, linger=0.0) as db:
            try:
                wait_for(lambda: not is_deleted or not _keys(db), "the last keys to go", seconds=_LONGEST_HELD_S)
            except AssertionError:
                keys = _keys(db)
                subject.report(LEFT_BEHIND, f"{len(keys)} keys after everything was deleted: {keys[:5]}")
            for what in db.check():
                subject.report(UNSOUND, what)
        try:
            wait_until_left(subject.path)
        except AssertionError:
            subject.report(LEFT_BEHIND, f"processes {processes_of(subject.path)}")
    for name in strangers(subject.path):
        kind, text = LEFT_BEHIND, ""
        if name == "coordinator.log":
            kind, text = WRONG, (subject.path / name).read_text()
        subject.report(kind, f"{name} in the store's directory: {text}")


def _keys(db: shoal.Database) -> list[bytes]:
    """All keys but the last token, which outlives whatever was held."""
    return [key for key, _ in db._store.auto_commit.scan(b"", b"\xff" * 8) if key != TOKEN_KEY]


@contextlib.contextmanager
def _own_temporary_directory(path: Path) -> Iterator[Path]:
    """Temporary files of this process and its children go here, so that one sees what is left."""
    path.mkdir()
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"], tempfile.tempdir = str(path), None
    try:
        yield path
    finally:
        tempfile.tempdir = None
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before

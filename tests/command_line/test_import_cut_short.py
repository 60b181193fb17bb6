"""Imports that are cut short: all of a file, or nothing, or the rest."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.transfer import import_file, json_lines, records
from shoal.transfer.import_check import ExportFormatError
from shoal.transfer.import_file import IMPORT_MARKER
from tests.command_line.conftest import DB
from tests.support.stores.full_store import bring, export, fill, sealed

StopAfter = Callable[[int], None]


class StoppedError(BaseException):
    """The process ends here."""


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Commits of seven records, and the end of the process instead of the one after so many."""
    monkeypatch.setattr(import_file, "_COMMIT_RECORDS", 7)
    attempt = import_file._Import._attempt
    left = [10**9]

    def limited(self: Any, *arguments: Any) -> None:
        if not left[0]:
            raise StoppedError
        left[0] -= 1
        attempt(self, *arguments)

    monkeypatch.setattr(import_file._Import, "_attempt", limited)
    return lambda commits: left.__setitem__(0, commits)


class TestCutShort:
    @pytest.mark.long
    def test_the_same_file_again_finishes(
        self, exported: bytes, empty: DB, tmp_path: Path, stop_after: StopAfter
    ) -> None:
        """Wherever it was cut, as often as it was."""
        for _ in range(8):
            stop_after(3)
            with pytest.raises(StoppedError):
                bring(empty, tmp_path, exported)
        stop_after(10**9)
        bring(empty, tmp_path, exported)
        assert export(empty) == exported
        assert empty.check() == []
        assert empty._store.auto_commit.find(IMPORT_MARKER) is None

    @pytest.mark.long
    def test_another_file_waits_unless_the_first_is_given_up(
        self, exported: bytes, empty: DB, tmp_path: Path, stop_after: StopAfter
    ) -> None:
        """It says how far that came; what it wrote stays."""
        stop_after(2)
        with pytest.raises(StoppedError):
            bring(empty, tmp_path, exported)
        stop_after(10**9)
        fields = {"kind": "kv", "run_id": "new", "key": "k", "value": 1, "expires_at": None}
        other = sealed([json_lines.dump(records.HEADER), json_lines.dump(fields)])
        with pytest.raises(shoal.InvalidOperationError, match=r"after 14 of [0-9]+ records.*--give-up"):
            bring(empty, tmp_path, other)
        bring(empty, tmp_path, other, give_up=True)
        assert shoal.KVStore(empty).get("new", "k") == 1
        with pytest.raises(shoal.AlreadyExistsError):
            bring(empty, tmp_path, exported)

    def test_an_unfinished_import_is_not_exported(
        self, exported: bytes, empty: DB, tmp_path: Path, stop_after: StopAfter
    ) -> None:
        """The marker is no record; what has come is."""
        stop_after(1)
        with pytest.raises(StoppedError):
            bring(empty, tmp_path, exported)
        assert export(empty).count(b"\n") == 2 + 7

    def test_a_run_that_appears_meanwhile(
        self, exported: bytes, empty: DB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: StopAfter
    ) -> None:
        """It is refused where it would begin; once it is gone the same file goes on."""
        check = import_file._Import._check_absence

        def then_somebody_writes(self: Any) -> None:
            check(self)
            shoal.KVStore(empty).put("sealed", "mine", 1)

        with monkeypatch.context() as patch:
            patch.setattr(import_file._Import, "_check_absence", then_somebody_writes)
            with pytest.raises(shoal.AlreadyExistsError, match="run 'sealed' exists in the store"):
                bring(empty, tmp_path, exported)
        assert shoal.KVStore(empty).list("sealed") == ["mine"]
        shoal.RunIndex(empty).delete_run("sealed")
        bring(empty, tmp_path, exported)
        assert export(empty) == exported

    def test_two_at_once(self, exported: bytes, empty: DB, tmp_path: Path, stop_after: StopAfter) -> None:
        """One of them is told; the other one finishes, and everything is there once."""
        outcomes: list[str] = []
        start = threading.Barrier(2)

        def bring_it(i: int) -> None:
            (tmp_path / str(i)).mkdir()
            start.wait()
            try:
                bring(empty, tmp_path / str(i), exported)
                outcomes.append("done")
            except (shoal.InvalidOperationError, shoal.AlreadyExistsError) as error:
                outcomes.append(type(error).__name__)

        threads = [threading.Thread(target=bring_it, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if "done" not in outcomes:  # each stopped the other: what has come stays, and the file can be finished
            bring(empty, tmp_path, exported)
        assert export(empty) == exported

    def test_a_file_that_changes_meanwhile(
        self, exported: bytes, empty: DB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: StopAfter
    ) -> None:
        """What was checked is what is written."""
        check = import_file._Import._check_absence

        def then_somebody_writes(self: Any) -> None:
            check(self)
            (tmp_path / "import.jsonl").write_bytes(exported[:-2000])

        monkeypatch.setattr(import_file._Import, "_check_absence", then_somebody_writes)
        with pytest.raises(ExportFormatError, match="was changed while it was imported"):
            bring(empty, tmp_path, exported)

    @pytest.mark.long
    def test_a_full_store(self, empty: DB, store: Path, tmp_path: Path) -> None:
        """It says how far it came; once there is room the same file goes on."""
        for i in range(12):
            shoal.KVStore(empty).put("r", f"{i:02}", bytes(1 << 19))
        raw = export(empty)
        with shoal.open(store, durability="memory", max_bytes=8 << 20, linger=0.2) as db:
            for i in range(4):
                shoal.KVStore(db).put("other", str(i), bytes(1 << 19))
            with pytest.raises(shoal.StoreFullError, match=r"of 12 records are imported: make room"):
                bring(db, tmp_path, raw)
            shoal.RunIndex(db).delete_run("other")
            for _ in range(100):  # what is deleted makes room within seconds
                try:
                    bring(db, tmp_path, raw)
                    break
                except shoal.StoreFullError:
                    time.sleep(0.05)
            assert export(db) == raw

    @pytest.mark.slow
    def test_killed_at_any_moment(self, exported: bytes, tmp_path: Path) -> None:
        """kill -9 of the importing process, again and again: the last one finishes, and nothing is lost or twice."""
        path = tmp_path / "f.jsonl"
        with shoal.open(tmp_path / "source", durability="memory") as db:
            fill(db)
            for i in range(20_000):
                shoal.KVStore(db).put(f"run-{i % 50}", f"k{i}", i)
            raw = export(db)
        path.write_bytes(raw)
        kills = random.Random(3)
        killed = 0
        with shoal.open(tmp_path / "target") as db:
            while True:
                process = subprocess.Popen(
                    [sys.executable, "-m", "shoal", "import", db.path, str(path)], stdout=subprocess.DEVNULL
                )
                try:
                    # The first ones are killed early, so that some are on the fastest machine, too.
                    assert process.wait(kills.uniform(0.2, 0.4) * (1 + killed)) == 0
                    break
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    killed += 1
            assert export(db) == raw
            assert db.check() == []
        assert killed

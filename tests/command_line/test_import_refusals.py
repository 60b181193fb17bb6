"""``shoal import`` of what it must refuse, and imports that are cut short: all of a file, or nothing, or the rest."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.transfer import import_file, json_lines, records
from shoal.transfer.import_check import ExportFormatError
from shoal.transfer.import_file import IMPORT_MARKER, import_store
from tests.support.stores.full_store import bring, export, fill, sealed

DB = shoal.Database
StopAfter = Callable[[int], None]
SPACE = shoal.Namespace("acme", "x/y", "\0")
# By kind of record: fields of a wrong type, out of bounds, unknown, or not what the hash says.
WRONG: dict[str, list[dict[str, Any]]] = {
    "run": [
        {"status": "Done"}, {"status": ["Active"]}, {"created_at": 1.5}, {"created_at": -1}, {"created_at": 2**63},
        {"updated_at": None}, {"tags": "t"}, {"tags": ["t", "t"]}, {"tags": [1]}, {"tags": [""]}, {"run_id": ""},
        {"run_id": "x" * 129}, {"run_id": None}, {"parent_run": ""}, {"error": 1}, {"more": 1}, {"kind": "rum"},
        {"kind": []}, {"namespace": "a"}, {"namespace": ["a", "b"]}, {"namespace": ["", "b", "c"]},
        {"namespace": [1, "b", "c"]}, {"namespace": None},
    ],
    "kv": [
        {"key": ""}, {"key": 1}, {"key": "k" * 1025}, {"key": "\ud800"}, {"value": 2**64 - 1, "key": None},
        {"expires_at": 0}, {"expires_at": "5"}, {"expires_at": 2**64 - 1}, {"expires_at": True},
    ],
    "event": [
        {"payload": "other"}, {"sequence": 1}, {"sequence": "0"}, {"event_type": ""}, {"event_type": None},
        {"timestamp": 2**63}, {"timestamp": 0}, {"hash": "00"}, {"hash": 5}, {"hash": "zz" * 32},
        {"prev_hash": "11" * 32},
    ],
    "state": [
        {"version": 0}, {"version": 1.0}, {"version": 2**63}, {"updated_at": "x"}, {"name": ""}, {"deleted": True},
    ],
    "trace": [
        {"type": "Thinking"}, {"type": []}, {"fields": []}, {"fields": {}}, {"fields": {"trace_type": "", "data": 1}},
        {"fields": {"trace_type": "x", "data": 1, "x": 2}}, {"id": ""}, {"id": None}, {"parent_id": "unknown"},
        {"parent_id": 1}, {"parent_id": "trace-0"}, {"timestamp": None}, {"tags": {}},
    ],
    "consumer": [{"name": ""}, {"name": 1}, {"position": -1}, {"position": "1"}, {"position": True}, {"token": 1}],
    "task": [
        {"id": "q"}, {"id": 1}, {"sequence": 0}, {"status": "Delayed"}, {"status": 1}, {"priority": "1"},
        {"attempt": -1}, {"max_attempts": 0}, {"due_at": None}, {"error": 1}, {"key": ""},
    ],
    "lease": [{"name": ""}, {"name": 1}, {"token": -1}, {"token": "1"}, {"slot": None}, {"pid": 1.5}, {"ttl_ms": {}}],
    "result": [{"key": ""}, {"key": None}, {"expires_at": 0}, {"expires_at": 1.5}, {"expires_at": 2**63}, {"more": 1}],
    "budget": [
        {"name": ""}, {"name": None}, {"limit": 5}, {"limit": "-1"}, {"used": "nan"}, {"used": "1e3"}, {"more": "1"},
        {"used": "0.1234567890123"}, {"refill_per_s": "0.0000000001"}, {"refilled_at": "0"}, {"refilled_at": -1},
    ],
    "effect": [{"key": ""}, {"key": 5}, {"started_at": -1}, {"started_at": "now"}, {"token": 1}],
}  # fmt: skip


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[shoal.Database]:
    """A store with something of everything in two namespaces; nobody changes it."""
    with shoal.open(tmp_path_factory.mktemp("full") / "store", durability="memory", linger=0.2) as db:
        fill(db)
        fill(db, SPACE)
        yield db


@pytest.fixture(scope="module")
def exported(full: shoal.Database) -> bytes:
    """The export of it."""
    return export(full)


@pytest.fixture(scope="module")
def leased(full: shoal.Database) -> bytes:
    """An export with leases, which an import gives to nobody."""
    with full.lease("parent", "a"), full.lease("parent", "b", slots=2), full.lease("parent", "b", slots=2):
        return export(full)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[shoal.Database]:
    """A store to import into."""
    with shoal.open(tmp_path_factory.mktemp("target") / "store", durability="memory", linger=0.2) as db:
        yield db


@pytest.fixture
def empty(target: shoal.Database) -> shoal.Database:
    """The same with nothing in it."""
    target._store.auto_commit.clear(b"\0", b"\xff")
    return target


class TestDamage:
    """Whatever is wrong with a file, nothing of it is imported, and one line says what and where."""

    def refused(self, raw: bytes, tmp_path: Path, pattern: str) -> None:
        (tmp_path / "f").write_bytes(raw)
        with (tmp_path / "f").open("rb") as file, pytest.raises(ExportFormatError, match=pattern) as caught:
            import_store(lambda: pytest.fail("the store was opened"), file, "f")
        assert "nothing was imported" in str(caught.value)

    def test_cut_short_anywhere(self, exported: bytes, tmp_path: Path) -> None:
        """After any line, in the middle of any line."""
        ends = [i + 1 for i, byte in enumerate(exported) if byte == 10][:-1]
        for end in random.Random(1).sample(ends, 10):
            self.refused(exported[:end], tmp_path, "the end of the file")
            self.refused(exported[: end + 5], tmp_path, "ends in the middle")
        self.refused(b"", tmp_path, "line 1 of f")

    def test_a_flipped_bit_anywhere(self, exported: bytes, tmp_path: Path) -> None:
        """The checksum knows of what else makes sense."""
        places = random.Random(2)
        for _ in range(25):
            raw = bytearray(exported)
            raw[places.randrange(len(raw) - 1)] ^= 1 << places.randrange(7)
            self.refused(bytes(raw), tmp_path, "line [0-9]+ of f is not as an export has it")

    @pytest.mark.parametrize("raw", [b"\0" * 100, b"\n\n", b"PK\3\4", b"{}\n", b"[]\n", b'{"shoal_export":"1"}\n'])
    def test_something_else(self, raw: bytes, tmp_path: Path) -> None:
        """A file that is no export."""
        self.refused(raw, tmp_path, "line 1 of f")

    def test_another_format(self, tmp_path: Path) -> None:
        """Of a shoal to come."""
        self.refused(b'{"shoal_export":2}\n', tmp_path, "its format is 2, and this shoal reads 1")

    def test_more_after_the_end(self, exported: bytes, tmp_path: Path) -> None:
        """Two exports one behind the other are none."""
        self.refused(exported + exported, tmp_path, "more after the closing line")

    def lines(self, exported: bytes) -> list[bytes]:
        return exported.splitlines(keepends=True)[:-1]

    def test_lines_missing_repeated_or_moved(self, leased: bytes, tmp_path: Path) -> None:
        """With a checksum that fits: a record twice, an event or a parent missing, lines in another order."""
        lines = self.lines(leased)
        kinds = [json.loads(line).get("kind") for line in lines]
        for kind in records.KINDS:
            at = kinds.index(kind)
            self.refused(sealed([*lines[: at + 1], *lines[at:]]), tmp_path, f"line {at + 2} of f")
        event, trace = kinds.index("event"), kinds.index("trace")
        self.refused(sealed([*lines[:event], *lines[event + 1 :]]), tmp_path, "event 0 is missing")
        self.refused(sealed([*lines[:trace], *lines[trace + 1 :]]), tmp_path, "before its parent")
        self.refused(sealed([lines[0], *lines[2:], lines[1]]), tmp_path, "records are sorted")
        pair = kinds.index("kv")
        swapped = [*lines[:pair], lines[pair + 1], lines[pair], *lines[pair + 2 :]]
        self.refused(sealed(swapped), tmp_path, "records are sorted")

    @pytest.mark.parametrize(
        ("kind", "change"),
        [(kind, change) for kind in WRONG for change in WRONG[kind]],
        ids=lambda part: str(part)[:60],
    )
    def test_a_wrong_field(self, leased: bytes, tmp_path: Path, kind: str, change: Any) -> None:
        """Of a wrong type, out of bounds, unknown, or not what the hash says; the checksum fits."""
        lines = self.lines(leased)
        at = next(i for i, line in enumerate(lines) if json.loads(line).get("kind") == kind)
        lines[at] = json_lines.dump(json_lines.load(lines[at]) | change)
        self.refused(sealed(lines), tmp_path, f"line {at + 1} of f")

    @pytest.mark.parametrize("kind", records.KINDS)
    def test_a_missing_field(self, leased: bytes, tmp_path: Path, kind: str) -> None:
        """Each of them; a cell without value is a deleted one, an effect without result is in doubt."""
        lines = self.lines(leased)
        at = next(i for i, line in enumerate(lines) if json.loads(line).get("kind") == kind)
        for name in json_lines.load(lines[at]).keys() - {"namespace", {"state": "value", "effect": "result"}.get(kind)}:
            fields = json_lines.load(lines[at])
            del fields[name]
            self.refused(
                sealed([*lines[:at], json_lines.dump(fields), *lines[at + 1 :]]), tmp_path, f"line {at + 1} of f"
            )

    def test_a_record_too_large_for_a_commit(self, tmp_path: Path) -> None:
        """Found before anything is written, not in the middle."""
        fields: dict[str, Any] = {
            "kind": "run",
            "run_id": "r",
            "parent_run": None,
            "status": "Active",
            "created_at": 1,
            "updated_at": 1,
        }
        fields |= {"completed_at": None, "tags": [str(i) for i in range(300_000)], "metadata": None, "error": None}
        self.refused(sealed([json_lines.dump(records.HEADER), json_lines.dump(fields)]), tmp_path, "limit")

    def test_a_value_too_large(self, tmp_path: Path) -> None:
        """One byte more than can be stored."""
        fields = {"kind": "kv", "run_id": "r", "key": "k", "value": "x" * (16 * 2**20 + 1), "expires_at": None}
        self.refused(sealed([json_lines.dump(records.HEADER), json_lines.dump(fields)]), tmp_path, "line 2 of f.*limit")


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
                    assert process.wait(kills.uniform(1.0, 2.5)) == 0
                    break
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    killed += 1
            assert export(db) == raw
            assert db.check() == []
        assert killed

"""``shoal export`` and ``shoal import``: section 8 of the contract. What comes back is what was there."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.cli.main import main
from shoal.transfer import json_lines, records
from shoal.transfer.export_file import whole_file
from shoal.transfer.import_file import IMPORT_MARKER, source
from tests.support.present import present
from tests.support.primitives.event_logs import remove_event
from tests.support.stores.full_store import bring, export, fill, sealed

from .conftest import SPACE


class TestRoundTrip:
    @pytest.mark.long
    def test_the_export_of_what_was_imported_is_the_same(
        self, exported: bytes, empty: shoal.Database, tmp_path: Path
    ) -> None:
        """Byte by byte: hashes, versions, timestamps, expiries, tags, all namespaces; and the store is sound."""
        contents = bring(empty, tmp_path, exported)
        assert export(empty) == exported
        assert empty.check() == []
        assert contents.records == exported.count(b"\n") - 2
        assert empty._store.auto_commit.find(IMPORT_MARKER) is None

    @pytest.mark.long
    def test_the_same_content_is_the_same_export(self, full: shoal.Database, exported: bytes) -> None:
        """Nothing in it is of the moment it was made."""
        assert export(full) == exported

    @pytest.mark.parametrize("namespace", [shoal.Namespace(), SPACE], ids=["default", "other"])
    def test_every_query_answers_as_before(
        self, full: shoal.Database, exported: bytes, empty: shoal.Database, tmp_path: Path, namespace: Any
    ) -> None:
        """Indices are rebuilt: by status, tag, parent, time, type."""
        bring(empty, tmp_path, exported)
        answers = []
        for db in (full, empty):
            runs, traces = shoal.RunIndex(db, namespace=namespace), shoal.TraceStore(db, namespace=namespace)
            log, cells = shoal.EventLog(db, namespace=namespace), shoal.StateCell(db, namespace=namespace)
            kv, queue = shoal.KVStore(db, namespace=namespace), shoal.TaskQueue(db, namespace=namespace)
            answers.append(
                repr([
                    runs.list_runs(), runs.get_stats(), runs.get_child_runs("parent"),
                    [runs.query_runs(shoal.RunQuery(status=status)) for status in shoal.RunStatus],
                    runs.query_runs(shoal.RunQuery(tags=["t"])),
                    traces.list("parent"), traces.query_by_tag("parent", "tag"),
                    traces.query_by_type("parent", "mine"), traces.query_by_time("parent", 0, 2**62),
                    traces.get_tree("parent", "trace-0"), log.read_by_type("parent", "type-1"), log.anchor("sealed"),
                    cells.list("parent"), [cells.read("parent", name) for name in cells.list("parent")],
                    kv.list_with_values("parent"), kv.list_with_values("🦀 never registered"),
                    queue.list("parent", "work"), queue.stats("parent", "work"), queue.list("parent", "\0"),
                ])
            )  # fmt: skip
            assert log.verify_chain("parent")
            assert log.verify_chain("sealed")
            assert 3500 < present(kv.ttl("parent", "expires")) <= 3600
        assert answers[0] == answers[1]

    def test_life_goes_on_where_it_was(self, exported: bytes, empty: shoal.Database, tmp_path: Path) -> None:
        """Logs keep their chain, versions of deleted cells are not used again, keys stay taken."""
        bring(empty, tmp_path, exported)
        log, cells = shoal.EventLog(empty), shoal.StateCell(empty)
        assert log.append("sealed", "e", None).sequence == 5
        assert present(log.head("sealed")).hash[16:] != bytes(16)
        assert log.verify_chain("sealed")
        assert cells.read("parent", "cell-1") is None
        assert cells.init("parent", "cell-1", 0) == 2
        assert present(cells.read("parent", "cell-3")).version == 2
        with pytest.raises(shoal.AlreadyExistsError):
            shoal.RunIndex(empty).create_run(run_id="parent")
        with pytest.raises(shoal.AlreadyExistsError):
            shoal.TraceStore(empty).record("parent", shoal.TraceType.Thought("x"), id="trace-3")

    def test_tasks_go_on_where_they_were(
        self, full: shoal.Database, exported: bytes, empty: shoal.Database, tmp_path: Path
    ) -> None:
        """Their order, attempts and keys count; a task that was claimed is as if its holder had ended."""
        bring(empty, tmp_path, exported)
        queue = shoal.TaskQueue(empty)
        task = present(queue.claim("parent", "work"))
        assert (task.payload, task.attempt) == ("tried", 2)
        assert queue.put("parent", "é", None, key="é") == queue.list("parent", "é")[0].id
        queue.put("parent", "work", "new")
        claimed = export(empty)
        empty._store.auto_commit.clear(b"\0", b"\xff")
        bring(empty, tmp_path, claimed)
        assert [present(queue.claim("parent", "work")).payload for _ in range(2)] == ["tried", "new"]
        assert queue.claim("parent", "work") is None

    def test_an_empty_store(self, empty: shoal.Database, tmp_path: Path) -> None:
        """Two lines, which can be imported."""
        raw = export(empty)
        assert raw.count(b"\n") == 2
        assert bring(empty, tmp_path, raw).records == 0

    def test_what_has_expired_meanwhile_stays_away(self, empty: shoal.Database, tmp_path: Path) -> None:
        """A key whose moment has come is not there after an import, as it would not be without."""
        fields = {"kind": "kv", "run_id": "r", "key": "k", "value": 1, "expires_at": 5}
        bring(empty, tmp_path, sealed([json_lines.dump(records.HEADER), json_lines.dump(fields)]))
        assert not shoal.KVStore(empty).exists("r", "k")
        assert empty.check() == []

    def test_a_run_larger_than_is_read_ahead(
        self, empty: shoal.Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Runs large and small beside each other, each once and whole."""
        monkeypatch.setattr("shoal.primitives.run_scan._AHEAD_KEYS", 10)
        fill(empty)
        monkeypatch.undo()
        raw = export(empty)
        monkeypatch.setattr("shoal.primitives.run_scan._AHEAD_KEYS", 3)
        assert export(empty) == raw

    def test_an_export_is_of_one_moment(self, empty: shoal.Database) -> None:
        """What one transaction writes to two runs is in it twice or not at all, whoever writes meanwhile."""
        done = threading.Event()

        def write() -> None:
            with shoal.open(empty.path) as db:
                while not done.is_set():
                    with db.transaction("a") as txn:
                        n = txn.kv.increment("n")
                        txn.on("z").kv.put("n", n)
                        txn.on("z").kv.put(f"fill-{n % 300}", n)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(10):
                lines = [json.loads(line) for line in export(empty).splitlines()]
                assert len({line["value"] for line in lines if line.get("key") == "n"}) <= 1
        finally:
            done.set()
            thread.join()

    def test_a_broken_log_is_not_exported(self, empty: shoal.Database) -> None:
        """What could not be imported is not passed off as an export."""
        shoal.EventLog(empty).append_many("r", [("e", 1), ("e", 2)])
        remove_event(empty, "r", 0)
        with pytest.raises(shoal.CorruptionError, match="event log of run 'r'"):
            export(empty)


class TestFiles:
    def test_a_file_is_private_and_whole(self, full: shoal.Database, exported: bytes, tmp_path: Path) -> None:
        """0600 whatever the umask, under its own name once it is done; what was there before is replaced."""
        path = tmp_path / "f.jsonl"
        path.write_text("old")
        path.chmod(0o644)
        before = os.umask(0)
        try:
            assert main(["export", full.path, str(path)]) == 0
        finally:
            os.umask(before)
        assert path.read_bytes() == exported
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list(tmp_path.iterdir()) == [path]

    def test_failure_leaves_what_was_there(self, tmp_path: Path) -> None:
        """No half file under either name, whatever ended it."""
        path = tmp_path / "f.jsonl"
        path.write_text("old")
        for error in (OSError("no space"), KeyboardInterrupt()):
            with pytest.raises(type(error)), whole_file(path) as out:  # noqa: PT012
                out.write(b"new")
                raise error
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_a_link_keeps_pointing(self, full: shoal.Database, exported: bytes, tmp_path: Path) -> None:
        """Its target is replaced."""
        (tmp_path / "link").symlink_to("target")
        assert main(["export", full.path, str(tmp_path / "link")]) == 0
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "target").read_bytes() == exported

    @pytest.mark.parametrize("name", ["", "missing/f", "file/f"])
    def test_where_no_file_can_be(
        self, full: shoal.Database, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
    ) -> None:
        """A directory, or none: one line, exit 1."""
        (tmp_path / "file").write_text("")
        assert main(["export", full.path, str(tmp_path / name)]) == 1
        assert capsys.readouterr().err.startswith("shoal: ")
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_no_room_for_it(self, full: shoal.Database, capsys: pytest.CaptureFixture[str]) -> None:
        """What is no regular file is written to as it is, and says so when it is full."""
        assert main(["export", full.path, "/dev/full"]) == 1
        error = capsys.readouterr().err
        assert error.startswith("shoal: /dev/full: No space left on device; ")
        assert error.count("\n") == 1
        assert Path("/dev/full").is_char_device()

    def test_stdin_is_kept_in_a_file_without_a_name(self, exported: bytes) -> None:
        """What can be read only once can be imported."""
        with source(io.BytesIO(exported)) as file:
            file.seek(0)
            assert file.read() == exported
            assert os.fstat(file.fileno()).st_nlink == 0

    @pytest.mark.long
    def test_no_room_for_stdin(self, tmp_path: Path) -> None:
        """The place that lacks room is named, which is neither the store nor the output, and what helps."""
        limited = subprocess.run(
            [sys.executable, "-m", "shoal", "import", str(tmp_path / "store")],
            input=bytes(1 << 17),
            env={**os.environ, "TMPDIR": str(tmp_path)},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16)),
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert limited.returncode == 1
        assert limited.stderr.decode().startswith(f"shoal: {tmp_path} has no room for a copy of the export (")
        assert os.listdir(tmp_path) == []

    def test_through_a_pipe(self, full: shoal.Database, exported: bytes, store: Path, tmp_path: Path) -> None:
        """``shoal export A | shoal import B``: the store is made, and a second time it is refused."""
        shoal_ = [sys.executable, "-m", "shoal"]
        with subprocess.Popen([*shoal_, "export", full.path], stdout=subprocess.PIPE) as reader:
            done = subprocess.run([*shoal_, "import", str(store)], stdin=reader.stdout, capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, "")
            assert reader.wait() == 0
        assert "records of" in done.stdout
        with shoal.open(store, linger=0.2) as db:
            assert export(db) == exported
            again = subprocess.run([*shoal_, "import", str(store)], input=exported, capture_output=True)
        assert again.returncode == 1
        assert again.stderr.count(b"\n") == 1

    def test_a_bad_file_makes_no_store(self, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Exit 1, one line, and nothing is there."""
        path = tmp_path / "bad"
        for raw in (b"", b"garbage\n", b'{"shoal_export":1}\n{"kind"'):
            path.write_bytes(raw)
            assert main(["import", str(store), str(path)]) == 1
            out, error = capsys.readouterr()
            assert out == ""
            assert error.count("\n") == 1
            assert "nothing was imported" in error
        assert main(["import", str(store), str(tmp_path / "none")]) == 1
        assert main(["import", str(store), str(tmp_path)]) == 1
        assert not store.exists()


class TestRefusal:
    def test_a_run_that_is_there(self, exported: bytes, empty: shoal.Database, tmp_path: Path) -> None:
        """Registered or not, whatever is in it: named, and nothing is written."""
        writers: dict[str, Callable[[], object]] = {
            "registered": lambda: shoal.RunIndex(empty).create_run(run_id="sealed"),
            "holds a key": lambda: shoal.KVStore(empty).put("sealed", "k", 1),
            "registered in the file": lambda: shoal.KVStore(empty).put("paused", "k", 1),
        }
        for write in writers.values():
            write()
            before = export(empty)
            with pytest.raises(shoal.AlreadyExistsError, match=r"run '(sealed|paused)' exists"):
                bring(empty, tmp_path, exported)
            assert export(empty) == before
            for run_id in ("sealed", "paused"):
                with contextlib.suppress(shoal.NotFoundError):
                    shoal.RunIndex(empty).delete_run(run_id)
        bring(empty, tmp_path, exported)

    def test_the_same_run_in_another_namespace_is_another_run(
        self, exported: bytes, empty: shoal.Database, tmp_path: Path
    ) -> None:
        """It is not in the way."""
        shoal.KVStore(empty, namespace=shoal.Namespace("other")).put("sealed", "k", 1)
        bring(empty, tmp_path, exported)

    def test_twice(self, exported: bytes, empty: shoal.Database, tmp_path: Path) -> None:
        """The second time everything is there."""
        bring(empty, tmp_path, exported)
        with pytest.raises(shoal.AlreadyExistsError, match="delete it there, or import into another store"):
            bring(empty, tmp_path, exported)

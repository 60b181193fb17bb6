"""``shoal retention``, what ``shoal info`` says of it, and trimmed logs and policies in exports and backups."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

import shoal
from shoal import EventLog, RetentionPolicy, RunIndex
from shoal.cli.main import main
from shoal.transfer import json_lines
from shoal.transfer.import_check import ExportFormatError
from tests.support.stores.full_store import bring, export, sealed
from tests.support.upkeep import record_at
from tests.support.workers.crash_workers import wait_for

SPACE = shoal.Namespace("acme", "x", "y")


def _said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.long
def test_set_and_show(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One policy of a namespace or a run at a time, replaced as a whole; units of time; each on a line."""
    path = str(store)
    with shoal.open(store, linger=0) as db:
        shoal.KVStore(db).put("run", "k", 1)
    assert _said(capsys, "retention", path) == "no policy: everything is kept\n"
    assert _said(capsys, "retention", path, "--events", "5000", "--event-age", "7d", "--archived-age", "1.5h") == ""
    _said(capsys, "retention", path, "--namespace", "acme/x/y", "--run", "a b", "--trace-age", "90", "--task-age", "2m")
    assert _said(capsys, "retention", path).splitlines() == [
        "acme/x/y run a b: trace_age 90 s, task_age 120 s",
        "default/default/default: events 5,000, event_age 604,800 s, archived_age 5,400 s",
    ]
    with shoal.open(store, linger=0) as db:
        assert RunIndex(db).get_retention() == RetentionPolicy(5000, 7 * 86_400, archived_age=5_400)
        assert RunIndex(db, namespace=SPACE).get_retention("a b") == RetentionPolicy(trace_age=90, task_age=120)
        RunIndex(db).set_retention(RetentionPolicy(), "kept")
    assert _said(capsys, "retention", path, "--run", "kept") == "default/default/default run kept: everything is kept\n"
    _said(capsys, "retention", path, "--clear")
    assert len(_said(capsys, "retention", path).splitlines()) == 2


def test_bad_usage(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2 for a bad argument, 1 where there is no store; nothing is made."""
    for arguments in (
        ["--events", "-1"],
        ["--events", str(2**63)],
        ["--trace-age", "x"],
        ["--event-age", "-1"],
        ["--namespace", "a"],
        ["--run", ""],
        ["--clear", "--events", "5"],
    ):
        with pytest.raises(SystemExit) as caught:
            main(["retention", str(store), *arguments])
        assert caught.value.code == 2
    for arguments in ([], ["--events", "1"]):
        assert main(["retention", str(tmp_path / "none"), *arguments]) == 1
    assert not (tmp_path / "none").exists()
    assert "there is no store" in capsys.readouterr().err


def test_what_is_wrong_with_the_usage_is_told(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which unit an age may have, and that a policy is set or taken away, not both."""
    for arguments, told in (
        (["--trace-age", "7x"], "'7x' is no age; give 0 seconds or more, or a unit: 90, 30s, 15m, 12h, 7d"),
        (["--events", str(2**63)], f"--events: {2**63} is more than 2**63 - 1; leave it out to keep all events"),
        (["--task-age", "1h", "--clear"], "--clear takes the policy away and --task-age sets one; give one of them"),
    ):
        with pytest.raises(SystemExit):
            main(["retention", str(store), *arguments])
        assert told in capsys.readouterr().err


@pytest.mark.long
def test_what_is_reclaimable(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``shoal info`` counts what a pass would remove, and says when there is nothing."""
    with shoal.open(store, durability="buffered", linger=0) as db:
        log = EventLog(db)
        log.append_many("run", [("e", number) for number in range(50)])
        for number in range(3):
            record_at(db, shoal.Namespace(), "run", 1, f"t{number}", f"t{number - 1}" if number else None)
        RunIndex(db).create_run(run_id="old")
        RunIndex(db).archive_run("old")
        assert "reclaimable       nothing" in _said(capsys, "info", str(store))
    with shoal.open(store, linger=0) as db:  # a pass of its coordinator is seconds away, or counted the same
        RunIndex(db).set_retention(RetentionPolicy(events=20, trace_age=1_000, archived_age=0))
        shown = _said(capsys, "info", str(store))
    assert "reclaimable       30 events, 1 run, 3 traces\n" in shown or "reclaimable       nothing\n" in shown
    with shoal.open(store, linger=0) as db:
        wait_for(lambda: EventLog(db).first_sequence("run") == 30 and not RunIndex(db).list_runs(), "upkeep")
        wait_for(lambda: shoal.TraceStore(db).count("run") == 0, "upkeep")
    assert "reclaimable       nothing" in _said(capsys, "info", str(store))


def _trimmed(db: shoal.Database) -> None:
    for space in (shoal.Namespace(), SPACE):
        log = EventLog(db, namespace=space)
        log.append_many("part", [(f"type {number % 3}", number) for number in range(90)])
        log.trim("part", 50)
        EventLog(db, chain="sha256", namespace=space).append_many("all", [("e", 1), ("e", 2)])
        log.trim("all", 2)
        runs = RunIndex(db, namespace=space)
        runs.create_run(run_id="part")
        runs.set_retention(RetentionPolicy(events=10**6, task_age=0.5))
        runs.set_retention(RetentionPolicy(event_age=10**8), "part")


@pytest.mark.long
def test_export_and_import(tmp_path: Path) -> None:
    """What comes back is what was there, byte by byte; logs go on where they were, those with no event left, too."""
    with (
        shoal.open(tmp_path / "a", durability="memory", linger=0) as db,
        shoal.open(tmp_path / "b", durability="memory", linger=0) as other,
    ):
        _trimmed(db)
        exported = export(db)
        RunIndex(other, namespace=SPACE).set_retention(RetentionPolicy(events=10**5))
        bring(other, tmp_path, exported)
        assert RunIndex(other, namespace=SPACE).get_retention() == RetentionPolicy(events=10**5), (
            "a store keeps its own"
        )
        RunIndex(other, namespace=SPACE).set_retention(RetentionPolicy(events=10**6, task_age=0.5))
        assert export(other) == exported
        for space in (shoal.Namespace(), SPACE):
            log, origin = EventLog(other, namespace=space), EventLog(db, namespace=space)
            assert (log.first_sequence("part"), log.first_sequence("all"), log.len("all")) == (50, 2, 2)
            for run in ("part", "all"):
                assert log.verify_chain(run, origin.anchor(run)).is_valid
                log.append(run, "e", "more")
                assert log.verify_chain(run, origin.anchor(run)).is_valid
            assert len((log.head("all") or pytest.fail("no head")).hash[16:].strip(b"\0")) > 0
            assert len(log.read_by_type("part", "type 1")) == 13


@pytest.mark.long
def test_bad_records_are_refused(tmp_path: Path) -> None:
    """A log that does not begin where its record says, records that are there twice, fields that are wrong."""
    with shoal.open(tmp_path / "a", durability="memory", linger=0) as db:
        _trimmed(db)
        lines = export(db).splitlines(keepends=True)
    trimmed = next(i for i, line in enumerate(lines) if b'"trimmed"' in line and b'"part"' in line)
    policy = next(i for i, line in enumerate(lines) if b'"retention"' in line)
    record = json_lines.load(lines[trimmed])
    changes = [
        [*lines[:trimmed], *lines[trimmed + 1 :]],
        [*lines[: trimmed + 1], *lines[trimmed:]],
        [*lines[: policy + 1], *lines[policy:]],
        [*lines[: trimmed + 1], *lines[trimmed + 2 :]],
        *(
            [*lines[:trimmed], json_lines.dump(record | changed), *lines[trimmed + 1 :]]
            for changed in (
                {"first_sequence": 49},
                {"first_sequence": 0},
                {"chain": "md5"},
                {"prev_hash": "00" * 32},
                {"x": 1},
            )
        ),
        [*lines[:policy], lines[policy].replace(b'"events":1000000', b'"events":-1'), *lines[policy + 1 :]],
    ]
    with shoal.open(tmp_path / "b", durability="memory", linger=0) as db:
        for changed in changes:
            with pytest.raises(ExportFormatError):
                bring(db, tmp_path, sealed(changed[:-1]))
        assert db.info().keys == 0


@pytest.mark.long
def test_a_backup(tmp_path: Path) -> None:
    """It has trimmed logs and policies as they were, and its own coordinator applies them."""
    with shoal.open(tmp_path / "a", durability="memory", linger=0) as db:
        _trimmed(db)
        db.backup(tmp_path / "b")
        expected = export(db)
    with shoal.open(tmp_path / "b", linger=0) as db:
        assert export(db) == expected
        assert EventLog(db).verify_chain("part").is_valid
    assert io.BytesIO(expected).readline() == b'{"shoal_export":1}\n'

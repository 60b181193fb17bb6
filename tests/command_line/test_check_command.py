"""``shoal check``: every problem of a store, at rest or being served, and nothing changed or started by looking."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import shoal
from shoal.cli.main import main
from shoal.coordinator.log.format import file_name
from shoal.coordinator.log.writer import WalWriter
from shoal.coordinator.recovery.survey import at_rest, survey_store
from shoal.shm.files import epoch_file, store_files
from shoal.shm.files.storage import DiskStorage
from tests.support.coordinators import coordinators_below
from tests.support.histories.history_workers import seed_from
from tests.support.stores.damaged import STORE_ID, Model, flipped, whole

RUN = "run"
LOG = file_name(1)
SAMPLE = 60


def _filled(path: Path, clean: bool) -> Path:
    """A store at rest, closed in order or killed, as a coordinator would have left it."""
    path.mkdir(mode=0o700)
    store_files.write_meta(path, store_files.StoreMeta("buffered", 8 << 20, STORE_ID))
    epoch_file.EpochWord(path, writable=True)
    (path / store_files.COORDINATOR_LOCK_FILE).touch()
    log = WalWriter(DiskStorage(path), 1, 0, STORE_ID)
    Model().append(log, 30)
    if clean:
        log.close()
    return path


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that was closed in order; not to be opened."""
    return _filled(tmp_path_factory.mktemp("closed") / "store", clean=True)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose coordinator was killed; not to be opened."""
    return _filled(tmp_path_factory.mktemp("killed") / "store", clean=False)


def _copy(path: Path, to: Path, log: bytes) -> Path:
    to.mkdir(mode=0o700)
    for name in (LOG, store_files.META_FILE, epoch_file.EPOCH_FILE, store_files.COORDINATOR_LOCK_FILE):
        (to / name).write_bytes((path / name).read_bytes() if name != LOG else log)
    return to


def _looks(path: Path) -> dict[str, tuple[bytes, int]]:
    return {
        entry.name: (entry.read_bytes(), entry.stat().st_mtime_ns) for entry in path.iterdir() if not entry.is_socket()
    }


def _check(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Exit status and lines of ``shoal check``, which changes and starts nothing."""
    before = _looks(path)
    status = main(["check", str(path)])
    assert _looks(path) == before
    assert coordinators_below(path.parent) == []
    return status, capsys.readouterr().out.splitlines()


def test_sound_store_at_rest(closed: Path, killed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Closed in order or killed: sound, exit 0, read without a coordinator."""
    for path in (closed, killed):
        assert _check(path, capsys) == (0, ["sound"])


def test_every_problem_is_listed(tmp_path: Path, closed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All breaches, each with file, offset, expected and found, then how many; exit 1."""
    data = (closed / LOG).read_bytes()
    records = [(record.version, start) for record, start, _ in whole(data)]
    hit = [records[3], records[9], records[20]]
    for _, start in hit:
        data = flipped(data, start + 60, 1)
    path = _copy(closed, tmp_path / "store", data)
    (path / store_files.META_FILE).write_text("{")
    status, lines = _check(path, capsys)
    expected = [f"{store_files.META_FILE} at byte 0: expected a JSON object that shoal wrote, found b'{{'"]
    expected += [
        f"{LOG} at byte {start}: expected the record of version {version}, found {data[start : start + 16].hex()}"
        for version, start in hit
    ]
    assert (status, lines) == (1, [*expected, "4 problems"])


def test_unfinished_commit_is_no_problem(tmp_path: Path, killed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a kill left of the commit it interrupted is told and is no problem: the next open cuts it."""
    data = (killed / LOG).read_bytes()
    end = whole(data)[-1][2]
    path = _copy(killed, tmp_path / "store", data[:end] + b"swal" + data[end + 4 :])
    said = f"{LOG} ends at byte {end} with a commit that was never finished; the next open cuts it"
    assert _check(path, capsys) == (0, [said, "sound"])


def test_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A path without a store is exit 1 and stays as it was; a directory with a log is one, and lacks store.json."""
    assert main(["check", str(tmp_path)]) == 1
    assert "there is no store at" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / LOG).write_bytes(b"")
    assert main(["check", str(tmp_path)]) == 1
    assert f"{store_files.META_FILE} at byte 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "every", [pytest.param(False, id="some"), pytest.param(True, id="all", marks=pytest.mark.slow)]
)
def test_every_byte_of_a_closed_store(tmp_path: Path, closed: Path, every: bool) -> None:
    """Of a store that was closed in order every byte of the log counts, padding and reserved room included."""
    data = (closed / LOG).read_bytes()
    end = whole(data)[-1][2]
    data = data[: end + 64]
    path = _copy(closed, tmp_path / "store", data)
    rng = random.Random(seed_from(41))
    places = range(len(data)) if every else rng.sample(range(len(data)), SAMPLE)
    assert survey_store(path).findings == []
    for place in places:
        (path / LOG).write_bytes(flipped(data, place, rng.randint(1, 255)))
        survey = survey_store(path)
        found = [*survey.findings, *([survey.unfinished] if survey.unfinished else [])]
        assert found, f"byte {place}"
        assert all(finding.offset <= place for finding in found[:1]), f"byte {place}: {found}"
        # Its last bytes, the mark of the clean close, are all that is indistinguishable from never written.
        assert survey.findings or place >= whole(data)[-1][1], f"byte {place}: only {found}"


@pytest.mark.long
def test_store_being_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Memory and files of a store being served are checked: damage on its disk is found while memory is still whole.

    So is a log that lacks what was acknowledged, which at rest would look like one that ended there.
    """
    path = tmp_path / "store"
    with shoal.open(path, max_bytes=8 << 20, linger=0.0, timeout=60) as db:
        for i in range(30):
            shoal.KVStore(db).put(RUN, f"k{i}", "x" * i)
        assert main(["check", str(path)]) == 0
        assert capsys.readouterr().out == "sound\n"
        with at_rest(path) as rests:
            assert not rests
        data = (path / LOG).read_bytes()
        records = whole(data)
        with (path / LOG).open("r+b") as log:
            for start, end, expected in (
                (records[5][1] + 57, records[5][1] + 58, [f"{LOG} at byte {records[5][1]}: expected the record of v"]),
                (records[20][1], len(data), [f"{LOG} at byte {records[20][1]}: expected the record of version 21, fo"]),
            ):
                log.seek(start)
                log.write(bytes(b ^ 1 for b in data[start:end]) if end - start == 1 else bytes(end - start))
                log.flush()
                assert main(["check", str(path)]) == 1
                lines = capsys.readouterr().out.splitlines()
                assert [line[: len(text)] for line, text in zip(lines, expected, strict=False)] == expected
                assert lines[-1] == f"{len(expected)} problem"
                log.seek(0)
                log.write(data)
                log.flush()
        assert main(["check", str(path)]) == 0


@pytest.mark.long
def test_memory_store_being_served(memory_db: shoal.Database, capsys: pytest.CaptureFixture[str]) -> None:
    """A memory store has no log, and is none the less sound."""
    assert main(["check", memory_db.path]) == 0
    assert capsys.readouterr().out == "sound\n"


@pytest.mark.slow
def test_store_cannot_be_opened_meanwhile(tmp_path: Path, closed: Path) -> None:
    """While its files are read no coordinator begins to change them; afterwards it is opened as ever."""
    path = _copy(closed, tmp_path / "store", (closed / LOG).read_bytes())
    with at_rest(path) as rests:
        assert rests
        with at_rest(path) as also:
            assert also
        with pytest.raises(shoal.CoordinatorLostError):
            shoal.open(path, timeout=0.5)
    with shoal.open(path, linger=0.0, timeout=60) as db:
        assert db.info().commit_version >= 30

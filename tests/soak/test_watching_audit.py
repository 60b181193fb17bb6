"""The audit of what was seen: a window as its watcher saw it passes; with a line changed, lost or doubled it fails."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import shoal
from tests.soak.auditing import audit
from tests.soak.auditing.breach import ANOMALY, DOUBLED, LOST, WRONG
from tests.soak.auditing.watching import consumer_breaches
from tests.soak.ledger import Slots
from tests.soak.sightings import CONSUMER, EVENTS, KEYS, RUNS, SENSES, Sightings, read_sightings, seen, since_of
from tests.soak.workload import names
from tests.soak.workload.operations import MIX, Worker
from tests.soak.workload.stopping import Countdown
from tests.soak.workload.watching import Watcher
from tests.support.workers.crash_workers import wait_for

Lines = list[list[Any]]


class _Watched(NamedTuple):
    """A store, and the ledgers and sightings of its window 0."""

    db: shoal.Database
    directory: Path
    since: int


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Watched]:
    """A window in which one worker has done something of everything, and which was watched to its end."""
    home, slots = tmp_path_factory.mktemp("watched"), Slots(1)
    directory = home / "ledgers"
    directory.mkdir()
    mix = {name: 1 if name in ("put_large", "once", "scratch") else 5 for name in MIX}
    with shoal.open(home / "store", linger=0.2) as db:
        audit.prepare(db, 0)
        since = shoal.KVStore(db).get(names.run_of(0), names.SINCE)
        Worker(db, slots, 0, "w0.1", directory, random.Random(2), 0.0, Countdown(200)).work(mix)
        kv = shoal.KVStore(db)
        wait_for(lambda: not kv.list(names.run_of(0), names.EXPIRING), "the keys that expire to go")
        audit.end(db, 0)
        Watcher(db, slots, 0, directory, "seed", []).watch_window(0, since)
        yield _Watched(db, directory, since)
        assert audit.clear(db, 0, directory) == []
        assert list(directory.iterdir()) == []


@pytest.fixture
def watched(original: _Watched, tmp_path: Path) -> _Watched:
    """The same with files of its own."""
    shutil.copytree(original.directory, tmp_path, dirs_exist_ok=True)
    return original._replace(directory=tmp_path)


def _at(lines: Lines, wanted: Callable[[list[Any]], bool]) -> int:
    return next(i for i, line in enumerate(lines) if line[0] == "s" and wanted(line))


def _lose_count(lines: Lines) -> None:
    del lines[_at(lines, lambda line: line[2:] == [names.SUM, 2])]


def _lose_put(lines: Lines) -> None:
    """The whole story of a key, so that no step is wrong."""
    key = lines[_at(lines, lambda line: line[2].startswith(names.UNIQUE))][2]
    lines[:] = [line for line in lines if line[2:3] != [key]]


def _lose_expiring(lines: Lines) -> None:
    key = lines[_at(lines, lambda line: line[2].startswith(names.EXPIRING))][2]
    lines[:] = [line for line in lines if line[2:3] != [key]]


def _lose_last(lines: Lines) -> None:
    """What was never followed by anything else."""
    last = max(i for i, line in enumerate(lines) if line[0] == "s" and line[2] == names.LAST_TOKEN)
    del lines[last]


def _see_twice(lines: Lines) -> None:
    at = _at(lines, lambda line: line[2].startswith(names.LISTS))
    lines.insert(at, list(lines[at]))


def _see_in_two_versions(lines: Lines) -> None:
    at = _at(lines, lambda line: line[2].startswith(names.UNIQUE) and line[3] is not None)
    lines.insert(at + 1, ["s", lines[at][1] + 0.5, *lines[at][2:]])


def _swap(lines: Lines) -> None:
    at = _at(lines, lambda line: line[2] == names.SUM)
    lines[at : at + 2] = lines[at : at + 2][::-1]


def _see_half_a_pair(lines: Lines) -> None:
    """A count that is left out of all commits, of what nobody was told."""
    lines[:] = [line for line in lines if not (line[0] == "s" and line[2] == names.SHARED)]


def _see_no_such_key(lines: Lines) -> None:
    lines.insert(-1, ["s", lines[-1][1] - 0.5, "nobody's", 1])


def _see_other_version(lines: Lines) -> None:
    at = _at(lines, lambda line: line[2].startswith(names.EFFECTS))
    lines[at][1] += 0.5


def _lose_run(lines: Lines) -> None:
    del lines[_at(lines, lambda line: line[3] is not None)]


def _fail(lines: Lines) -> None:
    lines.insert(1, ["x", "Traceback"])


def _lose_event(lines: Lines) -> None:
    del lines[_at(lines, lambda line: line[1] == 3)]


def _event_twice(lines: Lines) -> None:
    lines.insert(4, lines[4])


def _swap_events(lines: Lines) -> None:
    lines[3:5] = lines[3:5][::-1]


def _other_event(lines: Lines) -> None:
    lines[3][3] = ["w9", 9]


@pytest.mark.long
@pytest.mark.parametrize(
    ("sense", "falsify", "kind"),
    [
        (KEYS, lambda lines: None, None),
        (KEYS, _lose_count, LOST),
        (KEYS, _see_twice, DOUBLED),
        (KEYS, _swap, ANOMALY),
        (RUNS, _lose_run, LOST),
        (EVENTS, _lose_event, LOST),
        (CONSUMER, _lose_event, LOST),
        (KEYS, _lose_put, LOST),
        (KEYS, _lose_expiring, LOST),
        (KEYS, _lose_last, LOST),
        (KEYS, _see_in_two_versions, DOUBLED),
        (KEYS, _see_half_a_pair, ANOMALY),
        (KEYS, _see_no_such_key, WRONG),
        (KEYS, _see_other_version, LOST),
        (EVENTS, _event_twice, DOUBLED),
        (EVENTS, _fail, WRONG),
        (EVENTS, _swap_events, ANOMALY),
        (EVENTS, _other_event, WRONG),
    ],
)
def test_audit_of_what_was_seen(
    watched: _Watched, sense: str, falsify: Callable[[Lines], None], kind: str | None
) -> None:
    """Nothing missed, nothing twice, all in order, all as it is."""
    path = seen(watched.directory, 0)[sense]
    lines = read_sightings(path)
    falsify(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = audit.audit(watched.db, 0, watched.directory)
    assert found.sightings > 100
    assert found.gaps == 0
    assert (kind in {breach.kind for breach in found.breaches}) if kind else found.breaches == []


@pytest.mark.long
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_watcher_goes_on_where_another_was_killed(watched: _Watched, share: float) -> None:
    """Wherever a kill cut its files short, within a line or a commit, the next one sees the rest, and nothing twice."""
    db, directory, since = watched
    for path in seen(directory, 0).values():
        if CONSUMER not in path.name:  # its position is in the store
            raw = path.read_bytes()
            path.with_suffix(".sightings").write_bytes(raw[: int(len(raw) * share)])
            path.unlink()
    assert len(seen(directory, 0)) == 1
    Watcher(db, Slots(1), 0, directory, "seed", []).watch_window(0, since)
    assert len(seen(directory, 0)) == len(SENSES)
    assert audit.audit(db, 0, directory).breaches == []


def test_where_a_watch_goes_on(tmp_path: Path) -> None:
    """After the last commit that was seen whole: one that another one followed."""
    lines: Lines = [["r", 5], ["s", 7, "a", 1], ["s", 7, "b", 1]]
    assert since_of([]) is None
    assert since_of(lines) == 5
    assert since_of([*lines, ["s", 8, "a", 2]]) == 7
    assert since_of([*lines, ["s", 8, "a", 2], ["r", 7]]) == 7
    assert since_of([*lines, ["g", 20, {}], ["s", 21, "a", 3]]) == 20
    book = Sightings(tmp_path, 0, KEYS)
    book.write("r", 5)
    path = tmp_path / f"000000-{KEYS}.sightings"
    path.write_bytes(path.read_bytes() + b'["s",7,')
    book = Sightings(tmp_path, 0, KEYS)
    book.write("s", 7, "a", 1)
    book.finish()
    assert book.before == [["r", 5]]
    assert read_sightings(seen(tmp_path, 0)[KEYS]) == [["r", 5], ["s", 7, "a", 1]]


@pytest.mark.parametrize(
    ("lines", "position", "kinds"),
    [
        ([["r", 0], ["s", 0, "", 0], ["c", 0], ["s", 1, "", 1], ["r", 1], ["s", 1, "", 1], ["c", 1]], 2, []),
        (
            [["r", 0], ["s", 0, "", 0], ["c", 0], ["s", 1, "", 1], ["r", 2]],
            2,
            [],
        ),  # committed, and killed before it knew
        ([["r", 0], ["s", 0, "", 0], ["c", 0], ["r", 0], ["s", 0, "", 0], ["s", 1, "", 1], ["c", 1]], 2, [DOUBLED]),
        ([["r", 0], ["s", 0, "", 0], ["r", 2]], 2, [LOST, LOST]),  # it goes on too far, and so one was not seen
        ([["r", 0], ["s", 0, "", 0], ["s", 1, "", 1], ["c", 1]], 1, [LOST]),
    ],
)
def test_audit_of_positions(lines: Lines, position: int, kinds: list[str]) -> None:
    """A consumer goes on from what was committed, at most one event further, and never from before that."""
    log = [[0, "", 0], [1, "", 1]]
    assert [breach.kind for breach in consumer_breaches(lines, log, position)] == kinds

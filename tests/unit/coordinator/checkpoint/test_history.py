"""The moments of versions: exact, bounded, on the disk; and what is kept when time passes or memory is short."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from shoal.coordinator.checkpoint import history as history_module
from shoal.coordinator.checkpoint import moments_file
from shoal.coordinator.checkpoint.history import History
from shoal.coordinator.checkpoint.moments_file import MomentsFile, read_moments
from shoal.shm.files.storage import DiskStorage
from shoal.shm.memory.layout import W_HISTORY_SINCE_US, W_HISTORY_VERSION, W_PUBLISHED
from shoal.shm.operation import EXPIRED, FUTURE
from tests.support.stores.segment_store import Store

STORE_ID = bytes(range(16))
PAIR = struct.Struct("<QQ")


class Clock:
    now_us = 1_000_000
    now_s = 0.0

    def __call__(self) -> int:
        return self.now_us

    def monotonic_s(self) -> float:
        return self.now_s


class Kept:
    """A history over a segment whose published version is set by hand."""

    def __init__(self, history_ms: int, directory: Path | None = None) -> None:
        self.store = Store()
        self.words = self.store.segment.words
        self.clock = Clock()
        self.history = History(history_ms, self.store.segment, self.store.reclaimer, self.clock, self.clock.monotonic_s)
        self.storage = None if directory is None else DiskStorage(directory)
        if self.storage is not None:
            self.history.load(self.storage, STORE_ID)

    def begin(self, version: int = 0) -> None:
        self.words[W_PUBLISHED] = version
        self.history.begin(version, None if self.storage is None else MomentsFile(self.storage, STORE_ID))

    def commit(self, at_us: int) -> int:
        self.clock.now_us = at_us
        self.words[W_PUBLISHED] += 1
        self.history.note(self.words[W_PUBLISHED])
        return int(self.words[W_PUBLISHED])

    def at(self, moment_us: int) -> int:
        return self.history.answer(None, moment_us)[0]


def test_moments_are_exact() -> None:
    """The version at a moment is the newest one noted by then; before the first EXPIRED, after now FUTURE."""
    kept = Kept(60_000)
    kept.begin()
    moments = [1_000_000 + 7 * i * i for i in range(1, 200)]
    versions = [kept.commit(moment) for moment in moments]
    for moment, version in zip(moments, versions, strict=True):
        assert (kept.at(moment), kept.at(moment - 1)) == (version, version - 1)
    assert kept.at(999_999) == EXPIRED
    assert kept.at(moments[-1] + 1) == FUTURE
    assert kept.history.answer(versions[-1] + 1, None) == [FUTURE, versions[-1]]


@pytest.mark.parametrize("asks_first", [True, False])
def test_a_clock_that_is_set_back_keeps_the_order(tmp_path: Path, asks_first: bool) -> None:
    """A moment that is taken after an answer includes the commit, and one that was taken before the first does not."""
    kept = Kept(60_000, tmp_path)
    kept.begin()
    first, second = kept.commit(1_400_000), kept.commit(2_000_000)
    if asks_first:
        kept.clock.now_us, kept.clock.now_s = 1_500_000, 0.03  # 30 ms after the last commit
        assert [kept.at(moment) for moment in (1_469_999, 1_470_000, 1_500_001)] == [first, second, FUTURE]
    third = kept.commit(1_500_000)
    fourth = kept.commit(1_600_000)
    assert [kept.at(moment) for moment in (1_399_999, 1_469_999, 1_500_000, 1_600_000)] == [0, first, third, fourth]
    again = Kept(60_000, tmp_path)
    again.clock.now_us = 1_550_000
    again.begin(fourth)
    assert [again.at(moment) for moment in (1_399_999, 1_469_999, 1_550_000)] == [0, first, fourth]


def test_time_moves_on() -> None:
    """The newest version that is older than the time stays: it is what was there when the time began."""
    kept = Kept(1_000)
    kept.begin()
    for i in range(1, 6):
        kept.commit(1_000_000 + i * 1_000_000)
    kept.clock.now_us = 5_500_000
    kept.history.move_on(0.0)
    assert kept.store.reclaimer.kept_from == kept.words[W_HISTORY_VERSION] == 3
    assert kept.words[W_HISTORY_SINCE_US] == 4_000_000
    assert (kept.at(4_500_000), kept.at(3_999_999)) == (3, EXPIRED)
    assert kept.history.answer(2, None) == [EXPIRED, 3]


def test_what_memory_took_is_not_named_by_a_moment() -> None:
    """A moment of a version that was given up is expired; the next one is found as before."""
    kept = Kept(60_000)
    kept.begin()
    versions = [kept.commit(1_000_000 + i) for i in range(1, 6)]
    kept.store.reclaimer.keep_from(versions[2])
    assert (kept.at(1_000_002), kept.at(1_000_003)) == (EXPIRED, versions[2])


def test_older_moments_take_bounded_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last ones are exact; of older ones each answer is at most the stated distance too old, never too new."""
    monkeypatch.setattr(history_module, "EXACT_MOMENTS", 50)
    monkeypatch.setattr(history_module, "OLDER_MOMENTS", 100)
    kept = Kept(10)
    kept.begin()
    moments = {kept.commit(1_000_000 + 9 * i): 1_000_000 + 9 * i for i in range(1, 1_000)}
    assert len(kept.history._all()) <= 150
    for version, moment in list(moments.items())[-49:]:
        assert kept.at(moment) == version
    found = [(version, kept.at(moment)) for version, moment in moments.items()]
    assert all(version - 100 // 9 - 2 <= other <= version for version, other in found if other != EXPIRED)


def test_the_next_coordinator_has_the_moments(tmp_path: Path) -> None:
    """All of them after SIGKILL; none of a version that recovery did not find; none after a time without history."""
    first = Kept(60_000, tmp_path)
    first.begin()
    for i in range(1, 101):
        first.commit(1_000_000 + i)
    second = Kept(60_000, tmp_path)  # the first was killed
    assert second.store.reclaimer.kept_from == 0
    second.clock.now_us = 1_000_200
    second.begin(90)
    assert (second.at(1_000_050), second.at(1_000_150)) == (50, 90)
    assert len(list(tmp_path.iterdir())) == 1
    without = Kept(0, tmp_path)
    without.begin(90)
    assert list(tmp_path.iterdir()) == []


def test_a_full_file_is_followed_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No moment that is exact is lost when another file is begun, and the full one goes."""
    monkeypatch.setattr(moments_file, "_PAIRS", 64)
    monkeypatch.setattr(history_module, "EXACT_MOMENTS", 16)
    monkeypatch.setattr(history_module, "OLDER_MOMENTS", 16)
    kept = Kept(60_000, tmp_path)
    kept.begin()
    for i in range(1, 500):
        kept.commit(1_000_000 + i)
        found = read_moments(DiskStorage(tmp_path), STORE_ID)
        assert found[-16:] == kept.history._all()[-16:]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_with_a_hole_tells_nothing_before_it(tmp_path: Path) -> None:
    """Pages that a power cut took; what cannot be; the file of another store; a file that was being begun."""
    storage = DiskStorage(tmp_path)
    file = MomentsFile(storage, STORE_ID)
    file.begin([(1_000_000 + i, i) for i in range(100)])
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    assert len(read_moments(storage, STORE_ID)) == 100
    assert read_moments(storage, bytes(16)) == []
    for broken in (PAIR.pack(0, 0), PAIR.pack(5, 1_000_000), PAIR.pack(2**60, 3)):
        path.write_bytes(whole[: 32 + 16 * 40] + broken + whole[32 + 16 * 41 :])
        found = read_moments(storage, STORE_ID)
        assert found
        assert found[-1] == (1_000_099, 99)
        assert (1_000_039, 39) not in found
    path.write_bytes(bytes(32) + whole[32:])
    assert read_moments(storage, STORE_ID) == []
    path.write_bytes(b"shoal")
    assert read_moments(storage, STORE_ID) == []

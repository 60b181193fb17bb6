"""Recovery in moments that need a certain past: what it stands on is on the disk, and a late helper is no trouble."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from shoal.coordinator.log import format as wal_format
from shoal.shm.limits import Limits
from tests.mutants.catching import rig as rigs
from tests.mutants.catching.rig import Disk, Rig, request

FILE_BYTES = 1024
SMALL = Limits(log_file_bytes=FILE_BYTES)


@pytest.fixture(autouse=True)
def _clean_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(wal_format, "boot_id", wal_format.boot_id)
    yield
    for segment in rigs.opened:
        segment.close_descriptor()
    rigs.opened.clear()


def _killed(disk: Disk) -> Disk:
    """What the next process finds in the same boot: all that was written, and only what was synced is on the disk."""
    after = Disk(disk.frozen())
    after.durable = dict(disk.durable)
    return after


@pytest.mark.parametrize("first_bytes", [10, FILE_BYTES * 2])
@pytest.mark.parametrize("survival", [0.0, 0.5])
def test_power_cut_after_a_kill(first_bytes: int, survival: float) -> None:
    """Killed before any sync, recovered, at work again, and then the power goes: all of both lives is there.

    If the first record is longer than a log file, the one that was ready for it stays behind with nothing but a head.
    """
    before = Rig(Disk(), bounds=SMALL)
    before.put(1, before="w")
    first = Rig(_killed(before.disk), bounds=SMALL)
    first.engine.submit(1, request(1, [b"long", b"x" * first_bytes, 0]))
    first.engine.submit(1, request(2, [b"short", b"y", 0]))
    empty = [
        name for name, data in first.disk.files.items() if len(bytes(data).rstrip(b"\0")) == wal_format.FILE_HEAD_BYTES
    ]
    assert bool(empty) == (first_bytes > FILE_BYTES)
    second = Rig(_killed(first.disk), bounds=SMALL)
    assert second.state() == {"before": "w", "long": "x" * first_bytes, "short": "y"}
    second.put(2, later="z")
    third = Rig(second.disk.after_power_cut(random.Random(1), survival), boot=2, bounds=SMALL)
    assert third.state() == {"before": "w", "long": "x" * first_bytes, "short": "y", "later": "z"}


class _HelperIsDone(Disk):
    """A dead coordinator's helper gives its checkpoint the final name just before the unfinished one is removed."""

    def remove(self, name: str) -> None:
        if name.endswith(".new"):
            del self.files[name]
            raise FileNotFoundError(name)
        super().remove(name)


def test_helper_of_a_dead_coordinator_finishes_meanwhile() -> None:
    """The unfinished checkpoint that was to be removed is not there any more: recovery goes on."""
    before = Rig(Disk(), bounds=SMALL)
    before.put(1, key="value")
    disk = _HelperIsDone({**before.disk.frozen(), "checkpoint-00000000000000000001.ckpt.7.new": b"half"})
    assert Rig(disk, bounds=SMALL).state() == {"key": "value"}
    assert not [name for name in disk.files if name.endswith(".new")]

"""A commit that counts on a key which has expired is a conflict, also where no deletion of that key tells so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.coordinator.log import format as wal_format
from shoal.shm.errors import StoreFullError
from shoal.shm.files import checkpoint
from shoal.shm.wire.answer import COMMITTED, CONFLICT
from tests.mutants.catching import rig as rigs
from tests.mutants.catching.rig import Disk, Rig, request

CLIENT = 7


@pytest.fixture(autouse=True)
def _clean_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(wal_format, "boot_id", wal_format.boot_id)
    yield
    for segment in rigs.opened:
        segment.close_descriptor()
    rigs.opened.clear()


def _counting(rig: Rig, moment: int, **reads: Any) -> list[Any]:
    """The answer to a commit that has seen ``short`` and is made when that has expired."""
    rig.now_ms = moment + 1
    commit = request(2, [b"seen", b"1", 0], snapshot=rig.published, valid_until_ms=moment, **reads)
    return list(rig.submit((CLIENT, commit))[0])


READS = [{"keys": [b"other", b"short"]}, {"ranges": [(b"s", b"t")]}]


@pytest.mark.parametrize("reads", READS)
def test_expired_between_snapshot_and_checkpoint(tmp_path: Path, reads: dict[str, Any]) -> None:
    """A checkpoint leaves out what has expired; who had read it before the coordinator died does not commit."""
    rig = Rig(Disk())
    moment = rig.now_ms + 500
    rig.submit((CLIENT, request(1, [b"short", b"1", moment, b"other", b"1", 0])))
    checkpoint.write_checkpoint(tmp_path, rig.reader, rig.published, [])  # by today's clock, long after ``moment``
    (path,) = tmp_path.glob("*.ckpt")
    after = Rig(Disk({path.name: path.read_bytes()}))
    assert after.state() == {"other": "1"}
    commit_id, status, _, details = _counting(after, moment, **reads)
    assert (commit_id, status) == (2, CONFLICT)
    key, read_version, found_version = details
    assert key == (b"short" if "keys" in reads else b"s")
    assert found_version > read_version == 1
    assert after.state() == {"other": "1"}


@pytest.mark.plain  # it replaces a method of the engine
@pytest.mark.parametrize("reads", READS)
def test_no_room_for_the_deletion(monkeypatch: pytest.MonkeyPatch, reads: dict[str, Any]) -> None:
    """The same if what has expired cannot be deleted at present."""
    rig = Rig(Disk())
    moment = rig.now_ms + 500
    rig.submit((CLIENT, request(1, [b"short", b"1", moment, b"other", b"1", 0])))

    def no_room(*_arguments: Any) -> Any:
        raise StoreFullError("no room")

    monkeypatch.setattr(rig.engine, "_commit_own", no_room)
    _, status, _, details = _counting(rig, moment, **reads)
    assert status == CONFLICT
    assert details[0] == (b"short" if "keys" in reads else b"s")


def test_not_expired_yet() -> None:
    """Until its moment what was read counts."""
    rig = Rig(Disk())
    moment = rig.now_ms + 500
    rig.submit((CLIENT, request(1, [b"short", b"1", moment])))
    commit = request(2, [b"seen", b"1", 0], snapshot=rig.published, valid_until_ms=moment, keys=[b"short"])
    rig.now_ms = moment - 1
    assert rig.submit((CLIENT, commit))[0][1] == COMMITTED

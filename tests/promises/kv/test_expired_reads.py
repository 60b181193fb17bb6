"""A commit that counts on a key which has expired is a conflict, also where no deletion of that key tells so.

And such a key goes by a commit: no checkpoint of a coordinator leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.coordinator.checkpoint import helper
from shoal.coordinator.log import format as wal_format
from shoal.shm import codec
from shoal.shm.errors import StoreFullError
from shoal.shm.files import checkpoint
from shoal.shm.files.storage import DiskStorage
from shoal.shm.files.store_files import STORE_ID_BYTES
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
    """A backup leaves out what has expired; who had read it before the coordinator died does not commit."""
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


@pytest.mark.parametrize("reads", READS)
def test_swept_after_it_was_found_expired(reads: dict[str, Any]) -> None:
    """The deletion of a key changes nothing for who has found it expired; a write before the deletion does."""
    rig = Rig(Disk())
    moment = rig.now_ms + 500
    rig.submit((CLIENT, request(1, [b"short", b"1", moment, b"other", b"1", 0])))
    rig.now_ms, found_expired = moment + 1, rig.published
    rig.engine.sweep_expired()
    assert rig.submit((CLIENT, request(2, [b"told", b"1", 0], snapshot=found_expired, **reads)))[0][1] == COMMITTED
    rig.submit((CLIENT, request(3, [b"short", b"2", moment + 2])))
    written, rig.now_ms = rig.published, moment + 3
    rig.engine.sweep_expired()
    _, status, _, details = rig.submit((CLIENT, request(4, [b"told", b"2", 0], snapshot=found_expired, **reads)))[0]
    assert (status, details) == (CONFLICT, [b"short", found_expired, written])
    commit = request(5, [b"told", b"3", 0], snapshot=written, valid_until_ms=moment + 2, **reads)
    assert rig.submit((CLIENT, commit))[0][1] == CONFLICT  # it has read it before it expired


def test_not_expired_yet() -> None:
    """Until its moment what was read counts."""
    rig = Rig(Disk())
    moment = rig.now_ms + 500
    rig.submit((CLIENT, request(1, [b"short", b"1", moment])))
    commit = request(2, [b"seen", b"1", 0], snapshot=rig.published, valid_until_ms=moment, keys=[b"short"])
    rig.now_ms = moment - 1
    assert rig.submit((CLIENT, commit))[0][1] == COMMITTED


def test_what_has_expired_is_in_a_checkpoint_until_a_commit_deletes_it(tmp_path: Path) -> None:
    """Else it would go without a commit if the coordinator died now, and no watch would be told that it has gone."""
    rig = Rig(Disk())
    rig.submit((CLIENT, request(1, [b"other", b"1", 0, b"short", b"2", rig.now_ms + 1])))  # expired by today's clock
    segment, sessions = rig.writer.segment, codec.encode([])
    assert helper.write(tmp_path, bytes(STORE_ID_BYTES), segment, rig.published, "checkpoint-1.new", sessions) is None
    (path,) = tmp_path.glob("*.ckpt")
    blocks = checkpoint.CheckpointReader(DiskStorage(tmp_path), path.name).entries()
    assert [key for block in blocks for key in block.keys] == [b"other", b"short"]

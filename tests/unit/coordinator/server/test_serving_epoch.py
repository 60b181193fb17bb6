"""The epoch file of a store that is served: made again when somebody removed it, as soon as that can be."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.server.serving_epoch import ServingEpoch
from shoal.shm.errors import StoreFullError
from shoal.shm.files.epoch_file import EPOCH_FILE, EpochWord
from shoal.shm.files.store_place import identity
from shoal.shm.limits import MIB
from shoal.shm.memory.segment import Segment


@pytest.mark.parametrize("error", [StoreFullError("full"), OSError("no descriptor")], ids=["full", "no descriptor"])
def test_it_is_made_again_when_there_is_room(tmp_path: Path, error: Exception) -> None:
    """Without room the coordinator serves on and tries again; then the generation is a higher one."""
    errors: list[Exception] = []

    def epoch_word(directory: Path) -> EpochWord:
        if errors:
            raise errors.pop()
        return EpochWord(directory, writable=True)

    host: Any = SimpleNamespace(epoch_word=epoch_word, identity=identity)
    epoch = ServingEpoch(tmp_path, Writer(Segment.create(8 * MIB, 1)), host)
    epoch.prepare()
    epoch.publish()
    first = EpochWord(tmp_path, writable=False)
    (tmp_path / EPOCH_FILE).unlink()
    errors.append(error)
    for now_s in (0.0, 100.0):
        epoch.keep(now_s)
    assert not any(tmp_path.iterdir())
    epoch.keep(200.0)
    second = EpochWord(tmp_path, writable=False)
    assert first.generation == second.generation == 2
    for word in (first, second):
        word.close()

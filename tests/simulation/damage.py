"""A bit that flips in a store at rest: whatever was acknowledged is behind it, so recovery must refuse, and say so."""

from __future__ import annotations

import random

from shoal.coordinator.log import format as wal_format
from shoal.coordinator.log.format import FILE_HEAD_BYTES, file_number
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.recovery.recover import recover
from shoal.shm import limits
from shoal.shm.errors import CorruptionError
from shoal.shm.files import checkpoint
from shoal.shm.memory.segment import Segment
from tests.simulation.truth import Problem
from tests.simulation.world.disk import Disk, SimulatedStorage


def flip_a_bit(disk: Disk, rng: random.Random) -> list[Problem]:
    """Damage a record that no checkpoint has, and recover: a problem if that goes well."""
    versions = [version for name in disk.names if (version := checkpoint.version_of(name)) is not None]
    places = list(_records(disk, max(versions, default=0)))
    if not places:
        return []
    name, offset, size = rng.choice(places)
    disk.names[name].content[offset + rng.randrange(size)] ^= 1 << rng.randrange(8)
    segment = Segment.create(limits.MIN_STORE_BYTES, 1)
    try:
        writer = Writer(segment)
        found = recover(SimulatedStorage(disk), writer, Reclaimer(writer, list))
    except CorruptionError:
        return []
    finally:
        segment.close_descriptor()
    return [("damage", f"{name} has a flipped bit in the record at {offset}; recovery found {found.version}, no error")]


def _records(disk: Disk, after_version: int) -> list[tuple[str, int, int]]:
    places = []
    for name, inode in disk.names.items():
        data, offset = bytes(inode.content), FILE_HEAD_BYTES
        if file_number(name) is None:
            continue
        while (found := wal_format.decode_record(data, offset)) is not None:
            record, following = found
            if record.version > after_version and not record.is_close_mark:
                places.append((name, offset, wal_format.RECORD_HEAD_BYTES + len(record.mutations)))
            offset = following
    return places

"""From files to a segment: the newest checkpoint, then the log after it.

Reads only, but for two things: an unfinished tail is cut and files that hold nothing any more are removed. Killed at
any point, the next run sees the same committed prefix. Nothing is served before all of it is verified.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from shoal.coordinator.commit_engine import COORDINATOR
from shoal.coordinator.conflict_window import ConflictWindow
from shoal.coordinator.log.wal_format import Record
from shoal.coordinator.log.wal_reader import WalReader
from shoal.shm import checkpoint, codec, commit_set, limits
from shoal.shm.errors import CorruptionError
from shoal.shm.reclaim import Reclaimer
from shoal.shm.storage import Storage
from shoal.shm.writer import Writer

# Replay publishes and reclaims now and then, so that a long log does not need room for all its history.
_RECORDS_PER_GROUP = 1_000


class Recovered(NamedTuple):
    """What a coordinator starts from."""

    version: int
    checkpoint_version: int
    log_bytes: int
    next_log_number: int
    log_files: dict[int, int]  # number -> first version
    window: ConflictWindow
    remembered: dict[int, tuple[int, int, list[Any]]]


def recover(storage: Storage, writer: Writer, reclaimer: Reclaimer) -> Recovered:
    """Fill an empty segment with everything committed; CorruptionError if that cannot be had whole."""
    version, remembered = _load_checkpoint(storage, writer, reclaimer)
    checkpoint_version = version
    window = ConflictWindow(version)
    log = WalReader(storage, version)
    log_bytes = 0
    records = log.records()
    while group := list(itertools.islice(records, _RECORDS_PER_GROUP)):
        for record in group:
            _replay(record, writer, window, remembered)
            log_bytes += len(record.effects)
        version = group[-1].version
        _publish(writer, reclaimer, version)
        window.forget(0, limits.WINDOW_LEAST_KEYS, limits.WINDOW_MOST_KEYS)
    for name in log.unsynced():
        storage.sync_file(name)
    return Recovered(version, checkpoint_version, log_bytes, log.next_number, log.first_versions, window, remembered)


def _load_checkpoint(
    storage: Storage, writer: Writer, reclaimer: Reclaimer
) -> tuple[int, dict[int, tuple[int, int, list[Any]]]]:
    names = storage.list()
    versions = sorted(v for v in map(checkpoint.version_of, names) if v is not None)
    for name in names:
        if name.endswith(".new"):
            storage.remove(name)
    if not versions:
        return 0, {}
    name = checkpoint.file_name(versions[-1])
    reader = checkpoint.CheckpointReader(name, storage.read(name))
    for entries in reader.entries():
        for entry in entries:
            write = [entry.key, entry.value, entry.expires_ms]
            writer.apply(entry.version, [], write, writer.plan(write))
        _publish(writer, reclaimer, versions[-1])
    _publish(writer, reclaimer, versions[-1])
    for version in versions[:-1]:
        storage.remove(checkpoint.file_name(version))
    remembered = {client: (commit, version, results) for client, commit, version, results in reader.remembered}
    return versions[-1], remembered


def _replay(
    record: Record,
    writer: Writer,
    window: ConflictWindow,
    remembered: dict[int, tuple[int, int, list[Any]]],
) -> None:
    try:
        writes, clears, _, _ = commit_set.decode_effects(record.effects)
        results: list[Any] = []
        joint: list[list[Any]] = []
        if record.decided:
            decided, results, *joint = codec.decode(record.decided)
            writes = writes + decided
    except (ValueError, TypeError) as error:
        raise CorruptionError("the log", record.version, "a commit set", str(error)) from error
    writer.apply(record.version, clears, writes, writer.plan(writes, clears))
    for lower, upper in clears:
        window.add_clear(record.version, lower, upper)
    window.add_writes(record.version, writes[::3])
    if record.client_id != COORDINATOR:
        remembered[record.client_id] = (record.commit_id, record.version, results)
    for outcomes in joint:
        remembered.update({client: (commit, record.version, each) for client, commit, each in outcomes})


def _publish(writer: Writer, reclaimer: Reclaimer, version: int) -> None:
    writer.end_group(version)
    writer.publish(version)
    while reclaimer.step(0.0):
        pass

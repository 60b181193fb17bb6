"""Fills a segment from the store's files: the newest checkpoint, then the log after it.

Invariants:
- Nothing is served before recovery has ended. The segment holds every commit in the files, or there is an error.
- It changes files only after all of them are verified: it cuts an unfinished tail and removes files that hold nothing
  any more; before that it has ``store.json`` name a log file that stays. After SIGKILL at any point the next recovery
  finds the same commits.

If past versions are kept (``Reclaimer.kept_from``), it begins with an older checkpoint, if there is one, and does every
commit after that version one by one, so that each version can be read again.

The checkpoint is read a block at a time and the log a file at a time, so recovery needs little memory beside the
segment.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from shoal.coordinator.commit.apply import ClientSessions
from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.coordinator.log.reader import WalReader, has_commits
from shoal.coordinator.memory.loading import KeyLoader
from shoal.coordinator.memory.reclaim import KEEPS_NOTHING, Reclaimer
from shoal.coordinator.memory.reserve import plan_with_gaps, reserve_in_use
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.recovery.replay import publish, replayed
from shoal.shm.errors import CorruptionError, StoreFullError
from shoal.shm.files import checkpoint, store_files
from shoal.shm.files.storage import Storage
from shoal.shm.files.store_files import StoreMeta
from shoal.shm.limits import DEFAULT_LIMITS, Limits


class Recovered(NamedTuple):
    """What a coordinator starts from."""

    version: int
    checkpoint_version: int
    log_bytes: int
    next_log_number: int
    log_files: dict[int, int]  # by number of a file: the first version in it
    store_id: bytes | None  # None if no file names the store: it is new, or of format 1
    window: ConflictWindow
    sessions: ClientSessions


def recover(
    storage: Storage,
    writer: Writer,
    reclaimer: Reclaimer,
    meta: StoreMeta | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Recovered:
    """Fill an empty segment with everything committed; CorruptionError if the files do not have all of it.

    ``meta`` is what ``store.json`` says: which store it is (else it is the one that its first file with an id names),
    and which files must be there.
    """
    store_id, log_number, least_version = (None, 0, 0) if meta is None else meta[2:5]
    sessions = ClientSessions(limits)
    checkpoint_version = max(_checkpoints(storage), default=0)
    if checkpoint_version < least_version:
        raise missing_checkpoint(least_version)
    begin_version = _begin_version(storage, reclaimer.kept_from)
    if reclaimer.kept_from != KEEPS_NOTHING:
        reclaimer.keep_from(max(reclaimer.kept_from, begin_version))
    with reserve_in_use(writer):
        version = begin_version
        store_id = _load_checkpoint(storage, version, writer, reclaimer, sessions, store_id)
        window = ConflictWindow(version)
        log = WalReader(storage, version, store_id, log_number)
        log_bytes = 0
        for commit in replayed(log.records(), writer, reclaimer, window, sessions, limits):
            version = commit.version
            if version > checkpoint_version:
                log_bytes += commit.body_bytes
    for name, from_byte in log.unsynced():
        storage.write_again(name, from_byte)
    for name in storage.list():
        older = checkpoint.version_of(name)
        if name.endswith(".new") or (older is not None and older < begin_version):
            with contextlib.suppress(FileNotFoundError):  # the helper of the coordinator that died has just renamed it
                storage.remove(name)
    next_number, files = log.next_number, log.first_versions
    return Recovered(version, checkpoint_version, log_bytes, next_number, files, log.store_id, window, sessions)


def _checkpoints(storage: Storage) -> list[int]:
    return [version for version in map(checkpoint.version_of, storage.list()) if version is not None]


def _begin_version(storage: Storage, kept_from: int) -> int:
    """The checkpoint to begin with, 0 for none: the newest one from which every version from ``kept_from`` on follows.

    If the log up to the newest checkpoint is not whole (a power cut took the end of it, while the checkpoint was on the
    disk), it begins with the newest one, and what is older is not kept.
    """
    versions = _checkpoints(storage)
    newest = max(versions, default=0)
    if newest <= kept_from:
        return newest
    for version in sorted([0, *versions], key=lambda version: (version > kept_from, abs(version - kept_from))):
        if version == newest or has_commits(storage, version, newest):
            return version
    return newest


def _load_checkpoint(
    storage: Storage,
    version: int,
    writer: Writer,
    reclaimer: Reclaimer,
    sessions: ClientSessions,
    store_id: bytes | None,
) -> bytes | None:
    """Load the checkpoint at ``version``, none if that is 0; the id of the store."""
    if not version:
        return store_id
    reader = checkpoint.CheckpointReader(storage, checkpoint.file_name(version), store_id)
    load_keys(reader.entries(), version, writer, reclaimer)
    sessions.update({client: (commit, at, results) for client, commit, at, results in reader.sessions})
    return store_id or reader.store_id


def missing_checkpoint(version: int) -> CorruptionError:
    """The error for a store without the checkpoint that it was made with, and without a newer one."""
    expected = f"the checkpoint that the store was made with, as {store_files.META_FILE} says"
    return CorruptionError(checkpoint.file_name(version), 0, expected, "no file")


def load_keys(blocks: Iterator[checkpoint.KeyBlock], version: int, writer: Writer, reclaimer: Reclaimer) -> None:
    """Fill an empty segment with the keys of the checkpoint at ``version``, each at the version that wrote it."""
    loader: KeyLoader | None = KeyLoader(writer)
    for block in blocks:
        if loader is not None:
            try:
                loader.add(block.keys, block.values, block.expires_ms, block.versions)
            except StoreFullError:  # so many keys at once are planned with more room than they take in the end
                loader.finish()
                loader = None
        if loader is None:
            apply_entries(block, writer)
        publish(writer, reclaimer, version)
    if loader is not None:
        loader.finish()
    publish(writer, reclaimer, version)


def apply_entries(entries: Iterable[checkpoint.Entry], writer: Writer) -> None:
    """Write keys of a checkpoint, each at its version."""
    for entry in entries:
        write = [entry.key, entry.value, entry.expires_ms]
        try:
            plan = writer.plan(write)
        except StoreFullError:
            writer.end_group(entry.version)  # what it replaces is free with the next version that is published
            plan = plan_with_gaps(writer, write, ())
        writer.apply(entry.version, [], write, plan)

"""From files to a segment: the newest checkpoint, then the log after it.

The checkpoint is read a block at a time and the log a file at a time: beside the segment, recovery needs little memory.

It reads only, but for two things: an unfinished tail is cut and files that hold nothing any more are removed, both when
all of it is verified; before that ``store.json`` is made to name a log file that stays. Killed at any point, the next
run sees the same committed prefix. Nothing is served before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.coordinator.commit.engine import COORDINATOR
from shoal.coordinator.log.reader import Commit, WalReader
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.shm import limits
from shoal.shm.errors import CorruptionError, StoreFullError
from shoal.shm.files import checkpoint, store_files
from shoal.shm.files.storage import Storage
from shoal.shm.files.store_files import StoreMeta

# Replay publishes and reclaims now and then, so that a long log does not need room for all its history: after so many
# records, or when what they made obsolete takes so many words.
_RECORDS_PER_GROUP = 1_000
_GARBAGE_WORDS_PER_GROUP = 8 * limits.MIB // 8


class Recovered(NamedTuple):
    """What a coordinator starts from."""

    version: int
    checkpoint_version: int
    log_bytes: int
    next_log_number: int
    log_files: dict[int, int]  # number -> first version
    store_id: bytes | None  # None if nothing says which store it is: it is new, or of format 1
    window: ConflictWindow
    remembered: dict[int, tuple[int, int, list[Any]]]


def recover(storage: Storage, writer: Writer, reclaimer: Reclaimer, meta: StoreMeta | None = None) -> Recovered:
    """Fill an empty segment with everything committed; CorruptionError if that cannot be had whole.

    ``meta`` is what ``store.json`` says: which store it is (else that is the one which its first file with an id
    names), and which files must be there.
    """
    store_id, log_number, least_version = (None, 0, 0) if meta is None else meta[2:]
    version, remembered, store_id = _load_checkpoint(storage, writer, reclaimer, store_id)
    checkpoint_version = version
    if version < least_version:
        raise missing_checkpoint(least_version)
    window = ConflictWindow(version)
    log = WalReader(storage, version, store_id, log_number)
    log_bytes = 0
    for commit in replayed(log.records(), writer, reclaimer, window, remembered):
        log_bytes += commit.body_bytes
        version = commit.version
    for name, from_byte in log.unsynced():
        storage.write_again(name, from_byte)
    for name in storage.list():
        older = checkpoint.version_of(name)
        if name.endswith(".new") or (older is not None and older < checkpoint_version):
            with contextlib.suppress(FileNotFoundError):  # the last coordinator's helper has just given it its name
                storage.remove(name)
    next_number, files = log.next_number, log.first_versions
    return Recovered(version, checkpoint_version, log_bytes, next_number, files, log.store_id, window, remembered)


def _load_checkpoint(
    storage: Storage, writer: Writer, reclaimer: Reclaimer, store_id: bytes | None
) -> tuple[int, dict[int, tuple[int, int, list[Any]]], bytes | None]:
    newest = max((v for v in map(checkpoint.version_of, storage.list()) if v is not None), default=None)
    if newest is None:
        return 0, {}, store_id
    name = checkpoint.file_name(newest)
    reader = checkpoint.CheckpointReader(storage, name, store_id)
    for entries in reader.entries():
        apply_entries(entries, writer)
        publish(writer, reclaimer, newest)
    publish(writer, reclaimer, newest)
    remembered = {client: (commit, version, results) for client, commit, version, results in reader.remembered}
    return newest, remembered, store_id or reader.store_id


def missing_checkpoint(version: int) -> CorruptionError:
    """The error for a store without the checkpoint that it was made with, and without a newer one."""
    expected = f"the checkpoint that the store was made with, as {store_files.META_FILE} says"
    return CorruptionError(checkpoint.file_name(version), 0, expected, "no file")


def apply_entries(entries: Iterable[checkpoint.Entry], writer: Writer) -> None:
    """Write keys of a checkpoint, each at its version."""
    for entry in entries:
        write = [entry.key, entry.value, entry.expires_ms]
        writer.apply(entry.version, [], write, writer.plan(write))


def replayed(
    commits: Iterator[Commit],
    writer: Writer,
    reclaimer: Reclaimer,
    window: ConflictWindow,
    remembered: dict[int, tuple[int, int, list[Any]]],
) -> Iterator[Commit]:
    """Do commits again, in the order of their versions, each when it is asked for; visible are all after the last."""
    commit = None
    for i, commit in enumerate(commits, 1):
        _replay(commit, writer, reclaimer, window, remembered)
        if i % _RECORDS_PER_GROUP == 0 or writer.garbage_words >= _GARBAGE_WORDS_PER_GROUP:
            _end_group(writer, reclaimer, window, commit.version)
        yield commit
    if commit is not None:
        _end_group(writer, reclaimer, window, commit.version)


def _end_group(writer: Writer, reclaimer: Reclaimer, window: ConflictWindow, version: int) -> None:
    publish(writer, reclaimer, version)
    window.forget(0, limits.WINDOW_LEAST_KEYS, limits.WINDOW_MOST_KEYS)


def _replay(
    commit: Commit,
    writer: Writer,
    reclaimer: Reclaimer,
    window: ConflictWindow,
    remembered: dict[int, tuple[int, int, list[Any]]],
) -> None:
    version = commit.version
    try:
        plan = writer.plan(commit.writes, commit.clears)
    except StoreFullError:
        # There was room when it was committed: what had become obsolete by then had been given back. What is only now
        # taken out of the indexes counts as obsolete from this version on, and may go as well: nobody reads yet.
        publish(writer, reclaimer, version - 1)
        publish(writer, reclaimer, version)
        plan = writer.plan(commit.writes, commit.clears)
    writer.apply(version, commit.clears, commit.writes, plan)
    for lower, upper in commit.clears:
        window.add_clear(version, lower, upper)
    window.add_writes(version, commit.writes[::3])
    if commit.client_id != COORDINATOR:
        remembered[commit.client_id] = (commit.commit_id, version, commit.results)
    remembered.update({client: (commit_id, version, each) for client, commit_id, each in commit.joint})


def publish(writer: Writer, reclaimer: Reclaimer, version: int) -> None:
    """Make everything applied up to ``version`` visible, and free what it made obsolete."""
    writer.end_group(version)
    writer.publish(version)
    while reclaimer.step(0.0):
        pass

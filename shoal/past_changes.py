"""What commits changed, from the files of a store, for a watch that its coordinator cannot tell any more.

It reads the log as it is, while a coordinator may append to it, and changes nothing. Every commit up to a published
version is whole in it. A checkpoint removes log files: then what was in them is not kept any more, and that is
``SnapshotExpiredError``, never a gap.

The log says which ranges a commit cleared, but not which keys were there. These are found once, if there is such a
commit: the keys of the checkpoint, and what the log did to them since.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shoal.coordinator.log.format import LoggedCommit
from shoal.coordinator.log.reader import needed, read_commit, read_files
from shoal.shm.errors import changes_not_kept
from shoal.shm.files import checkpoint
from shoal.shm.files.storage import DiskStorage
from shoal.shm.wire.request import triples
from shoal.workers.presence.watching import Change, Position


def past_changes(directory: Path, lower: bytes, upper: bytes, position: Position, through: int) -> Iterator[Change]:
    """Changes in ``[lower, upper)`` after a position up to version ``through``, which is published: see ``watching``.

    Raises ``SnapshotExpiredError`` if the files do not reach back so far, and ``CorruptionError`` for damage.
    """
    since, after = position
    present: set[bytes] | None = None  # the keys that are there, once that matters
    for commit in _commits(directory, since, through, since):
        version = commit.version
        clears = [(low, high) for low, high in commit.clears if low < upper and lower < high]
        if clears and present is None:
            present = _present_at(directory, lower, upper, version - 1, since)
        changed: dict[bytes, bytes | None] = {}
        if present is not None:
            changed = {key: None for key in present if any(low <= key < high for low, high in clears)}
        changed.update((key, value) for key, value, _ in triples(commit.writes) if lower <= key < upper)
        if present is not None:
            _apply(present, changed)
        for key in sorted(changed):
            if version > since + 1 or key > after:
                yield version, key, changed[key]


def _present_at(directory: Path, lower: bytes, upper: bytes, version: int, since: int) -> set[bytes]:
    """The keys of ``[lower, upper)`` that were there after the commit ``version``."""
    storage = DiskStorage(directory)
    found = [each for each in map(checkpoint.version_of, storage.list()) if each is not None]
    base = max((each for each in found if each <= version), default=0)
    if found and not base:
        raise changes_not_kept(since, min(found))
    present: set[bytes] = set()
    if base:
        try:
            for block in checkpoint.CheckpointReader(storage, checkpoint.file_name(base)).entries():
                present.update(key for key in block.keys if lower <= key < upper)
        except FileNotFoundError:
            raise changes_not_kept(since, version) from None
    for commit in _commits(directory, base, version, since):
        for low, high in commit.clears:
            present -= {key for key in present if low <= key < high}
        _apply(present, {key: value for key, value, _ in triples(commit.writes) if lower <= key < upper})
    return present


def _apply(present: set[bytes], changed: dict[bytes, bytes | None]) -> None:
    for key, value in changed.items():
        if value is None:
            present.discard(key)
        else:
            present.add(key)


def _commits(directory: Path, after_version: int, through: int, since: int) -> Iterator[LoggedCommit]:
    """The commits after a version up to ``through``, all of them; else ``SnapshotExpiredError`` of ``since``."""
    version = after_version
    try:
        files = read_files(DiskStorage(directory))
        for file in needed(files, after_version):
            for placed in file.records():
                if placed.record.is_close_mark:
                    continue
                found = placed.record.version
                if found > version + 1 or version >= through:
                    break
                if found > version:
                    version = found
                    yield read_commit(*placed)
    except FileNotFoundError:
        pass  # removed by a checkpoint
    if version < through:
        raise changes_not_kept(since, through)

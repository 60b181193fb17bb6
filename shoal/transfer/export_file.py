"""``shoal export``: writes everything in a store, at one snapshot, as lines of JSON (format: ``records``)."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from xxhash import xxh3_128

from shoal.database import Database
from shoal.shm.files.storage import DiskStorage
from shoal.transfer import json_lines, records

_BUFFER_BYTES = 1 << 20


class Output(Protocol):
    """What an export is written to."""

    def write(self, data: bytes, /) -> object:
        """Take all of ``data``."""
        ...


def export_store(db: Database, output: Output) -> int:
    """Write all runs of all namespaces, registered or not, as they are at one snapshot; return the number of records.

    Keys that have expired are left out. Writers go on meanwhile. ``SnapshotExpiredError`` if it takes so long that the
    snapshot is revoked to make room; ``CorruptionError`` for an event log that does not verify.
    """
    checksum = xxh3_128()
    count = 0
    line = json_lines.dump(records.HEADER)
    checksum.update(line)
    output.write(line)
    snapshot = db._store.begin(read_only=True)
    try:
        for record in records.read_all(snapshot):
            line = json_lines.dump(records.to_fields(record))
            checksum.update(line)
            output.write(line)
            count += 1
    finally:
        snapshot.abandon()
    output.write(json_lines.dump({"kind": records.END, "records": count, "xxh3": checksum.hexdigest()}))
    return count


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file whole: at the end of the block it is at ``path``, durable, mode 0600; after an exception it is not.

    What is no regular file (a pipe, ``/dev/stdout``) is written directly.
    """
    try:
        with _written_whole(path) as out:
            yield out
    except OSError as error:
        if error.errno is not None:  # it may name a file beside it, or only a descriptor
            error.filename = str(path)
        raise


@contextlib.contextmanager
def _written_whole(path: Path) -> Iterator[BinaryIO]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.stat()  # says what is wrong with a link that leads in a circle, which is no OSError below
    if path.exists() and not path.is_file() and not path.is_dir():
        with path.open("wb", buffering=_BUFFER_BYTES) as out:
            yield out
        return
    final = path.resolve()  # the target of a link is replaced, not the link
    if final.is_dir():
        raise IsADirectoryError(f"{path} is a directory; give the name of a file")
    if not final.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {final.parent}; make it, or give another file")
    fd, name = tempfile.mkstemp(dir=final.parent, prefix=".shoal-export-")
    temporary = Path(name)
    try:
        os.fchmod(fd, 0o600)  # whatever the umask
        with os.fdopen(fd, "wb", buffering=_BUFFER_BYTES) as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    DiskStorage(final.parent).sync_directory()

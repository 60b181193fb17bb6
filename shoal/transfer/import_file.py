"""``shoal import``: writes an export into a store, in commits of bounded size.

- First the whole file is checked, and that the store holds nothing of any run in it. Then the records are committed in
  order, as many at a time as fit a bound. Other processes see a part of a run while it is imported.
- An import of more than one commit may be cut short: SIGKILL, or a full store. So every commit but the last also writes
  a key that belongs to no namespace, ``IMPORT_MARKER``, and the last one deletes it:

      value    msgpack [checksum of the file, number of records written, number of records in all]

- Importing the same file again goes on behind what was written. Another file is refused until then, unless the import
  that was cut short is given up; what it wrote stays.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from shoal.database import Database
from shoal.primitives.engine import Engine
from shoal.primitives.keys import Namespace, user_text
from shoal.primitives.retry import retry_for
from shoal.primitives.run_contents import holds_anything
from shoal.primitives.views.runs import RunsView
from shoal.shm import codec
from shoal.shm.errors import AlreadyExistsError, ConflictError, InvalidOperationError, StoreFullError
from shoal.shm.files.storage import NO_ROOM
from shoal.shm.limits import MIB, SINGLE_CALL_TIMEOUT_S
from shoal.transfer import records
from shoal.transfer.import_check import Contents, ExportFormatError, check, identity, read
from shoal.transfer.records import ExportRecord

# A namespace begins with a byte from 1 on.
IMPORT_MARKER = b"\0import"
# A commit takes records up to either bound. Other processes wait for it: 500 records take some 10 ms.
_COMMIT_RECORDS = 500
_COMMIT_BYTES = 2 * MIB


class Marker(NamedTuple):
    """How far an import has come."""

    checksum: str
    written: int
    records: int


@contextmanager
def source(given: Path | BinaryIO) -> Iterator[BinaryIO]:
    """A file that can be read twice: ``given`` if it is a regular file, else a copy in a file without a name."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(given.open("rb")) if isinstance(given, Path) else given
        if isinstance(given, Path) and given.is_file():
            yield file
            return
        try:
            copy = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(file, copy, MIB)
            copy.flush()
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise StoreFullError(
                f"{tempfile.gettempdir()} has no room for a copy of the export ({error.strerror}): it is read twice; "
                "give a FILE, or set TMPDIR to a directory on another disk"
            ) from error
        yield copy


def import_store(open_db: Callable[[], Database], file: BinaryIO, name: str, give_up: bool = False) -> Contents:
    """Check ``file``, open the store, and write everything into it; return what the file holds.

    ``name`` stands for the file in messages. ``give_up``: forget an import of another file that was cut short.

    Raises ``ExportFormatError`` if it is not a whole export, ``AlreadyExistsError`` if the store holds anything of a
    run in it, and ``InvalidOperationError`` if another import has not ended; then nothing was written.
    ``StoreFullError`` may come in the middle; importing the same file again goes on from there.
    """
    before = identity(file)
    contents = check(file, name)
    with open_db() as db:
        _Import(db, contents, give_up).run(_unchanged(file, name, before))
    return contents


class _Import:
    """The second pass over a file that was checked: it writes."""

    def __init__(self, db: Database, contents: Contents, give_up: bool) -> None:
        self._db = db
        self._contents = contents
        found = db._store.auto_commit.find(IMPORT_MARKER)
        # The value that every commit must find: another process that imports at the same time changes it.
        self._expected = None if found is None else found.value
        marker = None if found is None else Marker(*codec.unpackb(found.value))
        self._written = 0
        if marker is not None and marker.checksum == contents.checksum and not give_up:
            self._written = marker.written
        elif marker is not None and not give_up:
            raise InvalidOperationError(
                f"an import of another file was cut short here after {marker.written} of {marker.records} records; "
                "import that file again to finish it, or use --give-up to leave what it wrote as it is"
            )

    def run(self, checked: Iterator[tuple[ExportRecord, int]]) -> None:
        """Write the records that are not written yet."""
        self._check_absence()
        batch: list[ExportRecord] = []
        size = 0
        for record, record_bytes in islice(checked, self._written, None):
            if batch and (len(batch) == _COMMIT_RECORDS or size + record_bytes > _COMMIT_BYTES):
                self._commit(batch)
                batch, size = [], 0
            batch.append(record)
            size += record_bytes
        if batch:
            self._commit(batch)

    def _check_absence(self) -> None:
        """``AlreadyExistsError`` if the store holds anything of a run that is not written yet."""
        view = self._db._store.begin(read_only=True)
        try:
            for (namespace, run_id), first in self._contents.runs.items():
                if first >= self._written:
                    _must_be_absent(view, namespace, run_id)
        finally:
            view.abandon()

    def _commit(self, batch: list[ExportRecord]) -> None:
        written = self._written + len(batch)
        marker: bytes | None = None
        if written < self._contents.records:
            marker = codec.pack(Marker(self._contents.checksum, written, self._contents.records))
        try:
            retry_for(lambda: self._attempt(batch, marker), SINGLE_CALL_TIMEOUT_S, self)
        except ConflictError as conflict:
            key, *versions = conflict.args
            raise ConflictError(user_text(key), *versions) from None
        except StoreFullError as error:
            raise StoreFullError(
                f"{error}; {self._written} of {self._contents.records} records are imported: "
                "make room, or open the store with a larger max_bytes, and import the same file again"
            ) from error
        self._written = written
        self._expected = marker

    def _attempt(self, batch: list[ExportRecord], marker: bytes | None) -> None:
        transaction = self._db._store.begin()
        try:
            found = transaction.find(IMPORT_MARKER)
            if (None if found is None else found.value) != self._expected:
                raise InvalidOperationError("another process imports into the store; wait until it has ended")
            for number, record in enumerate(batch, self._written):
                name = record.namespace, record.run_id
                if self._contents.runs.get(name) == number:
                    _must_be_absent(transaction, *name)
                records.restore(transaction, record)
            if marker is not None:
                transaction.put(IMPORT_MARKER, marker)
            elif found is not None:
                transaction.delete(IMPORT_MARKER)
            transaction.commit()
        finally:
            transaction.abandon()


def _must_be_absent(engine: Engine, namespace: Namespace, run_id: str) -> None:
    if RunsView(engine, namespace).get_run(run_id) is not None or holds_anything(engine, namespace._run_prefix(run_id)):
        where = "the store" if namespace == Namespace() else f"{namespace!r} of the store"
        raise AlreadyExistsError(f"run {run_id!r} exists in {where}; delete it there, or import into another store")


def _unchanged(file: BinaryIO, name: str, before: tuple[int, ...]) -> Iterator[tuple[ExportRecord, int]]:
    """The records once more; ``ExportFormatError`` if the file has changed since it was checked."""
    try:
        for checked in read(file, name, Contents()):
            if identity(file) != before:
                raise ExportFormatError("it has changed")
            yield checked
    except ExportFormatError as error:
        text = f"{name} was changed while it was imported; restore it and import it again to finish"
        raise ExportFormatError(text) from error

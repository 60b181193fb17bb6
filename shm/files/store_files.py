"""What a store directory holds beside log and checkpoints, and how the two sides find each other there.

- ``store.json``: format, id of the store, last durability and size; replaced whole, and only by a coordinator that has
  recovered and begins to serve. The id is made with the store and stands in the head of every log file and checkpoint,
  so that a file of another store is noticed. Format 1 has none; such a store is given one when it is next served.
  It also says which log file is the newest (``log_number``): nothing else could tell that one from a file that never
  was. It names a file only after that is on disk, and another one before that is removed, so a kill or a power cut at
  any point leaves the file there.
- ``epoch``: one mapped word. Its upper part, the generation, is raised by every coordinator when it begins to serve: a
  process that only reads sees by it that there is a new segment.
- ``control.sock``: where a coordinator hands out descriptors. Its path may be longer than a socket address allows, so
  it is reached through an open descriptor of the directory.
- ``coordinator.log``: why a coordinator or its helper ended other than in order; made only then.
- ``coordinator.lock`` (one coordinator) and ``start.lock`` (one process starting one): see ``process``, ``take_over``.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import itertools
import json
import mmap
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from shoal.shm.errors import ConfigurationError, CorruptionError, shown
from shoal.shm.files.storage import DiskStorage, Storage, private_file, raise_if_full
from shoal.shm.host import descriptors
from shoal.shm.host.machine_memory import default_store_bytes
from shoal.shm.limits import MAX_STORE_BYTES, MIN_STORE_BYTES
from shoal.shm.memory.layout import EPOCH_BITS
from shoal.shm.memory.words import unmap, words_of

FORMAT_VERSION = 2
_FORMAT_WITHOUT_ID = 1
STORE_ID_BYTES = 16
DURABILITIES = ("memory", "buffered", "strict")
DEFAULT_DURABILITY = "buffered"

META_FILE = "store.json"
EPOCH_FILE = "epoch"
SOCKET_FILE = "control.sock"
COORDINATOR_LOCK_FILE = "coordinator.lock"
NOTES_FILE = "coordinator.log"
START_LOCK_FILE = "start.lock"
_EPOCH_BYTES = 4096
_LAST_GENERATION = (1 << 64 - EPOCH_BITS) - 1


class StoreMeta(NamedTuple):
    """How a store was last served, which it is, and which of its files must be there."""

    durability: str
    max_bytes: int
    store_id: bytes | None = None  # None in format 1
    log_number: int = 0  # of the newest log file; 0 if none was begun, or an older shoal has served the store last
    checkpoint_version: int = 0  # of the checkpoint that the store was made with, as a backup is; 0 if with none


def new_store_id() -> bytes:
    """The id of a store that is being made."""
    return secrets.token_bytes(STORE_ID_BYTES)


def of_another_store(file: str, offset: int, expected: bytes | None, found: bytes | None) -> CorruptionError:
    """The error for a file that names another store than the one it lies in."""
    assert expected is not None
    assert found is not None
    return CorruptionError(file, offset, f"the id {expected.hex()} of this store", f"{found.hex()}, of another store")


def read_meta(directory: Path) -> StoreMeta | None:
    """What ``store.json`` says, None if there is no store here."""
    try:
        raw = (directory / META_FILE).read_bytes()
    except FileNotFoundError:
        return None
    return decode_meta(raw, directory)


def decode_meta(raw: bytes, directory: Path) -> StoreMeta:
    """What the ``store.json`` of a directory says; ``CorruptionError``; ``ConfigurationError`` for another format."""
    try:
        fields = json.loads(raw)
        found = fields["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptionError(META_FILE, 0, "a JSON object that shoal wrote", repr(raw[:60])) from error
    if type(found) is not int or found not in (_FORMAT_WITHOUT_ID, FORMAT_VERSION):
        raise ConfigurationError(
            f"the store at {directory.absolute()} has format {found!r:.60}, this shoal reads {_FORMAT_WITHOUT_ID} to "
            f"{FORMAT_VERSION}; export it with the version that wrote it"
        )
    durability, max_bytes = fields.get("durability"), fields.get("max_bytes")
    in_bounds = type(max_bytes) is int and MIN_STORE_BYTES <= max_bytes <= MAX_STORE_BYTES
    if durability not in DURABILITIES or not in_bounds:
        expected = f"one of {', '.join(DURABILITIES)}, and {MIN_STORE_BYTES:,} to {MAX_STORE_BYTES:,} bytes"
        raise CorruptionError(META_FILE, 0, expected, f"{durability!r:.60} and {max_bytes!r:.60}")
    store_id = None if found == _FORMAT_WITHOUT_ID else _read_id(fields.get("store_id"))
    return StoreMeta(
        durability, max_bytes, store_id, _read_number(fields, "log_number"), _read_number(fields, "checkpoint_version")
    )


def _read_number(fields: dict[str, object], name: str) -> int:
    number = fields.get(name, 0)
    if type(number) is not int or not 0 <= number < 1 << 63:
        raise CorruptionError(META_FILE, 0, f"a whole number as {name}", f"{number!r:.60}")
    return number


def _read_id(text: object) -> bytes:
    is_id = type(text) is str and len(text) == 2 * STORE_ID_BYTES and set(text) <= set("0123456789abcdef")
    if not is_id:
        raise CorruptionError(META_FILE, 0, f"a store_id of {2 * STORE_ID_BYTES} hexadecimal digits", f"{text!r:.60}")
    return bytes.fromhex(str(text))


def write_meta(directory: Path, meta: StoreMeta) -> None:
    """Remember how the store is served."""
    DiskStorage(directory).replace(META_FILE, encode_meta(meta))


def encode_meta(meta: StoreMeta) -> bytes:
    """The content of ``store.json``."""
    fields: dict[str, object] = {
        "format": _FORMAT_WITHOUT_ID,
        "durability": meta.durability,
        "max_bytes": meta.max_bytes,
    }
    if meta.store_id is not None:
        fields |= {"format": FORMAT_VERSION, "store_id": meta.store_id.hex()}
    fields |= {name: getattr(meta, name) for name in ("log_number", "checkpoint_version") if getattr(meta, name)}
    return json.dumps(fields).encode()


def state_log(storage: Storage, number: int) -> None:
    """Have ``store.json`` name another log file as the newest."""
    meta = decode_meta(storage.read(META_FILE), Path())
    storage.replace(META_FILE, encode_meta(meta._replace(log_number=number)))


def absolute_path(path: object) -> str:
    """Where the store named ``path`` lies; TypeError, ValueError or ConfigurationError for what names no directory."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise TypeError(f"path has type {type(path).__name__}; give a str or a pathlib.Path")
    name = os.fsdecode(path)
    if not name:
        raise ValueError("path is empty; give the directory of the store ('.' is the current one)")
    if "\0" in name:
        raise ValueError(f"path is {name!r:.100}, with a NUL, which no file name has; give the directory of the store")
    absolute = os.path.abspath(name)
    try:
        os.lstat(absolute)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise ConfigurationError(
                f"{absolute:.200} cannot be a store ({error.strerror}); give another path"
            ) from error
    return absolute


def check_durability(durability: object) -> None:
    """Raise for anything but one of the three, or None."""
    if durability is not None and durability not in DURABILITIES:
        raise ConfigurationError(f"durability is {durability!r}; choose one of {', '.join(DURABILITIES)}")


def check_max_bytes(max_bytes: object) -> None:
    """Raise for a size no store can have."""
    if max_bytes is None:
        return
    if type(max_bytes) is not int:
        raise TypeError(f"max_bytes has type {type(max_bytes).__name__}; give a number of bytes as int")
    if not MIN_STORE_BYTES <= max_bytes <= MAX_STORE_BYTES:
        raise ConfigurationError(
            f"max_bytes is {shown(max_bytes, ',')}; a store takes {MIN_STORE_BYTES:,} to {MAX_STORE_BYTES:,} bytes"
        )


def default_max_bytes() -> int:
    """Half of the memory there is for this process, 64 GiB at most (``machine_memory``)."""
    return default_store_bytes()


def make_directory(directory: Path) -> list[Path]:
    """Make the store directory, mode 0700 whatever the umask, and those above it; which were made, the lowest first."""
    missing = list(itertools.takewhile(lambda path: not path.is_dir(), (directory, *directory.parents)))
    made: list[Path] = []
    try:
        for path in reversed(missing):
            try:
                path.mkdir(mode=0o700 if path == directory else 0o777)
            except FileExistsError:
                if not path.is_dir():  # and not another process that makes it
                    raise ConfigurationError(f"{path} is not a directory; a store is a directory") from None
            else:
                made.insert(0, path)
        if directory in made:
            directory.chmod(0o700)
    except BaseException:
        remove_directories(made)
        raise
    return made


def remove_directories(made: list[Path]) -> None:
    """Remove what ``make_directory`` has made for a store that could not be opened, unless another process uses it."""
    with contextlib.suppress(OSError):
        for path in made:
            path.rmdir()


def raise_if_read_only(directory: Path, error: OSError) -> None:
    """ConfigurationError if ``error`` says that nothing can be written in ``directory``."""
    if error.errno == errno.ENOENT:  # as below /proc
        raise ConfigurationError(
            f"no store can be made at {directory} ({error.strerror}: {error.filename}); give another path"
        ) from error
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        what = "lies on a read-only file system" if error.errno == errno.EROFS else "may not be written by this user"
        raise ConfigurationError(
            f"{directory} {what} ({error.strerror}: {error.filename}); "
            "to read a store there, open it with read_only=True"
        ) from error


def check_epoch(directory: Path) -> None:
    """Raise unless the next coordinator can raise the generation."""
    try:
        raw = (directory / EPOCH_FILE).read_bytes()[:8]
    except FileNotFoundError:
        return
    if int.from_bytes(raw, "little") >> EPOCH_BITS == _LAST_GENERATION:
        raise CorruptionError(EPOCH_FILE, 0, "a generation that another can follow", f"0x{raw[::-1].hex()}")


class EpochWord:
    """The mapped epoch word (``layout.EPOCH_BITS``), ``words[0]``."""

    __slots__ = ("_map", "words")

    def __init__(self, directory: Path, writable: bool) -> None:
        path = directory / EPOCH_FILE
        if writable:
            check_epoch(directory)
            fd = private_file(path, os.O_RDWR | os.O_CREAT)
            _have_bytes(fd, path)
        else:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found_bytes = os.fstat(fd).st_size
            if found_bytes < _EPOCH_BYTES:
                raise CorruptionError(EPOCH_FILE, 0, f"{_EPOCH_BYTES} bytes", f"{found_bytes}")
            access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
            self._map = descriptors.map_file(fd, _EPOCH_BYTES, access)
        finally:
            os.close(fd)
        self.words = words_of(self._map)

    def close(self) -> None:
        """Unmap it."""
        unmap(self._map, self.words)

    @property
    def generation(self) -> int:
        """Which coordinator serves, or served last."""
        generation: int = self.words[0] >> EPOCH_BITS
        return generation


def _have_bytes(fd: int, path: Path) -> None:
    """Reserve the file's page on the disk: a store to a mapped page that has no room there is a deadly signal."""
    try:
        os.posix_fallocate(fd, 0, _EPOCH_BYTES)
    except OSError as error:
        os.close(fd)
        raise_if_full(error, f"{_EPOCH_BYTES:,} bytes for {path}")
        raise


@contextmanager
def socket_address(directory: Path) -> Iterator[str]:
    """An address of the control socket that is short enough, however long the directory's path is."""
    path = str(directory / SOCKET_FILE)
    if len(os.fsencode(path)) < 100:
        yield path
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET_FILE}"
    finally:
        os.close(fd)


def peer_pid(connection: _socket.socket) -> int:
    """The process on the other end of a local socket; 0 if the system does not say, or it cannot be seen from here."""
    if not hasattr(socket, "SO_PEERCRED"):
        return 0
    return int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], "little")


def peer_uid(connection: socket.socket) -> int:
    """The user on the other end of a local socket."""
    if hasattr(socket, "SO_PEERCRED"):
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(raw[4:8], "little")
    raw = connection.getsockopt(0, 1, 76)  # macOS: LOCAL_PEERCRED, struct xucred
    return int.from_bytes(raw[4:8], "little")

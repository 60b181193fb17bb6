"""What a store directory holds beside log and checkpoints, and how the two sides find each other there.

- ``store.json``: format, id of the store, last durability and size; replaced whole, and only by a coordinator that has
  recovered and begins to serve. The id is made with the store and stands in the head of every log file and checkpoint,
  so that a file of another store is noticed. Format 1 has none; such a store is given one when it is next served.
- ``epoch``: one mapped word. Its upper part, the generation, is raised by every coordinator when it begins to serve: a
  process that only reads sees by it that there is a new segment.
- ``control.sock``: where a coordinator hands out descriptors. Its path may be longer than a socket address allows, so
  it is reached through an open descriptor of the directory.
- ``coordinator.log``: why a coordinator or its helper ended other than in order; made only then.
- ``coordinator.lock`` (one coordinator) and ``start.lock`` (one process starting one): see ``process``, ``take_over``.
"""

from __future__ import annotations

import json
import mmap
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from shoal.shm.errors import ConfigurationError, CorruptionError
from shoal.shm.layout import EPOCH_BITS
from shoal.shm.limits import DEFAULT_STORE_BYTES, GIB, MAX_STORE_BYTES, MIN_STORE_BYTES
from shoal.shm.storage import DiskStorage, private_file, raise_if_full
from shoal.shm.words import words_of

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
    """How a store was last served, and which it is; ``store_id`` is None in format 1."""

    durability: str
    max_bytes: int
    store_id: bytes | None = None


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
    path = directory / META_FILE
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        fields = json.loads(raw)
        found = fields["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptionError(META_FILE, 0, "a JSON object that shoal wrote", repr(raw[:60])) from error
    if type(found) is not int or found not in (_FORMAT_WITHOUT_ID, FORMAT_VERSION):
        raise ConfigurationError(
            f"the store at {directory} has format {found!r:.60}, this shoal reads {_FORMAT_WITHOUT_ID} to "
            f"{FORMAT_VERSION}; export it with the version that wrote it"
        )
    durability, max_bytes = fields.get("durability"), fields.get("max_bytes")
    in_bounds = type(max_bytes) is int and MIN_STORE_BYTES <= max_bytes <= MAX_STORE_BYTES
    if durability not in DURABILITIES or not in_bounds:
        expected = f"one of {', '.join(DURABILITIES)}, and {MIN_STORE_BYTES:,} to {MAX_STORE_BYTES:,} bytes"
        raise CorruptionError(META_FILE, 0, expected, f"{durability!r:.60} and {max_bytes!r:.60}")
    return StoreMeta(durability, max_bytes, None if found == _FORMAT_WITHOUT_ID else _read_id(fields.get("store_id")))


def _read_id(text: object) -> bytes:
    is_id = type(text) is str and len(text) == 2 * STORE_ID_BYTES and set(text) <= set("0123456789abcdef")
    if not is_id:
        raise CorruptionError(META_FILE, 0, f"a store_id of {2 * STORE_ID_BYTES} hexadecimal digits", f"{text!r:.60}")
    return bytes.fromhex(str(text))


def write_meta(directory: Path, meta: StoreMeta) -> None:
    """Remember how the store is served."""
    fields: dict[str, object] = {
        "format": _FORMAT_WITHOUT_ID,
        "durability": meta.durability,
        "max_bytes": meta.max_bytes,
    }
    if meta.store_id is not None:
        fields |= {"format": FORMAT_VERSION, "store_id": meta.store_id.hex()}
    DiskStorage(directory).replace(META_FILE, json.dumps(fields).encode())


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
            f"max_bytes is {max_bytes:,}; a store takes {MIN_STORE_BYTES:,} to {MAX_STORE_BYTES:,} bytes"
        )


def default_max_bytes() -> int:
    """Half of the machine's memory, 64 GiB at most."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        memory = 2 * GIB
    return max(MIN_STORE_BYTES, min(DEFAULT_STORE_BYTES, memory // 2))


def make_directory(directory: Path) -> None:
    """Make the store directory, mode 0700 whatever the umask."""
    try:
        directory.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        if not directory.is_dir():
            raise ConfigurationError(f"{directory} is not a directory; a store is a directory") from None
        return
    directory.chmod(0o700)


class EpochWord:
    """The mapped epoch word (``layout.EPOCH_BITS``), ``words[0]``."""

    __slots__ = ("_map", "words")

    def __init__(self, directory: Path, writable: bool) -> None:
        path = directory / EPOCH_FILE
        if writable:
            fd = private_file(path, os.O_RDWR | os.O_CREAT)
            _have_bytes(fd, path)
        else:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found_bytes = os.fstat(fd).st_size
            if found_bytes < _EPOCH_BYTES:
                raise CorruptionError(EPOCH_FILE, 0, f"{_EPOCH_BYTES} bytes", f"{found_bytes}")
            access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
            self._map = mmap.mmap(fd, _EPOCH_BYTES, mmap.MAP_SHARED, access)
        finally:
            os.close(fd)
        self.words = words_of(self._map)
        if writable and self.generation == _LAST_GENERATION:
            raise CorruptionError(EPOCH_FILE, 0, "a generation that another can follow", f"{self.words[0]:#x}")

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


def peer_uid(connection: socket.socket) -> int:
    """The user on the other end of a local socket."""
    if hasattr(socket, "SO_PEERCRED"):
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(raw[4:8], "little")
    raw = connection.getsockopt(0, 1, 76)  # macOS: LOCAL_PEERCRED, struct xucred
    return int.from_bytes(raw[4:8], "little")

"""``store.json``: which store a directory holds and how it was last served; and the names of the store's other files.

    store.json    one JSON object
                  format       3; 2 before keys were shorter (``old_keys``), 1 without store_id
                  durability   "memory", "buffered" or "strict"
                  max_bytes    bound of the store's memory, an integer of bytes
                  store_id     32 hexadecimal digits
                  log_number   number of the newest log file; not there if none was begun
                  checkpoint_version  version of the checkpoint that the store was made with (backup), if any
                  history_ms   how long past versions are kept, in ms; not there if not at all

- ``store.json``: format, id of the store, last durability and size; replaced whole, and only by a coordinator that has
  recovered and begins to serve. The id is made with the store and stands in the head of every log file and checkpoint,
  so that a file of another store is noticed. Format 1 has none; such a store is given one when it is next served.
  It also names the newest log file (``log_number``): nothing else could tell that a file was there and is missing. It
  names a file only after that is on disk, and another one before that is removed, so a kill or a power cut at any time
  leaves the file there.
- ``wal-N.log`` and ``checkpoint-V.ckpt``: the data (``coordinator.log.format``, ``checkpoint``).
- ``epoch``: which coordinator serves (``epoch_file``). ``control.sock``: where to reach it (``control_address``).
- ``coordinator.log``: why a coordinator or its helper ended out of order (``notes``); made only then.
- ``coordinator.lock`` (only one coordinator serves) and ``start.lock`` (only one process starts one): see
  ``coordinator.server.process`` and ``workers.coordinator_start``.
"""

from __future__ import annotations

import json
import math
import os
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from shoal.shm.arguments import check_int, check_seconds
from shoal.shm.errors import ConfigurationError, CorruptionError, shown, shown_value
from shoal.shm.files.regular_file import read_file
from shoal.shm.files.storage import DiskStorage, Storage
from shoal.shm.host.machine_memory import default_store_bytes
from shoal.shm.limits import MAX_STORE_BYTES, MIN_STORE_BYTES

FORMAT_VERSION = 3
_FORMAT_WITHOUT_ID = 1
STORE_ID_BYTES = 16
DURABILITIES = ("memory", "buffered", "strict")
DEFAULT_DURABILITY = "buffered"

META_FILE = "store.json"
COORDINATOR_LOCK_FILE = "coordinator.lock"
START_LOCK_FILE = "start.lock"


# Fields of ``StoreMeta`` that are whole numbers and are left out if they are 0.
_NUMBERS = ("log_number", "checkpoint_version", "history_ms")


class StoreMeta(NamedTuple):
    """How a store was last served, which it is, and which of its files must be there."""

    durability: str
    max_bytes: int
    store_id: bytes | None = None  # None in format 1
    log_number: int = 0  # of the newest log file; 0 if none was begun, or an older shoal has served the store last
    checkpoint_version: int = 0  # of the checkpoint that the store was made with, as a backup is; 0 if with none
    history_ms: int = 0  # how long past versions are kept


def new_store_id() -> bytes:
    """The id of a store that is being made."""
    return os.urandom(STORE_ID_BYTES)


def of_another_store(file: str, offset: int, expected: bytes | None, found: bytes | None) -> CorruptionError:
    """The error for a file that names another store than the one it lies in."""
    assert expected is not None
    assert found is not None
    return CorruptionError(file, offset, f"the id {expected.hex()} of this store", f"{found.hex()}, of another store")


def read_meta(directory: Path) -> StoreMeta | None:
    """What ``store.json`` says, None if there is no store here."""
    try:
        raw = read_file(directory / META_FILE)
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
    if type(found) is not int or not _FORMAT_WITHOUT_ID <= found <= FORMAT_VERSION:
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
    return StoreMeta(durability, max_bytes, store_id, *(_read_number(fields, name) for name in _NUMBERS))


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
    """Replace ``store.json``, durably."""
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
    fields |= {name: getattr(meta, name) for name in _NUMBERS if getattr(meta, name)}
    return json.dumps(fields).encode()


def state_log(storage: Storage, number: int) -> None:
    """Have ``store.json`` name another log file as the newest."""
    meta = decode_meta(storage.read(META_FILE), Path())
    storage.replace(META_FILE, encode_meta(meta._replace(log_number=number)))


def check_durability(durability: object) -> None:
    """ConfigurationError unless it is one of the three, or None."""
    if durability is not None and durability not in DURABILITIES:
        raise ConfigurationError(f"durability is {shown_value(durability)}; choose one of {', '.join(DURABILITIES)}")


def check_max_bytes(max_bytes: object) -> None:
    """Raise for a size no store can have."""
    if max_bytes is None:
        return
    max_bytes = check_int("max_bytes", max_bytes, "a number of bytes as int")
    if not MIN_STORE_BYTES <= max_bytes <= MAX_STORE_BYTES:
        raise ConfigurationError(
            f"max_bytes is {shown(max_bytes, ',')}; a store takes {MIN_STORE_BYTES:,} to {MAX_STORE_BYTES:,} bytes"
        )


def check_history(history: object) -> int | None:
    """How long past versions are to be kept, in ms; None if that is not said."""
    if history is None:
        return None
    if isinstance(history, timedelta):
        history = history.total_seconds()
    hint = " or a timedelta, 0 to keep none, or None for what the store was last opened with"
    return math.ceil(check_seconds("history", history, hint) * 1000)


def default_max_bytes() -> int:
    """Half of the memory there is for this process, 64 GiB at most (``machine_memory``)."""
    return default_store_bytes()

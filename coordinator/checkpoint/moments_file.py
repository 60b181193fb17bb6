"""When versions were committed, on the disk: the file ``moments-N``, which is there if past versions are kept.

    file    32 bytes  magic "shoalmom", format version (8 bytes), id of the store
            16 bytes  moment in us since the epoch, version that was published then; both rise from pair to pair
            ...       zeros up to the end, in the room that is left

Invariants:
- Only the coordinator that serves writes it, through a mapping: a pair survives SIGKILL when it is written. It is not
  synced before the end, so a power cut may lose the newest pairs. A version whose moment is lost counts as committed
  when the next coordinator began.
- The head is written after the first pairs. So a file with a head has all pairs that were known when it was begun.
- Every coordinator begins a file, and so does a full file. The files before it are then removed. If the disk has no
  room for it, they are removed as well: a file that lacks pairs in between would name a wrong version for a moment.
- A hole in the pairs (a page that a power cut took) makes all pairs before it void.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator

from shoal.shm.errors import CorruptionError, StoreFullError
from shoal.shm.files.storage import LogFile, Storage

FORMAT_VERSION = 1
_MAGIC = b"shoalmom"
_PREFIX = "moments-"
_HEAD = struct.Struct("<8sQ16s")
_PAIR = struct.Struct("<QQ")
_PAIRS = 262_144  # of a file: twice as many as are kept, so that a file is seldom begun
_TRY_AGAIN_S = 1.0


class MomentsFile:
    """The file of one coordinator."""

    def __init__(self, storage: Storage, store_id: bytes) -> None:
        self._storage = storage
        self._store_id = store_id
        self._number = max((number for number, _ in _files(storage)), default=0)
        self._file: LogFile | None = None
        self._position = 0
        self._try_at_s = 0.0
        self._pack = _PAIR.pack

    def begin(self, moments: list[tuple[int, int]]) -> None:
        """Go on in a new file, which has these moments. If the disk has no room, none is kept on it for now."""
        if self._file is not None:
            self._file.close()
        self._file = None
        self._number += 1
        name = f"{_PREFIX}{self._number:012}"
        with contextlib.suppress(StoreFullError, OSError):
            file = self._storage.create_log_file(name, _HEAD.size + _PAIRS * _PAIR.size)
            raw = b"".join(self._pack(*moment) for moment in moments)
            file.write(_HEAD.size, raw)
            file.write(0, _HEAD.pack(_MAGIC, FORMAT_VERSION, self._store_id))
            self._file, self._position = file, _HEAD.size + len(raw)
        self._remove(but=name)

    def append(self, moment_us: int, version: int) -> bool:
        """Add a moment; False if the file is full, so that another must be begun."""
        file = self._file
        if file is None:
            return True
        if self._position == file.size:
            return False
        file.write(self._position, self._pack(moment_us, version))
        self._position += _PAIR.size
        return True

    def keep(self, now_s: float, moments: Callable[[], list[tuple[int, int]]]) -> None:
        """Begin a file if the disk had no room for one."""
        if self._file is None and now_s >= self._try_at_s:
            self._try_at_s = now_s + _TRY_AGAIN_S
            self.begin(moments())

    def discard_all(self) -> None:
        """Past versions are not kept: files that nobody writes any more would lack moments later."""
        self._remove(but="")

    def close(self) -> None:
        """Put all of it on the disk."""
        if self._file is not None:
            self._file.sync()
            self._file.close()
            self._file = None

    def _remove(self, but: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # somebody has removed it, or the whole directory
            for _, name in list(_files(self._storage)):
                if name != but:
                    self._storage.remove(name)


def read_moments(storage: Storage, store_id: bytes | None) -> list[tuple[int, int]]:
    """The moments in the newest file that has a head, in order. A file of another store has none for this one."""
    for _, name in sorted(_files(storage), reverse=True):
        try:
            raw = storage.read(name)
        except CorruptionError:  # no regular file
            continue
        if len(raw) < _HEAD.size:
            continue
        magic, version, found_id = _HEAD.unpack_from(raw)
        if (magic, version) == (_MAGIC, FORMAT_VERSION):
            return _sound(raw) if store_id in (None, found_id) else []
    return []


def _sound(raw: bytes) -> list[tuple[int, int]]:
    """The pairs behind the last hole."""
    end = _HEAD.size + (len(raw) - _HEAD.size) // _PAIR.size * _PAIR.size
    sound: list[tuple[int, int]] = []
    hole = False
    for moment_us, version in _PAIR.iter_unpack(raw[_HEAD.size : end]):
        if not moment_us:
            hole = True
            continue
        if hole or (sound and (moment_us < sound[-1][0] or version < sound[-1][1])):
            sound.clear()
            hole = False
        sound.append((moment_us, version))
    return sound


def _files(storage: Storage) -> Iterator[tuple[int, str]]:
    for name in storage.list():
        digits = name[len(_PREFIX) :]
        if name.startswith(_PREFIX) and digits.isascii() and digits.isdecimal():
            yield int(digits), name

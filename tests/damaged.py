"""Stores in memory to damage: a directory that is a dict, a log by shoal's own writer, and what it must hold."""

from __future__ import annotations

import gc
import itertools
import os
from pathlib import Path

from shoal.coordinator.log.wal_writer import WalWriter
from shoal.coordinator.recover import recover
from shoal.primitives.key_space import Namespace
from shoal.shm import codec, commit_set, limits
from shoal.shm.errors import CorruptionError
from shoal.shm.layout import W_PUBLISHED
from shoal.shm.reader import Reader
from shoal.shm.reclaim import Reclaimer
from shoal.shm.segment import Segment
from shoal.shm.writer import Writer

PREFIX = Namespace().run_prefix("run") + b"\x01"
CLIENT = 7
State = dict[str, object]
_opened = itertools.count()


class MemoryFile:
    """A log file of ``MemoryStorage``."""

    def __init__(self, files: dict[str, bytearray], name: str, size: int) -> None:
        files[name] = self._data = bytearray(size)
        self.size = size

    def write(self, offset: int, data: bytes) -> None:
        self._data[offset : offset + len(data)] = data

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


class MemoryStorage:
    """A store directory without a disk."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = {name: bytearray(data) for name, data in (files or {}).items()}

    def list(self) -> list[str]:
        return sorted(self.files)

    def read(self, name: str) -> bytes:
        return bytes(self.files[name])

    def create_log_file(self, name: str, size: int) -> MemoryFile:
        assert name not in self.files
        return MemoryFile(self.files, name, size)

    def truncate(self, name: str, size: int) -> None:
        del self.files[name][size:]

    def sync_file(self, name: str) -> None:
        assert name in self.files

    def remove(self, name: str) -> None:
        del self.files[name]

    def replace(self, name: str, content: bytes) -> None:
        self.files[name] = bytearray(content)

    def sync_directory(self) -> None:
        pass

    def frozen(self) -> dict[str, bytes]:
        """Everything in it."""
        return {name: bytes(data) for name, data in self.files.items()}


def from_disk(path: Path) -> dict[str, bytes]:
    """The durable files of a store at rest, log files without their unused end but for a little of it."""
    files = {}
    for entry in path.iterdir():
        if entry.name.startswith("wal-"):
            data = entry.read_bytes()
            if data.strip(b"\0"):
                files[entry.name] = data[: len(data.rstrip(b"\0")) + 256]
        elif entry.name.startswith("checkpoint-"):
            files[entry.name] = entry.read_bytes()
    return files


class Opened:
    """What recovery makes of a storage: ``version``, ``state``, and the means to go on."""

    def __init__(self, storage: MemoryStorage) -> None:
        if next(_opened) % 100 == 0:
            gc.collect()  # each mapping holds a descriptor until the cycle it is in goes
        segment = Segment.create(limits.MIN_STORE_BYTES, 1)
        writer = Writer(segment)
        self.storage = storage
        try:
            self.recovered = recover(storage, writer, Reclaimer(writer, list))
        finally:
            os.close(segment._fd)  # the mapping stays
        self.version = self.recovered.version
        self.reader = Reader(segment)
        assert segment.words[W_PUBLISHED] == self.version
        self.state: State = {
            key[len(PREFIX) :].decode(): codec.decode(found.value)
            for key, found in self.reader.scan(b"", None, self.version)
        }

    def log(self) -> WalWriter:
        """A writer that goes on where recovery ended, as a coordinator would."""
        writer = WalWriter(self.storage, self.recovered.next_log_number, self.version)
        writer.first_versions.update(self.recovered.log_files)
        return writer


def open_or_corrupt(files: dict[str, bytes]) -> Opened | None:
    """Recover a copy of ``files``; None for CorruptionError, which says where and what and changes nothing."""
    storage = MemoryStorage(files)
    try:
        return Opened(storage)
    except CorruptionError as error:
        caught = error.with_traceback(None)
    assert caught.file in files
    assert caught.offset >= 0
    assert caught.expected
    assert caught.found
    assert storage.frozen() == files, "a damaged store was changed"
    return None


class Model:
    """Commits whose outcome is known: ``states[v]`` is the store at version ``v``."""

    def __init__(self) -> None:
        self.states: list[State] = [{}]

    @property
    def version(self) -> int:
        return len(self.states) - 1

    def append(self, log: WalWriter, count: int) -> None:
        """Write ``count`` commits to the log: puts of various lengths, and deletes."""
        for _ in range(count):
            version = len(self.states)
            state = dict(self.states[-1])
            key = f"k{version % 11}"
            state[key] = f"{version}:" + "x" * (version * 7 % 60)
            writes = [PREFIX + key.encode(), codec.encode(state[key]), 0]
            if version % 4 == 0:
                state.pop(f"k{(version + 5) % 11}", None)
                writes += [PREFIX + b"k%d" % ((version + 5) % 11), None, 0]
            effects = commit_set.encode_effects(writes)
            log.reserve(len(effects), only_deletes=False)
            log.append(version, CLIENT, version, effects, b"")
            self.states.append(state)


def flipped(data: bytes, offset: int, mask: int) -> bytes:
    """``data`` with some bits of one byte turned over."""
    return data[:offset] + bytes((data[offset] ^ mask,)) + data[offset + 1 :]

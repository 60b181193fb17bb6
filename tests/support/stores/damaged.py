"""Stores in memory to damage: a directory that is a dict, a log by shoal's own writer, and what it must hold."""

from __future__ import annotations

import gc
import itertools
from pathlib import Path

from shoal.coordinator.log.format import FILE_HEAD_BYTES, LogRecord, decode_file_head, decode_record
from shoal.coordinator.log.writer import WalWriter
from shoal.coordinator.memory.check_report import check_segment
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.recovery.recover import recover
from shoal.coordinator.recovery.survey import Survey
from shoal.primitives.keys import Namespace
from shoal.shm import codec, limits
from shoal.shm.errors import CorruptionError
from shoal.shm.files.storage import Space
from shoal.shm.limits import DEFAULT_LIMITS, Limits
from shoal.shm.memory.layout import W_PUBLISHED
from shoal.shm.memory.reader import Reader
from shoal.shm.memory.segment import Segment
from shoal.shm.wire import request as wire_request
from shoal.transfer.repair import fill

STORE_ID = bytes(range(16))
PREFIX = Namespace()._run_prefix("run") + b"\x01"
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

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        return bytes(self.files[name][offset : offset + size])

    def create_log_file(self, name: str, size: int) -> MemoryFile:
        assert name not in self.files
        return MemoryFile(self.files, name, size)

    def size(self, name: str) -> int:
        return len(self.files[name])

    def space(self) -> Space:
        return Space(1 << 40, 1 << 40)

    def overwrites_in_place(self) -> bool:
        return True

    def truncate(self, name: str, size: int) -> None:
        del self.files[name][size:]

    def write_again(self, name: str, from_byte: int) -> None:
        assert name in self.files

    def reserve(self, name: str, size: int, create: bool) -> None:
        if name not in self.files:
            if not create:
                raise FileNotFoundError(name)
            self.files[name] = bytearray()
        self.files[name].extend(bytes(max(0, size - len(self.files[name]))))

    def rename(self, name: str, new_name: str) -> None:
        self.files[new_name] = self.files.pop(name)

    def remove(self, name: str) -> None:
        if name not in self.files:
            raise FileNotFoundError(name)
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
            segment.close_descriptor()  # the mapping stays
        self.version = self.recovered.version
        self.reader = Reader(segment)
        assert segment.words[W_PUBLISHED] == self.version
        self.state: State = {
            key[len(PREFIX) :].decode(): codec.decode(found.value)
            for key, found in self.reader.scan(b"", None, self.version)
        }

    def log(self, limits: Limits = DEFAULT_LIMITS) -> WalWriter:
        """A writer that goes on where recovery ended, as a coordinator would."""
        writer = WalWriter(self.storage, self.recovered.next_log_number, self.version, STORE_ID, limits=limits)
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

    def __init__(self, name: str = "") -> None:
        self.states: list[State] = [{}]
        self._name = name

    @property
    def version(self) -> int:
        return len(self.states) - 1

    def append(self, log: WalWriter, count: int) -> None:
        """Write ``count`` commits to the log: puts of various lengths, and deletes."""
        for _ in range(count):
            version = len(self.states)
            state = dict(self.states[-1])
            key = f"k{version % 11}"
            state[key] = f"{self._name}{version}:" + "x" * (version * 7 % 60)
            writes = [PREFIX + key.encode(), codec.encode(state[key]), 0]
            if version % 4 == 0:
                state.pop(f"k{(version + 5) % 11}", None)
                writes += [PREFIX + b"k%d" % ((version + 5) % 11), None, 0]
            mutations = wire_request.encode_mutations(writes)
            log.reserve(len(mutations), len(mutations))
            log.append(version, CLIENT, version, mutations, b"")
            self.states.append(state)


def flipped(data: bytes, offset: int, mask: int) -> bytes:
    """``data`` with some bits of one byte turned over."""
    return data[:offset] + bytes((data[offset] ^ mask,)) + data[offset + 1 :]


def surveyed(files: dict[str, bytes], acknowledged: int = 0) -> Survey:
    """What ``shoal check`` and ``shoal repair`` see of ``files``; they change nothing."""
    storage = MemoryStorage(files)
    survey = Survey(storage, acknowledged, lambda _: None)
    assert storage.frozen() == files, "a store was changed by looking at it"
    return survey


def saved(survey: Survey, take_all: bool) -> dict[str, tuple[int, object]]:
    """Keys, with version and value, that ``shoal repair`` would save."""
    segment = Segment.create(limits.MIN_STORE_BYTES, 1)
    writer = Writer(segment)
    try:
        fill(writer, Reclaimer(writer, list), survey, take_all, lambda _: None)
        assert check_segment(segment, survey.newest, writer) == []
    finally:
        segment.close_descriptor()
    found = Reader(segment).scan(b"", None, survey.newest)
    return {key[len(PREFIX) :].decode(): (entry.version, codec.decode(entry.value)) for key, entry in found}


class Contract:
    """What must hold however the files of a store are damaged: ``judge`` a case.

    ``sound`` are the files before, ``states`` what they held at every version.
    """

    def __init__(self, sound: dict[str, bytes], states: list[State]) -> None:
        self._states = states
        self._judged: set[tuple[object, ...]] = set()  # what can be read of cases whose salvage was judged
        self._records = [(data[start:end], record) for data in sound.values() for record, start, end in whole(data)]
        self._heads = [(data[:FILE_HEAD_BYTES], decode_file_head(data)) for data in sound.values()]

    def proven(self, files: dict[str, bytes], boot_id: int) -> int:
        """The newest version that some whole part of ``files``, wherever it is, says was committed or on disk."""
        versions = [0]
        for raw, record in self._records:
            if any(raw in data for data in files.values()):
                versions.append(record.version if record.boot_id == boot_id else record.synced_version)
        for raw, head in self._heads:
            if head is not None and any(data.startswith(raw) for data in files.values()):
                versions.append(head.first_version - 1 if head.boot_id == boot_id else head.synced_version)
        return max(versions)

    def judge(self, files: dict[str, bytes], boot_id: int, what: str) -> int | None:
        """Recover, check and repair ``files``: the version recovered, None for CorruptionError."""
        survey = surveyed(files)
        prefix = survey.prefix_version()
        try:
            opened = open_or_corrupt(files)
        except CorruptionError as error:
            raise AssertionError(f"{what}: {error}") from error
        if opened is None:
            assert survey.findings, f"{what}: does not open, and check finds nothing"
            self._judge_salvage(survey, what)
            return None
        assert opened.version >= self.proven(files, boot_id), f"{what}: {opened.version} is less than what is proven"
        assert opened.state == self._states[opened.version], f"{what}: a state that never was"
        assert opened.version == prefix, f"{what}: salvage stops at {prefix}, recovery at {opened.version}"
        return opened.version

    def _judge_salvage(self, survey: Survey, what: str) -> None:
        prefix = survey.prefix_version()
        readable = prefix, *survey.log.versions(), *survey.log.doubtful, *survey.damaged_entries()
        if readable in self._judged:
            return
        self._judged.add(readable)
        kept = {key: value for key, (_, value) in saved(survey, take_all=False).items()}
        assert kept == self._states[prefix], f"{what}: salvage of {prefix}"
        for key, (version, value) in saved(survey, take_all=True).items():
            assert self._states[version][key] == value, f"{what}: salvaged a value of no commit"


def whole(data: bytes) -> list[tuple[LogRecord, int, int]]:
    """The records of a log file that is not damaged, each with its start and end."""
    records, offset = [], FILE_HEAD_BYTES
    while (found := decode_record(data, offset)) is not None:
        records.append((found[0], offset, found[1]))
        offset = found[1]
    return records

"""One coordinator's engine in this process, over a disk that can lose what was not synced. No process, pipe or socket.

For faults that need one certain moment: a power cut after an answer, a snapshot that is still open when its history is
given back, a look at what readers see while the disk is being waited for.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.log import format as wal_format
from shoal.coordinator.log.writer import WalWriter
from shoal.coordinator.memory.check_report import check_segment
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.recovery.recover import recover
from shoal.coordinator.server.loop import Server
from shoal.primitives.rules.registry import TABLE
from shoal.shm.compilation import is_compiled
from shoal.shm.limits import MIN_STORE_BYTES, Limits
from shoal.shm.memory import snapshots
from shoal.shm.memory.layout import W_PUBLISHED
from shoal.shm.memory.reader import Reader
from shoal.shm.memory.segment import Segment
from shoal.shm.memory.snapshots import SnapshotPage, SnapshotSlots, map_page
from shoal.shm.wire import answer as wire_answer
from shoal.shm.wire.request import CommitSet, decode_request, encode_mutations, encode_reads, encode_request
from tests.support.stores.damaged import STORE_ID, MemoryFile, MemoryStorage

PAGE_BYTES = 4096
LOG_FILE_BYTES = 8192
LIMITS = Limits(log_file_bytes=LOG_FILE_BYTES)
COUNTER = b"counter"
Answer = tuple[int, int, int, Any]
Problem = tuple[str, str]  # oracle, text
opened: list[Segment] = []  # with their descriptors, for whoever runs scenarios to close


class Disk(MemoryStorage):
    """A directory in a page cache: ``durable`` is what a power cut leaves for certain."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        super().__init__(files)
        self.durable = dict(self.frozen())
        self.on_write: Callable[[bytes], None] = lambda _data: None
        self.on_sync: Callable[[], None] = lambda: None
        self.fails = False

    def create_log_file(self, name: str, size: int) -> MemoryFile:
        file = _DiskFile(self, name, size)
        self.durable[name] = bytes(size)
        return file

    def truncate(self, name: str, size: int) -> None:
        super().truncate(name, size)
        self.sync_file(name)

    def write_again(self, name: str, from_byte: int) -> None:
        super().write_again(name, from_byte)
        self.sync_file(name)

    def sync_file(self, name: str) -> None:
        self.durable[name] = bytes(self.files[name])

    def remove(self, name: str) -> None:
        super().remove(name)
        self.durable.pop(name, None)

    def replace(self, name: str, content: bytes) -> None:
        super().replace(name, content)
        self.sync_file(name)

    def after_kill(self) -> Disk:
        """What the next process finds."""
        return Disk(self.frozen())

    def after_power_cut(self, rng: random.Random, survival: float = 0.0) -> Disk:
        """What the next boot finds: each page that was not synced is there with a probability, or as it was before."""
        files = {}
        for name, content in self.durable.items():
            data = bytearray(content)
            for start in range(0, len(data), PAGE_BYTES):
                if rng.random() < survival:
                    data[start : start + PAGE_BYTES] = self.files[name][start : start + PAGE_BYTES]
            files[name] = bytes(data)
        return Disk(files)


class _DiskFile(MemoryFile):
    def __init__(self, disk: Disk, name: str, size: int) -> None:
        super().__init__(disk.files, name, size)
        self._disk = disk
        self._name = name

    def write(self, offset: int, data: bytes) -> None:
        self._disk.on_write(data)
        super().write(offset, data)

    def sync(self) -> None:
        self._disk.on_sync()
        if self._disk.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._disk.sync_file(self._name)


def _pinned(rig: Rig) -> list[int]:
    """As ``Server.pinned``, which a mutant replaces. Compiled, that method takes a Server alone."""
    return [version for client in rig._clients.values() for version in client.page.pinned()]


class Rig:
    """One coordinator's life; ``boot`` and ``now_ms`` are the machine's."""

    def __init__(
        self,
        disk: Disk,
        *,
        boot: int = 1,
        now_ms: int = 1_000_000,
        bounds: Limits = LIMITS,
        max_bytes: int = MIN_STORE_BYTES,
    ) -> None:
        wal_format.boot_id = lambda: boot  # the scenario puts it back
        self.disk = disk
        self.now_ms = now_ms
        self.segment = Segment.create(max_bytes, 1)
        opened.append(self.segment)
        self.words = self.segment.words
        self.writer = Writer(self.segment, bounds)
        self._clients: dict[int, SimpleNamespace] = {}  # as Server has them
        self.reclaimer = Reclaimer(self.writer, list)
        found = recover(disk, self.writer, self.reclaimer)
        self.reclaimer.pinned = lambda: _pinned(self) if is_compiled() else Server.pinned(self)  # type: ignore[arg-type]
        self.log = WalWriter(disk, found.next_log_number, found.version, STORE_ID, limits=bounds)
        self.log.first_versions.update(found.log_files)
        clock = SimpleNamespace(now_ms=lambda: self.now_ms, monotonic_s=lambda: self.now_ms / 1000)
        self.engine = CommitEngine(
            *(self.writer, self.reclaimer, found.window, self.log, clock, found.version, found.sessions),
            sync_each_group=True,
            operations=TABLE,
            limits=bounds,
        )
        self.reader = Reader(self.segment, limits=bounds)
        self.found = found

    @property
    def published(self) -> int:
        """What a reader that begins now sees."""
        version: int = self.words[W_PUBLISHED]
        return version

    def attach(self) -> SnapshotSlots:
        """The slots of one more process."""
        fd = snapshots.new_page()
        self._clients[len(self._clients)] = SimpleNamespace(page=SnapshotPage(map_page(fd)))
        return SnapshotSlots(map_page(fd))

    def submit(self, *requests: tuple[int, CommitSet]) -> list[Answer]:
        """Submit commits of a client each that arrived together, finish the group, and return the answers."""
        answers = self.engine.submit_together(list(requests))
        self.engine.finish_group()
        return [wire_answer.decode_answer(answer[4:]) for answer in answers]

    def put(self, number: int, client: int = 7, /, **values: str) -> Answer:
        """Commit a few keys."""
        writes = [part for key, value in values.items() for part in (key.encode(), value.encode(), 0)]
        return self.submit((client, request(number, writes)))[0]

    def state(self, version: int | None = None) -> dict[str, str]:
        """All keys at a version."""
        at = self.published if version is None else version
        return {key.decode(): found.value.decode() for key, found in self.reader.scan(b"", None, at)}

    def reclaim(self) -> None:
        """Give back all that can be."""
        for _ in range(4):
            while self.reclaimer.step(self.now_ms / 1000):
                pass
            if not self.reclaimer.waits_for_a_version():
                return
            self.engine.make_version()


def request(
    number: int,
    writes: list[Any] | None = None,
    *,
    snapshot: int = 0,
    keys: list[bytes] | None = None,
    ranges: list[tuple[bytes, bytes]] | None = None,
    clears: list[bytes] | None = None,
    operations: list[Any] | None = None,
    valid_until_ms: int = 0,
) -> CommitSet:
    """A commit as a client sends it."""
    mutations = encode_mutations(writes or [], clears, operations)
    message = encode_request(number, snapshot, valid_until_ms, encode_reads(keys or [], ranges or []), mutations)
    return decode_request(message, TABLE.rules)


def compare(oracle: str, found: object, expected: object, what: str) -> list[Problem]:
    """A problem if ``found`` is not ``expected``."""
    return [] if found == expected else [(oracle, f"{what}: {found!r:.120}, expected {expected!r:.120}")]


def fill(rig: Rig, rng: random.Random, count: int) -> list[dict[str, str]]:
    """Commit ``count`` times, one to four in a group; the state after each, from version 0 on."""
    states: list[dict[str, str]] = [rig.state()]
    while len(states) <= count:
        group = []
        for client in range(1, 1 + min(rng.randint(1, 4), 1 + count - len(states))):
            key, value = f"k{rng.randrange(20):02}", f"{len(states)}:" + "x" * rng.randrange(400)
            group.append((client, request(len(states), [key.encode(), value.encode(), 0])))
            states.append({**states[-1], key: value})
        rig.submit(*group)
    return states


def sound(rig: Rig) -> list[Problem]:
    """What the walk over the whole segment finds."""
    return [("check()", text) for text in check_segment(rig.segment, rig.published, rig.writer)]

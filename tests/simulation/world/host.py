"""The coordinator's port to the machine (``coordinator.host.Host``) in the simulation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal.coordinator.host import Host
from shoal.shm import limits
from shoal.shm.files.store_files import META_FILE, StoreMeta, decode_meta
from shoal.shm.memory.segment import Segment
from shoal.shm.memory.snapshots import SnapshotPage
from tests.simulation.world import fakes
from tests.simulation.world.control_socket import SimulatedControlSocket
from tests.simulation.world.disk import SimulatedStorage
from tests.simulation.world.pipes import Epoll, Thing


class SimulatedHost(Host):
    """One machine, as a coordinator's process on it sees it."""

    def __init__(self, world: Any) -> None:
        d = world.descriptors
        self._world = world
        self.monotonic_s = lambda: world.now_s
        self.now_ms = world.now_ms
        self.now_us = lambda: world.now_ms() * 1000
        self.sleep = world.sleep
        self.pipe, self.read, self.write, self.close, self.set_blocking = (
            *(d.pipe, d.read, d.write, d.close, d.set_blocking),
        )
        epoll: Any = lambda: Epoll(world, d)  # noqa: E731
        self.epoll = epoll
        self.pid = lambda: world.process.pid

    def enlarge_pipe(self, fd: int) -> None:
        pass

    def on_signal(self, numbers: tuple[int, ...], stop: Callable[[int, Any], None], wake_fd: int) -> None:
        pass

    def tune_collector(self) -> None:
        pass

    def new_lock(self) -> Any:
        return fakes.Lock(self._world)

    def new_event(self) -> Any:
        return fakes.Event(self._world)

    def start_thread(self, run: Callable[[], None]) -> None:
        self._world.thread(self._world.process, "shoal-sync", run)

    def start_checkpoint_helper(self, arguments: list[str], content: bytes, segment_fd: int) -> Any:
        return fakes.Helper(self._world, arguments, content)

    def new_segment(self, max_bytes: int) -> Segment:
        segment = fakes.SharedSegment.create(limits.MIN_STORE_BYTES, self._world.rng.getrandbits(64))
        self._world.segments.append(segment)
        return segment

    def new_slots(self) -> tuple[int, SnapshotPage]:
        mapped = fakes.Page()
        page = SnapshotPage.__new__(SnapshotPage)
        page._slots = mapped.words
        return self._world.descriptors.open(Thing(mapped, self._world.process)), page

    def storage(self, directory: Path) -> Any:
        return SimulatedStorage(self._world.disk)

    def read_meta(self, directory: Path) -> StoreMeta | None:
        file = self._world.disk.names.get(META_FILE)
        return None if file is None else decode_meta(bytes(file.content), Path())

    def epoch_word(self, directory: Path) -> Any:
        return fakes.Epoch(self._world)

    def control_socket(self, directory: Path, admit: Any) -> Any:
        return SimulatedControlSocket(self._world, admit)

    def note(self, directory: Path, text: str) -> None:
        pass

    def end_process(self, directory: Path, text: str) -> None:
        fakes.end_process(self._world, 1)

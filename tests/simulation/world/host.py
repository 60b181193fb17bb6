"""The ports to the machine, a coordinator's and a client's, in the simulation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal.coordinator.host import Host
from shoal.shm import limits
from shoal.shm.files.store_files import META_FILE, StoreMeta, decode_meta
from shoal.shm.memory.segment import Segment
from shoal.shm.memory.snapshots import SnapshotPage, SnapshotSlots
from shoal.workers.host import Host as ClientHost
from tests.simulation.world import fakes
from tests.simulation.world.control_socket import SimulatedControlSocket, greet, start_if_nobody_does
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
        page = memoryview(bytearray(64 * 8)).cast("Q")
        return self._world.descriptors.open(Thing(page, self._world.process)), SnapshotPage(page)

    def storage(self, directory: Path) -> Any:
        return SimulatedStorage(self._world.disk)

    def read_meta(self, directory: Path) -> StoreMeta | None:
        file = self._world.disk.names.get(META_FILE)
        return None if file is None else decode_meta(bytes(file.content), Path())

    def epoch_word(self, directory: Path) -> Any:
        return fakes.Epoch(self._world)

    def identity(self, path: Path) -> tuple[int, int] | None:
        return 0, 0  # nobody replaces a file

    def control_socket(self, directory: Path, admit: Any) -> Any:
        return SimulatedControlSocket(self._world, admit)

    def note(self, directory: Path, text: str) -> None:
        pass

    def end_process(self, directory: Path, text: str) -> None:
        fakes.end_process(self._world, 1)


class _Slots(SnapshotSlots):
    """A process's view of its page, which belongs to the machine."""

    __slots__ = ()

    def close(self) -> None:
        pass


class SimulatedClientHost(ClientHost):
    """One machine, as a client on it sees it."""

    def __init__(self, world: Any) -> None:
        self._world = world

    def greet(self, directory: Path, hello: Any, deadline_s: float) -> Any:
        return greet(self._world, hello, deadline_s)

    def start_if_nobody_does(self, directory: Path, hello: Any, idle_timeout_s: float, deadline_s: float) -> bool:
        return start_if_nobody_does(self._world, hello, idle_timeout_s, deadline_s)

    def epoch_word(self, directory: Path) -> Any:
        return fakes.Epoch(self._world)

    def store_place(self, directory: Path, store_id: bytes) -> Any:
        return fakes.Place()

    def register_reader(self) -> None:
        self._world.step()

    def attach_segment(self, fd: int) -> Segment:
        segment: Segment = self._take(fd)
        return segment

    def attach_slots(self, fd: int) -> SnapshotSlots:
        page: Any = fakes.SteppingWords(self._take(fd), self._world)
        return _Slots(page)

    def _take(self, fd: int) -> Any:
        content = self._world.descriptors.get(fd).content
        self._world.descriptors.close(fd)
        return content

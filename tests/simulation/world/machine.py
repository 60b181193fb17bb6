"""The simulated machine: who runs on it, what is on its disk, and who serves the store."""

from __future__ import annotations

import contextlib
import random
import weakref
from typing import Any

from shoal.coordinator.log import format as wal_format
from shoal.coordinator.server.coordinator import Coordinator
from shoal.coordinator.server.process_start import AlreadyServedError, hold_locks
from shoal.primitives.rules.retention.coordinator_table import COORDINATOR_TABLE
from shoal.shm.errors import ShoalError, StoreFullError
from shoal.shm.files.store_files import STORE_ID_BYTES, StoreMeta
from shoal.shm.limits import MIN_STORE_BYTES, Limits
from shoal.shm.memory.segment import Segment
from shoal.workers.shared_memory.attachment import Attachment
from tests.simulation.world import fakes
from tests.simulation.world.control_socket import SimulatedControlSocket
from tests.simulation.world.disk import Disk
from tests.simulation.world.host import SimulatedHost
from tests.simulation.world.pipes import Descriptors
from tests.simulation.world.scheduler import Killed, Process, Scheduler

# Small, so that everything happens within a few hundred steps.
_LIMITS = Limits(
    memory_step_bytes=512 * 1024,
    checkpoint_block_bytes=512,
    leaf_entries=4,
    branch_entries=4,
    bucket_fill=24,
    checkpoint_log_bytes=6_000,
    checkpoint_pause_s=0.2,
    window_least_keys=20,
    window_most_keys=60,
    reclaim_every=3,
    reclaim_slice=4,
    clear_slice=2,
    sweep_slice=4,
    sweep_every_ms=4,
    fill_step_bytes=512,
    first_client_s=0.2,
    request_spin_s=0.00005,
    crowded_request_spin_s=0.00002,
)


class World(Scheduler):
    """One machine: processors, clock, descriptors, disk, and who serves the store."""

    def __init__(self, seed: int, durability: str) -> None:
        rng = random.Random(seed)
        super().__init__(rng, rng.choice([0.05, 0.15, 0.3, 0.6]), rng.choice([0.000_002, 0.000_01, 0.000_04]))
        self.durability = durability
        self.history_ms = 0  # how long past versions are kept
        self.keeps_all = False  # and nothing happens that may shorten that, but for a power cut
        self.descriptors = Descriptors(self, rng.choice([24, 64, 300, 4096, 65536]), rng.choice([0, 0, 0.05, 0.4]))
        self.disk = Disk(self)
        self.disk.on_record = self._note_record
        self.limits = _LIMITS._replace(
            log_file_bytes=rng.choice([512, 1024, 1536, 4096]),
            checkpoint_log_files=rng.choice([1, 2, 4]),
        )
        self.boot = 1
        self.control_socket: SimulatedControlSocket | None = None
        self.kills_starter = False  # the next process that starts a coordinator dies meanwhile
        self.locks: dict[str, Process] = {}
        self.epoch = memoryview(bytearray(64)).cast("Q")
        self.segments: list[Segment] = []
        self.attachments: list[weakref.ref[Attachment]] = []
        self.moments: dict[int, int] = {}  # commit version -> wall clock, ms, when it was logged
        self.coordinators = 0
        self.checkpoints = 0
        self.recovered: list[int] = []
        self.reclaimers: list[Any] = []

    @property
    def process(self) -> Process:
        """Who runs now."""
        assert self.current is not None
        return self.current.process

    @property
    def revoked(self) -> int:
        """Snapshots revoked by any coordinator, as counted before anybody can notice."""
        return sum(reclaimer.revoked for reclaimer in self.reclaimers)

    def now_ms(self) -> int:
        """The wall clock."""
        return int(self.now_s * 1000) + 1_700_000_000_000

    def _note_record(self, data: bytes) -> None:
        found = wal_format.decode_record(data, 0)
        if found is not None and not found[0].is_close_mark:
            self.moments[found[0].version] = self.now_ms()

    def end(self, process: Process, status: int) -> None:
        if process.alive:
            super().end(process, status)
            self.descriptors.close_all(process)
            if self.control_socket is not None and self.control_socket.process is process:
                self.control_socket = None

    def died(self, process: Process, name: str, error: BaseException) -> None:
        self.say(f"{process.name}/{name}: {type(error).__name__}: {error}")
        if process.kind == "coordinator" and isinstance(error, OSError) and error.errno == 5:
            return  # a sync failed: nobody knows what is on disk, so it must end
        super().died(process, name, error)

    def start_coordinator(self, hello: Any, linger_s: float, report: list[Any]) -> Process:
        """A coordinator's process, as a client starts it: ``process.serve`` from the locks on."""
        self.coordinators += 1
        directory: Any = fakes.Path(self, "store")
        new = StoreMeta(self.durability, MIN_STORE_BYTES, bytes(range(STORE_ID_BYTES)), history_ms=self.history_ms)

        def run() -> None:
            self.sleep(self.rng.uniform(0, 0.01))
            try:
                with contextlib.ExitStack() as held, contextlib.ExitStack() as made:
                    hold_locks(directory, held, made)
                    made.pop_all()
                    host = SimulatedHost(self)
                    meta = host.read_meta(directory) or new
                    place: Any = fakes.Place()
                    coordinator = Coordinator(directory, meta, linger_s, place, COORDINATOR_TABLE, self.limits, host)
                    coordinator.run(lambda: report.append(None))
            except AlreadyServedError:
                return
            except ShoalError as error:
                report.append(error)
                if not isinstance(error, StoreFullError):
                    self.problems.append(("recovery", f"{type(error).__name__}: {error}"))

        return self.spawn(f"coordinator-{self.coordinators}", "coordinator", run)

    def crash(self) -> None:
        """A power cut: everybody is gone, and the disk is what it is."""
        self.say("the power is cut")
        for each in list(self.processes):
            self.end(each, -9)
        self.processes.clear()
        self.disk.cut_power()
        self.boot += 1
        self.control_socket = None
        self.locks.clear()
        if self.current is not None:
            self.current.done = True
            raise Killed

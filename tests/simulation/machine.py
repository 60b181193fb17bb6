"""The simulated machine: who runs on it, what is on its disk, and who serves the store."""

from __future__ import annotations

import io
import random
import weakref
from pathlib import Path
from typing import Any

from shoal.coordinator.log import format as wal_format
from shoal.coordinator.server import process
from shoal.primitives.rules.registry import TABLE
from shoal.shm.errors import ShoalError, StoreFullError
from shoal.shm.limits import Limits
from shoal.shm.memory.segment import Segment
from shoal.workers.shared_memory.attachment import Attachment

from .disk import Disk
from .door import Door, Locks
from .pipes import Descriptors
from .scheduler import Killed, Process, Scheduler

# Small, so that everything happens within a few hundred steps.
_LIMITS = {
    "CHECKPOINT_LOG_BYTES": 6_000,
    "CHECKPOINT_BLOCK_BYTES": 512,
    "WINDOW_LEAST_KEYS": 20,
    "WINDOW_MOST_KEYS": 60,
    "RECLAIM_EVERY": 3,
    "SWEEP_SLICE": 4,
    "MEMORY_STEP_BYTES": 512 * 1024,
    "FIRST_CLIENT_S": 0.2,
    "ANSWER_SPIN_S": 0.00005,
    "REQUEST_SPIN_S": 0.00005,
    "CROWDED_REQUEST_SPIN_S": 0.00002,
}
# Of the segment and of reclaiming: nodes and slices so small that all of them split and end all the time.
_SEGMENT_LIMITS = Limits(
    leaf_entries=4, branch_entries=4, bucket_fill=24, reclaim_every=3, reclaim_slice=4, clear_slice=2
)


class World(Scheduler):
    """One machine: processors, clock, descriptors, disk, and who serves the store."""

    def __init__(self, seed: int, durability: str) -> None:
        rng = random.Random(seed)
        super().__init__(rng, rng.choice([0.05, 0.15, 0.3, 0.6]), rng.choice([0.000_002, 0.000_01, 0.000_04]))
        self.durability = durability
        self.descriptors = Descriptors(self, rng.choice([24, 64, 300, 4096, 65536]), rng.choice([0, 0, 0.05, 0.4]))
        self.disk = Disk(self)
        self.disk.on_record = self._note_record
        self.limits = {
            **_LIMITS,
            "LOG_FILE_BYTES": rng.choice([512, 1024, 1536, 4096]),
            "CHECKPOINT_LOG_FILES": rng.choice([1, 2, 4]),
        }
        self.segment_limits = _SEGMENT_LIMITS
        self.boot = 1
        self.door: Door | None = None
        self.kills_starter = False  # the next process that starts a coordinator dies meanwhile
        self.locks: dict[str, Process] = {}
        self.file_locks = Locks(self)
        self.epoch = memoryview(bytearray(64)).cast("Q")
        self.segments: list[Segment] = []
        self.attachments: list[weakref.ref[Attachment]] = []
        self.inputs: dict[Process, io.BytesIO] = {}  # standard input of checkpoint helpers
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
            if self.door is not None and self.door.process is process:
                self.door = None

    def died(self, process: Process, name: str, error: BaseException) -> None:
        self.say(f"{process.name}/{name}: {type(error).__name__}: {error}")
        if process.kind == "coordinator" and isinstance(error, OSError) and error.errno == 5:
            return  # a sync failed: nobody knows what is on disk, so it must end
        super().died(process, name, error)

    def start_coordinator(self, hello: Any, linger_s: float, report: list[Any]) -> Process:
        """A coordinator's process, as a client starts it: ``process.main`` without its fork."""
        self.coordinators += 1

        def run() -> None:
            self.sleep(self.rng.uniform(0, 0.01))
            try:
                process.serve(
                    Path("store"), hello.durability, hello.max_bytes, linger_s, lambda: report.append(None), TABLE
                )
            except process.AlreadyServedError:
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
        self.door = None
        self.locks.clear()
        if self.current is not None:
            self.current.done = True
            raise Killed

"""Stand-ins for what shoal asks of the system: ``os``, threads, locks, helpers, mapped files.

Each does what the real thing does, in the simulated machine, and lets others run where a system call would.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

from shoal.coordinator.checkpoint import helper as checkpoint_helper
from shoal.shm.memory.layout import EPOCH_BITS
from shoal.shm.memory.segment import Segment
from tests.simulation.world.pipes import Thing
from tests.simulation.world.scheduler import Killed

if TYPE_CHECKING:
    from tests.simulation.world.machine import World


class SharedSegment(Segment):
    """A coordinator's segment, which others in this process read as it is."""

    __slots__ = ("__weakref__",)
    world: World

    def close(self) -> None:
        """What clients map belongs to the machine."""

    def read_only_fd(self) -> int:
        world = self.world
        world.step()
        return world.descriptors.open(Thing(self, world.process))

    def try_read_only_fd(self) -> None:
        """Nothing is tried: the real ``close`` does not know the descriptors of the simulated machine."""


class SteppingWords:
    """The worker's mapping of its page: others may run before and after each store."""

    __slots__ = ("_words", "_world")
    obj = None

    def __init__(self, words: memoryview, world: World) -> None:
        self._words = words
        self._world = world

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, i: int) -> int:
        word: int = self._words[i]
        return word

    def __setitem__(self, i: int, word: int) -> None:
        if word:
            self._world.step()
        elif self._world.current is None or not self._world.process.alive:
            return
        self._words[i] = word
        if word:
            self._world.step()


class Os:
    """``os`` of a simulated process; what has no effect on others is the real one."""

    def __init__(self, world: World) -> None:
        d = world.descriptors
        self.read, self.write, self.close, self.pipe, self.set_blocking = (
            d.read,
            d.write,
            d.close,
            d.pipe,
            d.set_blocking,
        )
        self.sched_yield = world.step
        self.getpid = lambda: world.process.pid
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def end_process(world: World, status: int) -> None:
    """``os._exit``."""
    task = world.current
    assert task is not None
    world.end(task.process, status)
    task.done = True
    raise Killed


class Event:
    def __init__(self, world: World) -> None:
        self._world = world
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, timeout_s: float = float("inf")) -> bool:
        return self._world.wait(lambda: self._is_set, timeout_s)


class Lock:
    """threading.Lock between threads of one simulated process."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._held = False

    def __enter__(self) -> None:
        if self._held:
            self._world.wait(lambda: not self._held)
        self._held = True

    def __exit__(self, *_: object) -> None:
        self._held = False


class Helper:
    """The process of a checkpoint's helper: the real ``checkpoint_helper.write`` in a process of its own."""

    def __init__(self, world: World, arguments: list[str], content: bytes) -> None:
        world.step()
        _directory, store_id, fd, version, temporary = arguments
        segment = world.descriptors.get(int(fd)).content
        self._world = world
        self._status: int | None = None
        place: Any = Path(world, "store")

        def run() -> None:
            world.sleep(world.rng.uniform(0, 0.02))
            failure = checkpoint_helper.write(
                *(place, bytes.fromhex(store_id), segment, int(version), temporary, content, world.limits)
            )
            self._status = 0 if failure is None else 1

        self._process = world.spawn(f"checkpoint-{version}", "checkpoint", run)
        world.step()

    @property
    def returncode(self) -> int | None:
        if self._process.alive:
            return None
        return self._status if self._process.status == 0 else self._process.status

    def poll(self) -> int | None:
        self._world.step()
        return self.returncode

    def kill(self) -> None:
        self._world.step()
        self._world.kill(self._process)

    def wait(self) -> int | None:
        self._world.wait(lambda: not self._process.alive)
        return self.returncode


class Path:
    """A file of the store as ``write_checkpoint`` names it."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self.name = name

    def __truediv__(self, name: str) -> Path:
        return Path(self._world, name)

    def __str__(self) -> str:
        return self.name

    def exists(self) -> bool:
        return True

    def unlink(self, missing_ok: bool = False) -> None:
        self._world.step()
        if self.name in self._world.disk.names:
            del self._world.disk.names[self.name]


class CheckpointOs:
    """``os`` as ``write_checkpoint`` uses it: one file written whole, synced and renamed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.getpid = lambda: world.process.pid
        self.O_WRONLY, self.O_CREAT, self.O_TRUNC = os.O_WRONLY, os.O_CREAT, os.O_TRUNC

    def fdopen(self, fd: int, _mode: str, buffering: int) -> Any:
        return io.BufferedWriter(RawFile(self._world, fd), buffering)

    def fsync(self, fd: int) -> None:
        self._world.disk.sync(self._world.descriptors.get(fd).content)

    def replace(self, old: Path, new: Path) -> None:
        self._world.step()
        names = self._world.disk.names
        if old.name not in names:
            raise FileNotFoundError(old.name)
        names[new.name] = names.pop(old.name)
        self._world.checkpoints += 1
        self._world.say(f"{new.name} stands")
        self._world.step()


class RawFile(io.RawIOBase):
    def __init__(self, world: World, fd: int) -> None:
        self._world, self._fd = world, fd
        self._position = 0
        self._alive = world.process

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, data: Any) -> int:
        world = self._world
        if not self._alive.alive:
            return len(data)  # on the way out of a process that was killed: nothing reaches the file
        world.step()
        inode, end = world.descriptors.get(self._fd).content, self._position + len(data)
        if world.disk.is_full and end > max(len(inode.content), inode.reserved_bytes):
            raise OSError(28, "No space left on device")
        inode.content[self._position : end] = data
        self._position = end
        return len(data)

    def tell(self) -> int:
        return self._position

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        assert (offset, whence) == (0, 1), "only asked where it is"
        return self._position

    def truncate(self, size: int | None = None) -> int:
        size = self._position if size is None else size
        if self._alive.alive:
            inode = self._world.descriptors.get(self._fd).content
            del inode.content[size:]
            inode.reserved_bytes = 0
        return size


class Place:
    """``store_place.WorkingPlace`` and ``StorePlace`` of a directory that stays where it is."""

    def was_moved(self) -> bool:
        return False

    def is_here(self) -> bool:
        return True

    def check(self) -> None:
        pass


class Epoch:
    """``epoch_file.EpochWord``."""

    def __init__(self, world: World) -> None:
        self.words = world.epoch

    def close(self) -> None:
        """It belongs to the machine."""

    @property
    def generation(self) -> int:
        generation: int = self.words[0] >> EPOCH_BITS
        return generation

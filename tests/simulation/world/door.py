"""How clients find a coordinator in the simulation: the control socket, the lock files, and starting a process.

The handshake's bytes and the kernel's socket calls are tested elsewhere; here it is a queue. What remains is the order
of things, in which anybody may die: knocking, being admitted, one starter at a time, the report of how it went.
"""

from __future__ import annotations

from typing import Any

from shoal.shm.errors import ShoalError
from shoal.shm.wire.handshake import Hello, Welcome
from tests.simulation.world.pipes import Thing
from tests.simulation.world.scheduler import Process

_START_S = (0.0, 0.03)


class Visitor:
    """Someone at the door, from his first word to the answer."""

    def __init__(self, hello: Hello, process: Process) -> None:
        self.hello = hello
        self.process = process
        self.answer: Welcome | ShoalError | None = None
        self.heard = False

    def ready(self) -> bool:
        """Whether he has said something that was not heard."""
        return not self.heard


class Door:
    """Stands in for ``coordinator.control_socket.ControlSocket``."""

    def __init__(self, world: Any, admit: Any) -> None:
        self._world = world
        self._admit = admit
        self.process: Process = world.process
        self._waiting: list[Visitor] = []
        self._visitors: dict[int, Visitor] = {}
        world.step()
        self._fd: int = world.descriptors.open(Thing(self, self.process))
        world.door = self

    def ready(self) -> bool:
        return bool(self._waiting)

    def fileno(self) -> int:
        return self._fd

    is_missed = False

    def reopen_if_removed(self, _now_s: float) -> bool:
        return False

    def knock(self, visitor: Visitor) -> None:
        self._waiting.append(visitor)

    def accept(self) -> list[int]:
        self._world.step()
        fresh = [self._world.descriptors.open(Thing(visitor, self.process)) for visitor in self._waiting]
        self._visitors.update(zip(fresh, self._waiting, strict=True))
        self._waiting.clear()
        return fresh

    def is_pending(self, fd: int) -> bool:
        return fd in self._visitors

    def receive(self, fd: int) -> bool:
        world = self._world
        visitor = self._visitors.pop(fd)
        visitor.heard = True
        world.step()
        try:
            welcome = self._admit(visitor.hello, 0)
        except ShoalError as error:
            visitor.answer = error
            world.descriptors.close(fd)
            return True
        world.step()
        if visitor.process.alive:
            sent = [world.descriptors.give(each, visitor.process) for each in welcome.descriptors]
            visitor.answer = Welcome(*welcome[:3], *sent)
            world.step()
        for each in (*welcome.descriptors, fd):
            world.descriptors.close(each)
        return True

    def drop_silent(self) -> list[int]:
        return []

    def close(self) -> None:
        if self._world.door is self:
            self._world.door = None
        self._world.descriptors.close(self._fd)


def knock(world: Any, hello: Hello, deadline_s: float) -> Welcome | None:
    """``take_over._greet``."""
    world.step()
    door = world.door
    if door is None or not door.process.alive:
        return None
    visitor = Visitor(hello, world.process)
    door.knock(visitor)
    world.wait(
        lambda: visitor.answer is not None or world.door is not door or not door.process.alive,
        max(0.01, deadline_s - world.now_s),
    )
    if isinstance(visitor.answer, ShoalError):
        raise visitor.answer
    return visitor.answer


class Held(Thing):
    """A descriptor that holds a lock."""

    __slots__ = ("_locks",)

    def __init__(self, name: str, owner: Any, locks: dict[str, Any]) -> None:
        super().__init__(name, owner)
        self._locks = locks

    def closed(self) -> None:
        """Its process has let go of the lock."""
        if self._locks.get(self.content) is self.owner and self.owner.alive:
            del self._locks[self.content]


def lock_file(world: Any, path: Any) -> int | None:
    """``store_place.lock_file``: the kernel lets go of such a lock at any kind of death of its holder."""
    world.step()
    name = str(path)
    holder = world.locks.get(name)
    if holder is not None and holder.alive:
        return None
    world.locks[name] = world.process
    fd: int = world.descriptors.open(Held(name, world.process, world.locks))
    return fd


def start_if_nobody_does(world: Any, hello: Hello, linger_s: float, deadline_s: float) -> bool:
    """``take_over._start_if_nobody_does``: one starter at a time, who waits for the report."""
    lock_fd = lock_file(world, "start.lock")
    if lock_fd is None:
        return False
    world.sleep(world.rng.uniform(*_START_S))
    report: list[Any] = []
    process = world.start_coordinator(hello, linger_s, report)
    if world.kills_starter:
        world.kills_starter = False
        starter = world.process
        world.spawn("fate", "fate", lambda: (world.sleep(world.rng.uniform(0, 0.01)), world.kill(starter)))
    try:
        world.wait(lambda: report or not process.alive, deadline_s - world.now_s)
    finally:
        world.descriptors.close(lock_fd)
    if report and report[0] is not None:
        raise report[0]
    return True

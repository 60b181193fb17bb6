"""How clients find a coordinator in the simulation: the control socket, the lock files, and starting a process.

The handshake's bytes and the kernel's socket calls are tested elsewhere; here the socket is a queue. What remains is
the order of steps, between which any process may die: a greeting, the admission, one starter at a time, the report of
the start.
"""

from __future__ import annotations

from typing import Any

from shoal.shm.errors import ShoalError
from shoal.shm.wire.handshake import Hello, Welcome
from tests.simulation.world.pipes import Thing
from tests.simulation.world.scheduler import Process

_START_S = (0.0, 0.03)


class PendingConnection:
    """A connection, from the client's greeting to the answer."""

    def __init__(self, hello: Hello, process: Process) -> None:
        self.hello = hello
        self.process = process
        self.answer: Welcome | ShoalError | None = None
        self.heard = False

    def ready(self) -> bool:
        """Whether its greeting has come and was not read yet."""
        return not self.heard


class SimulatedControlSocket:
    """Stands in for ``coordinator.control_socket.ControlSocket``."""

    def __init__(self, world: Any, admit: Any) -> None:
        self._world = world
        self._admit = admit
        self.process: Process = world.process
        self._waiting: list[PendingConnection] = []
        self._pending: dict[int, PendingConnection] = {}
        world.step()
        self._fd: int = world.descriptors.open(Thing(self, self.process))
        world.control_socket = self

    def ready(self) -> bool:
        return bool(self._waiting)

    def fileno(self) -> int:
        return self._fd

    is_missed = False

    def reopen_if_removed(self, _now_s: float) -> bool:
        return False

    def greet(self, connection: PendingConnection) -> None:
        self._waiting.append(connection)

    def accept(self) -> list[int]:
        self._world.step()
        fresh = [self._world.descriptors.open(Thing(connection, self.process)) for connection in self._waiting]
        self._pending.update(zip(fresh, self._waiting, strict=True))
        self._waiting.clear()
        return fresh

    def is_pending(self, fd: int) -> bool:
        return fd in self._pending

    def receive(self, fd: int) -> bool:
        world = self._world
        connection = self._pending.pop(fd)
        connection.heard = True
        world.step()
        try:
            welcome = self._admit(connection.hello, 0)
        except ShoalError as error:
            connection.answer = error
            world.descriptors.close(fd)
            return True
        world.step()
        if connection.process.alive:
            sent = [world.descriptors.give(each, connection.process) for each in welcome.descriptors]
            connection.answer = Welcome(*welcome[:3], *sent)
            world.step()
        for each in (*welcome.descriptors, fd):
            world.descriptors.close(each)
        return True

    def drop_silent(self) -> list[int]:
        return []

    def close(self) -> None:
        if self._world.control_socket is self:
            self._world.control_socket = None
        self._world.descriptors.close(self._fd)


def greet(world: Any, hello: Hello, deadline_s: float) -> Welcome | None:
    """``workers.host.Host.greet``."""
    world.step()
    listener = world.control_socket
    if listener is None or not listener.process.alive:
        return None
    connection = PendingConnection(hello, world.process)
    listener.greet(connection)
    world.wait(
        lambda: connection.answer is not None or world.control_socket is not listener or not listener.process.alive,
        max(0.01, deadline_s - world.now_s),
    )
    if isinstance(connection.answer, ShoalError):
        raise connection.answer
    return connection.answer


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
    """``workers.host.Host.start_if_nobody_does``: one starter at a time, and it waits for the report."""
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

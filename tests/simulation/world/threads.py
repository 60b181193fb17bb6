"""``_thread`` of a simulated process: its threads are greenlets, so a lock of the system would never make one wait."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.world.machine import World

_TIMEOUT_MAX_S = 1e9


class _ReentrantLock:
    """``unpatched.ReentrantLock`` between the threads of one process."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._owner: Any = None
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        mine = self._world.current
        if self._depth and self._owner is not mine:
            until_s = float("inf") if timeout < 0 else timeout
            if not blocking or not self._world.wait(lambda: not self._depth, until_s):
                return False
        self._owner = mine
        self._depth += 1
        return True

    def release(self) -> None:
        self._depth -= 1

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class _Lock:
    """``_thread.allocate_lock``, which another thread may release."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._held = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._held:
            until_s = float("inf") if timeout < 0 else timeout
            if not blocking or not self._world.wait(lambda: not self._held, until_s):
                return False
        self._held = True
        return True

    def release(self) -> None:
        if not self._held:
            raise RuntimeError("release unlocked lock")
        self._held = False


class SimulatedSleep:
    """The sleep of the thread that renews (``workers.presence.sleep``)."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._is_woken = False
        self._attachment: Any = None
        self._pipe: Any = None  # the answer pipe of a coordinator whose end would end the sleep

    def prepare(self) -> None:
        pass

    def wake(self) -> None:
        self._is_woken = True

    def watch(self, attachment: Any) -> None:
        if attachment is self._attachment and self._pipe is None:
            return
        self._attachment, self._pipe = attachment, None
        end = self._world.descriptors.get(attachment.answer_fd)
        if end is not None and attachment.answer_fd in attachment.pipes:
            self._pipe = end.pipe

    def sleep(self, pause_s: float) -> bool:
        self._world.wait(lambda: self._is_woken or self._has_ended(), pause_s)
        self._is_woken = False
        if self._has_ended():
            self._pipe = None
            return True
        return False

    def close(self) -> None:
        pass

    def _has_ended(self) -> bool:
        return self._pipe is not None and not self._pipe.writers


def threads(world: World) -> SimpleNamespace:
    """The module, as the processes of a machine see it."""

    def start(run: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        world.thread(world.process, "second", lambda: run(*arguments))

    return SimpleNamespace(
        ReentrantLock=lambda: _ReentrantLock(world),
        allocate_lock=lambda: _Lock(world),
        start_new_thread=start,
        TIMEOUT_MAX=_TIMEOUT_MAX_S,
    )

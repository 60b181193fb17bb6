"""Functions and exceptions for the tests of the worker pool; a worker imports this module by its name."""

from __future__ import annotations

import copyreg
import dataclasses
import multiprocessing
import os
import pickle
import signal
import threading
import time
from pathlib import Path
from typing import Any

import shoal


def pid(_: object = None) -> int:
    return os.getpid()


def slow_pid(_: object = None) -> int:
    time.sleep(0.05)
    return os.getpid()


def echo(value: Any) -> Any:
    return value


def sleep_then(seconds: float, value: Any = None) -> Any:
    time.sleep(seconds)
    return value


def die(_: object = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    tool: str


class PairError(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


class NoErrorsError(Exception):
    """A collection of errors that holds none."""

    def __len__(self) -> int:
        return 0


class LockedError(Exception):
    """Holds what cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


class NoTextError(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


class AloofError(Exception):
    """Nobody may look at its attributes."""

    def __getattribute__(self, name: str) -> Any:
        raise ZeroDivisionError(name)


class NoPickleError(Exception):
    def __reduce__(self) -> Any:
        raise ZeroDivisionError


class ExitsWhenMadeAgainError(Exception):
    def __reduce__(self) -> Any:
        return _exit, ()


class ImposterError(Exception):
    """Comes back as something that is no exception."""

    def __reduce__(self) -> Any:
        return str, ("no exception",)


class LazyText(str):
    """A translated text, as web frameworks have it."""

    __slots__ = ()

    def __str__(self) -> str:
        return self

    def __reduce__(self) -> Any:
        raise TypeError("not picklable")


class TranslatedError(Exception):
    def __str__(self) -> str:
        return LazyText("text")

    def __reduce__(self) -> Any:
        raise TypeError("not picklable")


class NodeError(Exception):
    """An error of one step, which knows the errors that it belongs to."""

    parent: NodeError
    children: list[NodeError]


class ReadOnlyError(Exception):
    """Shows an attribute through a property of the same name."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        vars(self)["step"] = text

    @property
    def step(self) -> str:
        return str(vars(self)["step"])


class RegisteredError(Exception):
    """Cannot be made again from its arguments; ``copyreg`` knows how."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.numbers = first, second


copyreg.pickle(RegisteredError, lambda error: (RegisteredError, error.numbers))


def _exit() -> None:
    raise SystemExit(7)


def noted() -> ValueError:
    error = ValueError("with a note")
    error.add_note("the note")
    return error


def parent() -> NodeError:
    error, child = NodeError("parent"), NodeError("child")
    error.children, child.parent = [child], error
    return error


MAKERS: dict[str, Any] = {
    "frozen": lambda: FrozenError("search"),
    "group": lambda: ExceptionGroup("several", [ValueError("a"), FrozenError("b")]),
    "noted": noted,
    "parent": parent,
    "read-only": lambda: ReadOnlyError("search"),
    "import": lambda: ImportError("no planner", name="planner", path="/plans"),
    "registered": lambda: RegisteredError(1, 2),
    "false": NoErrorsError,
    "exit": lambda: SystemExit(3),
    "interrupt": lambda: KeyboardInterrupt("by hand"),
    "generator": lambda: GeneratorExit("by hand"),
    "stop": lambda: StopIteration(5),
    "os": lambda: FileNotFoundError(2, "No such file", "a\udcff"),
    "pair": lambda: PairError(1, 2),
    "locked": LockedError,
    "no text": NoTextError,
    "no pickle": NoPickleError,
    "aloof": lambda: AloofError("not me"),
    "exits": ExitsWhenMadeAgainError,
    "imposter": ImposterError,
    "translated": TranslatedError,
}


def fail(kind: str) -> None:
    raise MAKERS[kind]()


class OddResult:
    """A result that fails on its way, as ``how`` says."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        if self.how == "pickle":
            raise pickle.PicklingError("not me")
        return _unpickle_in, (os.getpid(),)


def _unpickle_in(worker: int) -> None:
    if os.getpid() != worker:
        raise LookupError("not here")


def odd_result(how: str) -> OddResult:
    return OddResult(how)


def fork_and_return_twice(marker: str) -> int:
    """Both processes return; what the child would say is its own pid."""
    child = os.fork()
    if child == 0:
        return os.getpid()
    os.waitpid(child, 0)
    Path(marker).touch()
    return os.getpid()


def close_descriptors() -> None:
    """As a program does that becomes a daemon."""
    os.closerange(3, 4096)


def fork_a_helper() -> None:
    """An initializer that forks and returns twice."""
    os.fork()


class ForksWhenPickled:
    """A result whose pickling forks."""

    def __reduce__(self) -> Any:
        os.fork()
        return os.getpid, ()


def fork_and_raise(_: object = None) -> None:
    child = os.fork()
    if child == 0:
        raise ValueError("in the child")
    os.waitpid(child, 0)
    raise LookupError("in the worker")


def leave_helper_and_die(seconds: float) -> None:
    """The worker is killed, a process that it has forked lives on with copies of all its descriptors."""
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(seconds,), daemon=True).start()
    os.kill(os.getpid(), signal.SIGKILL)


def fail_to_begin(_: object = None) -> None:
    raise LookupError("no licence")


def die_at_once(_: object = None) -> None:
    os._exit(9)


def write_later(path: str) -> None:
    """A thread that is no daemon: the worker ends when it has written."""

    def write() -> None:
        time.sleep(0.3)
        Path(path).write_text("written")

    threading.Thread(target=write).start()


def is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def signal_state() -> tuple[int, set[int], list[str]]:
    """The wake-up descriptor, what is blocked, and handlers that are functions."""
    wakeup = signal.set_wakeup_fd(-1)
    handlers = [number.name for number in signal.Signals if callable(signal.getsignal(number))]
    return wakeup, signal.pthread_sigmask(signal.SIG_BLOCK, ()), handlers


def pool_in_a_worker(path: str) -> list[int]:
    with shoal.WorkerPool(path, 1, durability="memory", linger=0.2) as pool:
        return list(pool.map(abs, [-1, -2]))


async def coroutine() -> None:
    pass


def generator() -> Any:
    yield 1


async def async_generator() -> Any:
    yield 1


class AsyncCallable:
    async def __call__(self) -> None:
        pass

    async def method(self) -> None:
        pass


def initialize(key: str) -> None:
    shoal.KVStore(shoal.current_database()).increment("initializers", key)

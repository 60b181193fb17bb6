"""Functions that pools and fleets run in the tests."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import shoal
from shoal.fleet_input import fleet_run_id, input_run_id


def double(number: int) -> int:
    return 2 * number


def fail(text: str) -> None:
    raise ValueError(f"no good: {text}")


def count(key: str) -> int:
    return shoal.KVStore(shoal.current_database()).increment("counts", key)


def count_and_close(key: str) -> list[int]:
    """Count twice, and each time leave the worker's database closed."""
    counts = []
    for _ in range(2):
        with shoal.current_database() as db:
            counts.append(shoal.KVStore(db).increment("counts", key))
    return counts


def die(_: object = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_until(marker: str) -> str:
    """Die the first time, succeed the second."""
    if not Path(marker).exists():
        Path(marker).touch()
        die()
    return "survived"


def sleep_long(marker: str) -> None:
    Path(marker).touch()
    time.sleep(60)


def unsendable() -> Any:
    return lambda: None


class OddError(Exception):
    """Pickles, but cannot be made again from its arguments."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__("odd")
        self.pair = (first, second)


def raise_odd() -> None:
    raise OddError(1, 2)


def agent(text: str) -> dict[str, Any]:
    """A fleet's function: counts itself, fails on ``bad``, dies on ``deadly``."""
    shoal.KVStore(shoal.current_database()).increment("ran", text)
    if text.startswith("bad"):
        raise ValueError(f"cannot do {text}")
    if text.startswith("deadly"):
        die()
    if text.startswith("odd"):
        return {"result": object()}
    return {"length": len(text)}


def slow_agent(text: str) -> str:
    shoal.KVStore(shoal.current_database()).increment("started", "n")
    time.sleep(0.2)
    return text


def step(text: str) -> str:
    """A fleet's function: notes something in its own run; fails if the text says so and nobody has fixed it."""
    kv = shoal.KVStore(shoal.current_database())
    kv.put(input_run_id("tests.support.workers.fleet_functions:step", text), "note", text)
    if "bad" in text and not kv.exists("fixed", text):
        raise ValueError(f"cannot do {text}")
    if text == "deadly":
        die()
    return text.upper()


class NoTextError(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


class ExitsWhenReadError(Exception):
    def __str__(self) -> str:
        raise SystemExit(7)


def fail_oddly(text: str) -> None:
    """Fail in the way the text names."""
    ways: dict[str, BaseException] = {
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt("by hand"),
        "no text": NoTextError(),
        "exit when read": ExitsWhenReadError(),
        "long": ValueError("x" * 20_000_000),
        "not utf-8": OSError("no such file: a\udcff"),
        "zero byte": ValueError("a\0b"),
    }
    raise ways[text]


def leave_nothing_as_it_was(text: str) -> str:
    """Close the worker's database and remove the current directory; the input's lease is held all the time."""
    fleet = fleet_run_id(f"{__name__}:leave_nothing_as_it_was")
    with shoal.current_database() as db, tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        before = db.leases(fleet)
    assert [lease.token for lease in shoal.current_database().leases(fleet)] == [lease.token for lease in before]
    return text


def wait_for_a_child(text: str) -> int:
    """The exit code of a child, which leaves the function in the way the text names."""
    pid = os.fork()
    if pid == 0:
        if text == "returns":
            return -1
        raise SystemExit(3) if text == "exits" else LookupError("in the child")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def large(text: str) -> bytes:
    """A result of so many MiB."""
    return b"x" * (int(text) << 20)


async def wait_later() -> None:
    """An async function: a call of it runs nothing."""

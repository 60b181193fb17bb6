"""The machine that the figures are measured on, its disk and its pipes."""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import platform
import sqlite3
import statistics
import time
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import redis

import shoal

from ..peers import disk_cache, postgres_server, redis_server
from ..peers.shoal_store import LINGER_S
from . import signals

_SYNC_BYTES = 4096
_SYNCS = 200
_LONGEST_SYNCS_S = 2.0
_ROUND_TRIPS = 3_000


def describe(directory: Path) -> dict[str, Any]:
    """Everything that figures depend on; ``directory`` is on the disk to measure."""
    load = os.getloadavg()
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load_before": round(load[0], 2),
        "shoal": shoal.__version__,
        "shoal_compiled": _is_compiled(directory),
        "lmdb": ".".join(map(str, lmdb.version())),
        "py_lmdb": lmdb.__version__,
        "sqlite": sqlite3.sqlite_version,
        "redis": redis_server.version(),
        "redis_py": redis.__version__,
        "postgres": postgres_server.version(),
        "psycopg": _installed("psycopg"),
        "hiredis": _installed("hiredis"),
        "diskcache": disk_cache.version(),
        "msgpack": ".".join(map(str, msgpack.version)),
        "file_system": _file_system(directory),
        "fdatasync_s": _fdatasync_s(directory),
        "pipe_round_trip_s": _pipe_round_trip_s(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _is_compiled(directory: Path) -> bool:
    with shoal.open(directory / "probe", durability="memory", linger=LINGER_S) as database:
        return database.info().compiled


def _file_system(directory: Path) -> str:
    """The type of the file system that holds ``directory``: on tmpfs a sync costs nothing."""
    best_at, best_type = "", "unknown"
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return best_type
    resolved = directory.resolve()
    for line in lines:
        _, mounted_at, kind, *_ = line.split()
        if len(mounted_at) >= len(best_at) and resolved.is_relative_to(mounted_at):
            best_at, best_type = mounted_at, kind
    return best_type


def _fdatasync_s(directory: Path) -> float:
    """Median time of an fdatasync after an append; a strict commit waits for one."""
    path = directory / "fdatasync"
    times_s: list[float] = []
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        give_up_s = time.monotonic() + _LONGEST_SYNCS_S
        while len(times_s) < _SYNCS and (not times_s or time.monotonic() < give_up_s):
            os.write(fd, bytes(_SYNC_BYTES))
            before_s = time.perf_counter()
            os.fdatasync(fd)
            times_s.append(time.perf_counter() - before_s)
    finally:
        os.close(fd)
        path.unlink()
    return statistics.median(times_s)


def _pipe_round_trip_s() -> float:
    """Median time for a byte to another process and back, which sleeps in between: the least that a request costs."""
    there_read, there_write = os.pipe()
    back_read, back_write = os.pipe()
    echo = multiprocessing.get_context("fork").Process(
        target=_echo, args=(there_read, back_write, (there_write, back_read)), daemon=True
    )
    with signals.held_back():
        echo.start()
    os.close(there_read)
    os.close(back_write)
    times_s: list[float] = []
    try:
        for _ in range(_ROUND_TRIPS):
            before_s = time.perf_counter()
            os.write(there_write, b"?")
            os.read(back_read, 1)
            times_s.append(time.perf_counter() - before_s)
    finally:
        os.close(there_write)  # ends the echo
        os.close(back_read)
        echo.join()
    return statistics.median(times_s)


def _echo(read_fd: int, write_fd: int, others: tuple[int, ...]) -> None:
    for fd in others:
        os.close(fd)
    signals.leave_to_parent()
    while byte := os.read(read_fd, 1):
        os.write(write_fd, byte)

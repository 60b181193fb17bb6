"""How long one process's commits wait while another deletes a large run: ``python -m bench.stall``.

A process commits small puts without a pause and notes how long each takes. After a while another process deletes a run
of many keys, whose memory is reclaimed in slices from then on. The latencies from the beginning of the deletion until
the memory is free again are compared with those before, which show what the machine itself does to the 99.9th
percentile.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from tabulate import tabulate

import shoal

from . import machine, report
from .work_directory import work_directory

_CONTEXT = multiprocessing.get_context("fork")
_RUN = "run-to-delete"
_BEFORE_S = 2.0  # of commits before the deletion
_RECLAIM_TIMEOUT_S = 60.0
_FILL_SLICE = 1_000
_WRITER_KEYS = 1_000
Latency = tuple[float, float]  # when a commit began, on the system's monotonic clock, and how long it took


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; always 0, because no figure is a failure."""
    parser = argparse.ArgumentParser(prog="python -m bench.stall", description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--durability", choices=("memory", "buffered", "strict"), default="buffered")
    options = parser.parse_args(arguments)
    rows = []
    with work_directory(Path()) as directory:
        print(report.machine_text(machine.describe(directory)), flush=True)
        for number in range(options.rounds):
            rows.append(_round(directory / f"store-{number}", options.durability, options.keys))
    print(f"\ncommits of another process while a run of {options.keys:,} keys is deleted ({options.durability}); ms")
    headers = ("", "p50", "p99", "p99.9", "longest", "commits", "p99.9", "longest", "commits")
    print(tabulate(rows, headers, floatfmt=".2f", intfmt=","))
    print("The last three columns: before the deletion began.")
    return 0


def _round(path: Path, durability: str, keys: int) -> tuple[object, ...]:
    with shoal.open(path, durability=durability) as db:
        _fill(db, "writer", _WRITER_KEYS)
        empty = db.info().bytes_used
        shoal.RunIndex(db).create_run(run_id=_RUN)
        _fill(db, _RUN, keys)
        run_bytes = db.info().bytes_used - empty
        ours, theirs = _CONTEXT.Pipe()
        writer = _CONTEXT.Process(target=_commit_until_stopped, args=(path, theirs))
        writer.start()
        theirs.close()
        ours.recv()
        time.sleep(_BEFORE_S)
        used, begun_s = db.info().bytes_used, time.monotonic()
        shoal.RunIndex(db).delete_run(_RUN)
        deleted_s = time.monotonic() - begun_s
        while db.info().bytes_used > used - run_bytes // 2:  # the rest is history that the writer makes
            if time.monotonic() - begun_s > _RECLAIM_TIMEOUT_S:
                raise SystemExit(f"the memory of the deleted run is not back after {_RECLAIM_TIMEOUT_S:.0f} s")
            time.sleep(0.01)
        ours.send(None)
        latencies: list[Latency] = ours.recv()
        writer.join()
    meanwhile = [took_s for at_s, took_s in latencies if at_s + took_s >= begun_s]
    before = [took_s for at_s, took_s in latencies if at_s + took_s < begun_s]
    return (
        f"deleted in {deleted_s:.2f} s",
        *(_percentile(meanwhile, share) * 1e3 for share in (0.5, 0.99, 0.999, 1.0)),
        len(meanwhile),
        *(_percentile(before, share) * 1e3 for share in (0.999, 1.0)),
        len(before),
    )


def _fill(db: shoal.Database, run: str, keys: int) -> None:
    for start in range(0, keys, _FILL_SLICE):
        with db.transaction(run) as txn:
            for number in range(start, min(start + _FILL_SLICE, keys)):
                txn.kv.put(f"key-{number:09}", {"number": number})


def _commit_until_stopped(path: Path, parent: Connection) -> None:
    latencies: list[Latency] = []
    with shoal.open(path) as db:
        kv = shoal.KVStore(db)
        parent.send(None)
        number = 0
        while not parent.poll():
            for _ in range(50):
                begun_s = time.monotonic()
                kv.put("writer", f"key-{number % _WRITER_KEYS:09}", number)
                latencies.append((begun_s, time.monotonic() - begun_s))
                number += 1
    parent.recv()
    parent.send(latencies)


def _percentile(values_s: Sequence[float], share: float) -> float:
    ordered = sorted(values_s)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


if __name__ == "__main__":
    sys.exit(main())

"""A machine that can start no thread for a while: tasks are told so, and none waits for ever."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import aio
from shoal.shm.host.unpatched import thread

from .conftest import Run


@contextmanager
def _no_threads() -> Iterator[None]:
    def refuse(*arguments: Any) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(thread, "start_new_thread", refuse)
        yield


def test_the_first_commits_are_refused_and_later_ones_are_done(store: Path, run_loop: Run) -> None:
    """A thread attaches the channel that tasks share. Where none can be started, nothing is sent and all are told."""

    async def main() -> None:
        async with aio.open(store, durability="memory", linger=0.2) as db:
            kv = aio.KVStore(db)
            with _no_threads():
                refused = await asyncio.gather(*[kv.increment("r", "n") for _ in range(3)], return_exceptions=True)
            assert [str(error) for error in refused] == ["can't start new thread"] * 3
            assert await kv.increment("r", "n") == 1

    run_loop(main())


def test_a_commit_in_flight_is_in_doubt(store: Path, run_loop: Run) -> None:
    """Its coordinator dies, and none can be attached to: ``CoordinatorLostError``. Later commits are done."""

    async def main() -> None:
        async with aio.open(store, linger=0.2) as db:
            kv = aio.KVStore(db)

            async def transact() -> None:
                async with db.transaction("r") as txn:
                    txn.kv.put("n", txn.kv.get("n", 0) + 1)

            await kv.increment("r", "n")
            await transact()
            pid = (await db.info()).coordinator_pid
            os.kill(pid, signal.SIGSTOP)
            sent = [asyncio.ensure_future(kv.increment("r", "n")), asyncio.ensure_future(transact())]
            await asyncio.sleep(0.05)
            with _no_threads():
                os.kill(pid, signal.SIGKILL)
                for each in sent:
                    with pytest.raises(shoal.CoordinatorLostError, match="can't start new thread"):
                        await each
            await transact()
            assert await kv.increment("r", "n") == 4

    run_loop(main())

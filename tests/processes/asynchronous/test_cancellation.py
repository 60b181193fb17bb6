"""Tasks that are cancelled at any moment leave nothing half done, and nothing held."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import aio
from shoal.workers.tasks.sharing import SharedChannel

from .conftest import Run


@pytest.mark.long
def test_at_random_moments(store: Path, run_loop: Run) -> None:
    """A transaction is there whole or not at all; a lease is held by one, and by nobody in the end; logs are sound."""
    seed = random.randrange(10**9)
    print("seed", seed)
    rng = random.Random(seed)

    async def main() -> None:
        held: set[int] = set()

        async def one(number: int) -> None:
            if number % 4 == 0:
                async with db.transaction(f"t{number}") as txn:
                    txn.kv.put("a", number)
                    txn.events.append("e", number)
            elif number % 4 == 1:
                async with db.lease("r", f"l{number % 3}", wait=None) as lease:
                    assert number % 3 not in held
                    held.add(number % 3)
                    try:
                        await db.transact("r", lambda txn: txn.kv.put(f"m{number}", 1), fence=lease)
                    finally:
                        held.discard(number % 3)
            elif number % 4 == 2:
                await log.append("r", "e", number)
            else:
                await kv.increment("r", "n")

        async with aio.open(store, linger=0.2, timeout=60) as db:  # a busy machine may take long to start a process
            kv, log = aio.KVStore(db), aio.EventLog(db)
            for start in range(0, 400, 20):
                tasks = [asyncio.create_task(one(number)) for number in range(start, start + 20)]
                for task in tasks:
                    if rng.random() < 0.6:
                        asyncio.get_running_loop().call_later(rng.random() * 0.02, task.cancel)
                for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                    assert outcome is None or isinstance(outcome, asyncio.CancelledError), repr(outcome)
            for number in range(0, 400, 4):
                there = await kv.get(f"t{number}", "a") is not None
                assert await log.len(f"t{number}") == int(there)
            assert (await log.verify_chain("r")).is_valid
            for _ in range(100):
                if not await db.leases("r"):
                    break
                await asyncio.sleep(0.1)
            assert await db.leases("r") == []
            assert await db.check() == []

    run_loop(main())


@pytest.mark.long
def test_a_cancelled_commit_is_not_overtaken(store: Path, run_loop: Run) -> None:
    """After ``CancelledError`` of a commit that was sent, it is done: what follows is decided after it."""

    def putting(number: int) -> Callable[[shoal.Transaction], None]:
        return lambda txn: txn.kv.put("k", number)

    async def main() -> None:
        async with aio.open(store, linger=0.2) as db:
            kv = aio.KVStore(db)
            await kv.put("r", "k", 0)
            for number in range(1, 200, 2):
                for call in (kv.put("r", "k", number), db.transact("r", putting(number))):
                    task = asyncio.create_task(call)
                    for _ in range(number % 5):
                        await asyncio.sleep(0)
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                    await db.transact("r", putting(number + 1))
                    await asyncio.sleep(0)
                    assert await kv.get("r", "k") == number + 1

    run_loop(main())


def test_a_cancelled_commit_that_was_sent_is_done(store: Path, run_loop: Run) -> None:
    """When ``CancelledError`` is raised, not some time later."""

    async def main() -> None:
        async with aio.open(store, linger=0.2) as db:
            kv = aio.KVStore(db)
            await kv.put("r", "k", 0)
            for number in range(1, 100):
                task = asyncio.create_task(kv.put("r", "k", number))
                await asyncio.sleep(0)  # it begins
                await asyncio.sleep(0)  # it is sent
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert await kv.get("r", "k") == number

    run_loop(main())


class _Alarm(Exception):  # noqa: N818 (no error)
    """Raised by a signal handler."""


def test_a_handler_that_raises_when_a_commit_is_enqueued(
    store: Path, run_loop: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That commit is not done. Later ones are, in as many tasks as before."""

    def interrupted(_channel: SharedChannel) -> None:
        monkeypatch.undo()
        raise _Alarm

    async def main() -> None:
        async with aio.open(store, linger=0.2) as db:
            kv = aio.KVStore(db)
            await kv.put("r", "a", 1)
            monkeypatch.setattr(SharedChannel, "_flush", property(interrupted))  # raises where it is scheduled
            with pytest.raises(_Alarm):
                await kv.put("r", "b", 1)
            await asyncio.wait_for(asyncio.gather(*[kv.put("r", f"c{number}", 1) for number in range(300)]), 30)
            assert await kv.get("r", "b") is None
            assert len(await kv.list("r", "c")) == 300

    run_loop(main())


@pytest.mark.long
def test_close_does_not_stop_the_loop(store: Path, run_loop: Run) -> None:
    """It waits for what a cancelled call has left to be undone, also of a stopped coordinator; other tasks run."""

    async def main() -> None:
        async with aio.open(store, linger=0.2) as other:
            pid = (await other.info()).coordinator_pid
            db: Any = await aio.open(store)
            await db.lease("r", "held", ttl=0.3)
            os.kill(pid, signal.SIGSTOP)
            try:
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(db.lease("r", "l", wait=None), 0.1)
                closing = asyncio.ensure_future(db.close())
                turns = 0
                while not closing.done():
                    await asyncio.sleep(0.001)
                    turns += 1
                assert turns > 20
            finally:
                os.kill(pid, signal.SIGCONT)
            for name in ("held", "l"):
                await (await other.lease("r", name, wait=20.0)).release()

    run_loop(main())


@pytest.mark.long
def test_timeouts_of_asyncio(store: Path, run_loop: Run) -> None:
    """``asyncio.timeout`` and ``wait_for`` end what waits, and the database is as good as before."""

    async def main() -> None:
        async with aio.open(store, linger=0.2) as db:
            cells = aio.StateCell(db)
            async with db.lease("r", "l"):
                for _ in range(10):
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(db.lease("r", "l", wait=None), 0.02)
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(0.02):
                            await cells.wait("r", "c", 0)
            async with db.lease("r", "l", wait=5.0) as lease:
                assert lease.slot == 0
            assert await cells.set("r", "c", 1) == 1

    run_loop(main())


def test_iterators(store: Path, run_loop: Run) -> None:
    """An iterator that is left early, closed, or cancelled, holds nothing; bad arguments are refused at the call."""

    async def main() -> None:
        async with aio.open(store, linger=0.2) as db:
            log = aio.EventLog(db)
            await log.append_many("r", [("e", number) for number in range(600)])
            async for event in log.iter("r"):
                if event.sequence == 3:
                    break
            events = log.iter("r", 590)
            assert [event.sequence async for event in events] == list(range(590, 600))
            follower: Any = log.follow("r", 599)
            assert (await anext(follower)).sequence == 599
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(follower), 0.05)
            await follower.aclose()
            await follower.aclose()
            assert [event async for event in follower] == []
            with pytest.raises(ValueError, match="run_id"):
                log.iter("", 0)
            with pytest.raises(ValueError, match="timeout"):
                log.follow("r", timeout=-1.0)

    run_loop(main())


def test_an_iterator_is_used_by_one_task_at_a_time(store: Path, run_loop: Run) -> None:
    """A second task, or ``aclose``, while one waits is ``RuntimeError``; the one that waits gets what comes."""

    async def main() -> None:
        async with aio.open(store, linger=0.2) as db:
            kv = aio.KVStore(db)
            changes = kv.watch("r")
            first, second = (asyncio.ensure_future(anext(changes)) for _ in range(2))
            with pytest.raises(RuntimeError):
                await asyncio.wait_for(second, 30)
            with pytest.raises(RuntimeError):
                await changes.aclose()
            await kv.put("r", "k", 1)
            assert (await asyncio.wait_for(first, 30)).key == "k"
            await changes.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(changes)

    run_loop(main())


def test_another_loop_is_refused(store: Path, run_loop: Run) -> None:
    """A database belongs to the loop in which it was used first; each loop opens its own."""

    async def opened() -> Any:
        db = await aio.open(store, linger=0.2)
        await aio.KVStore(db).put("r", "a", 1)
        return db

    db = run_loop(opened())
    with pytest.raises(shoal.InvalidOperationError, match="another event loop"):
        run_loop(_put(db))
    run_loop(db.close())


async def _put(db: Any) -> None:
    await aio.KVStore(db).put("r", "a", 2)

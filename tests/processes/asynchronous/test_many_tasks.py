"""Many tasks of one event loop that use a store at the same time, also while its coordinator dies or stops."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import aio
from tests.support.workers.crash_workers import wait_for

from .conftest import Run

_TASKS = 200


async def _kill(db: Any, sent: signal.Signals = signal.SIGKILL) -> int:
    pid: int = (await db.info()).coordinator_pid
    os.kill(pid, sent)
    return pid


async def _tick(gaps_s: list[float]) -> None:
    while True:
        before_s = time.perf_counter()
        await asyncio.sleep(0.001)
        gaps_s.append(time.perf_counter() - before_s)


def test_commits_share_a_channel_and_take_no_thread(store: Path, run_loop: Run) -> None:
    """200 puts at once are done through one more channel, with few writes, and no thread is started for them."""

    async def main() -> None:
        async with await aio.open(store, linger=0.2) as db:
            kv = aio.KVStore(db)
            await kv.put("r", "first", 0)
            threads, clients = threading.active_count(), (await db.info()).clients
            await asyncio.gather(*[kv.put("r", f"k{number}", number) for number in range(_TASKS)])
            assert (threading.active_count(), (await db.info()).clients) == (threads, clients)
            assert await kv.list_with_values("r", "k") == sorted((f"k{n}", n) for n in range(_TASKS))

    run_loop(main())


def test_calls_at_the_same_time_are_decided_in_their_order(store: Path, run_loop: Run) -> None:
    """Single calls that tasks make one after the other, without waiting, are decided in that order."""

    async def main() -> None:
        async with aio.open(store, linger=0.2) as db:
            log, kv = aio.EventLog(db), aio.KVStore(db)
            appended = await asyncio.gather(*[log.append("r", "e", number) for number in range(500)])
            assert [each.sequence for each in appended] == list(range(500))
            assert [event.payload async for event in log.iter("r")] == list(range(500))
            assert await asyncio.gather(*[kv.increment("r", "n") for _ in range(500)]) == list(range(1, 501))

    run_loop(main())


@pytest.mark.long
def test_coordinators_that_die_lose_and_repeat_nothing(store: Path, run_loop: Run) -> None:
    """Single calls and transactions of many tasks are each done once over kill -9, and the loop goes on meanwhile."""

    async def main() -> None:
        async with aio.open(store, linger=0.2) as db:
            kv, killed = aio.KVStore(db), set()
            gaps_s: list[float] = []
            ticking = asyncio.create_task(_tick(gaps_s))

            def add(txn: shoal.Transaction) -> None:
                txn.kv.put("m", txn.kv.get("m", 0) + 1)

            for round_number in range(3):
                single = [asyncio.create_task(kv.increment("r", "n")) for _ in range(_TASKS)]
                composed = [asyncio.create_task(db.transact("r", add, 1000)) for _ in range(20)]
                await asyncio.sleep(0.002)
                killed.add(await _kill(db))
                done = await asyncio.gather(*single)
                await asyncio.gather(*composed)
                assert sorted(done) == list(range(round_number * _TASKS + 1, (round_number + 1) * _TASKS + 1))
            ticking.cancel()
            assert await kv.get("r", "m") == 3 * 20
            assert len(killed) == 3
            assert max(gaps_s) < 2  # a take-over that blocked the loop, or a lock held over it, takes all of its time
            assert len(gaps_s) > 20
            assert await db.check() == []

    run_loop(main())


@pytest.mark.long
def test_a_stopped_coordinator_does_not_stop_the_loop(store: Path, run_loop: Run) -> None:
    """Calls end with CoordinatorLostError at the timeout; other tasks run meanwhile; later calls work again."""

    async def main() -> None:
        # The first one starts a coordinator, which may take longer on a busy machine.
        async with aio.open(store, linger=0.2), aio.open(store, timeout=1.0) as db:
            kv = aio.KVStore(db)
            gaps_s: list[float] = []
            await kv.put("r", "a", 1)
            pid = await _kill(db, signal.SIGSTOP)
            try:
                ticking = asyncio.create_task(_tick(gaps_s))
                calls: Iterable[Any] = [
                    kv.put("r", "b", 1),
                    kv.put("r", "large", b"x" * 300_000),
                    db.transact("r", lambda txn: txn.kv.put("c", 1)),
                    db.lease("r", "l"),
                ]
                for outcome in await asyncio.gather(*calls, return_exceptions=True):
                    assert isinstance(outcome, shoal.CoordinatorLostError)
                assert await kv.get("r", "a") == 1
                assert len(gaps_s) > 100
                ticking.cancel()
            finally:
                os.kill(pid, signal.SIGCONT)
            for _ in range(50):  # it does what it had been sent
                if not await db.leases("r"):
                    break
                await asyncio.sleep(0.1)
            await asyncio.gather(*[kv.put("r", f"d{number}", 1) for number in range(10)])
            assert len(await kv.list("r", "d")) == 10

    run_loop(main())


def test_a_memory_store_whose_coordinator_dies(store: Path, run_loop: Run) -> None:
    """Is lost: every call says so, as that of the synchronous face does."""

    async def main() -> None:
        async with aio.open(store, linger=0.2, durability="memory") as db:
            kv = aio.KVStore(db)
            await kv.put("r", "a", 1)
            await _kill(db)
            for _ in range(2):
                with pytest.raises(shoal.CoordinatorLostError):
                    await kv.put("r", "b", 1)
            with pytest.raises(shoal.CoordinatorLostError):
                await db.transact("r", lambda txn: txn.kv.put("c", 1))

    run_loop(main())


@pytest.mark.long
def test_large_values(store: Path, run_loop: Run) -> None:
    """They go through pipes that are full for a while, and answers of any size come back."""

    async def main() -> None:
        async with aio.open(store, linger=0.2) as db:
            kv, cells = aio.KVStore(db), aio.StateCell(db)
            values = [bytes([number]) * 3_000_000 for number in range(6)]
            await asyncio.gather(*[kv.put("r", f"k{number}", value) for number, value in enumerate(values)])
            assert [await kv.get("r", f"k{number}") for number in range(6)] == values
            await cells.init("r", "c", [0, b"x" * 60_000])

            def more(state: shoal.State) -> tuple[Any, int]:
                return [state.value[0] + 1, state.value[1]], state.value[0]

            results = await asyncio.gather(*[cells.transition("r", "c", more) for _ in range(60)])
            assert sorted(results) == list(range(60))

    run_loop(main())


@pytest.mark.long
def test_waiting_tasks_are_woken_by_commits(store: Path, run_loop: Run) -> None:
    """Followers and waiters of one loop, and holders in line, are told by the commit; none of them takes a thread."""

    async def main() -> None:
        async with aio.open(store, linger=0.2) as db:
            log, cells = aio.EventLog(db), aio.StateCell(db)

            async def first_three() -> list[Any]:
                found: list[Any] = []
                async for event in log.follow("r"):
                    found.append(event.payload)
                    if len(found) == 3:
                        return found
                raise AssertionError("the log ended")

            async def hold(number: int) -> int:
                async with db.lease("r", "one", wait=None) as lease:
                    held.append(number)
                    return lease.token

            held: list[int] = []
            first = await db.lease("r", "one")
            tasks = [asyncio.create_task(first_three()) for _ in range(5)]
            waiting = [asyncio.create_task(cells.wait("r", "c", 0)) for _ in range(5)]
            line = [asyncio.create_task(hold(number)) for number in range(5)]
            await asyncio.sleep(0.2)
            threads = threading.active_count()
            for number in range(3):
                await log.append("r", "e", number)
            await cells.set("r", "c", "new")
            await first.release()
            assert await asyncio.gather(*tasks) == [[0, 1, 2]] * 5
            assert [state.value for state in await asyncio.gather(*waiting) if state] == ["new"] * 5
            tokens = await asyncio.gather(*line)
            assert held == sorted(range(5), key=tokens.__getitem__)
            assert threading.active_count() <= threads

    run_loop(main())


@pytest.mark.long
def test_queues_budgets_and_effects(store: Path, run_loop: Run) -> None:
    """Each task is claimed by one, a limit is never passed, a coroutine function takes effect once."""

    async def main() -> None:
        async with aio.open(store, linger=0.2) as db:
            queue, budget, kv = aio.TaskQueue(db), aio.Budget(db), aio.KVStore(db)
            await budget.create("r", "b", 3)
            spending = most = called = 0

            def finish(task: Any, txn: shoal.Transaction) -> None:
                txn.kv.increment("sum", task.payload)
                txn.queue.complete(task, task.payload)

            async def work() -> None:
                nonlocal spending, most
                while (task := await queue.claim("r", "q", wait=0.5)) is not None:
                    async with task, budget.reserve("r", "b", 1, wait=None) as reservation:
                        spending += 1
                        most = max(most, spending)
                        await asyncio.sleep(0.001)
                        await db.transact("r", partial(finish, task), fence=task)
                        spending -= 1
                        await reservation.settle(0)

            async def effect() -> int:
                nonlocal called
                await asyncio.sleep(0.01)
                called += 1
                return called

            workers = [asyncio.create_task(work()) for _ in range(8)]
            await asyncio.gather(*[queue.put("r", "q", number) for number in range(60)])
            await asyncio.gather(*workers)
            assert await kv.get("r", "sum") == sum(range(60))
            assert (await queue.stats("r", "q")).done == 60
            assert 1 < most <= 3
            assert (await budget.read("r", "b")).available == 3
            assert await asyncio.gather(*[db.once("r", "mail", effect) for _ in range(5)]) == [1] * 5

    run_loop(main())


def test_watchers_and_consumers(store: Path, run_loop: Run) -> None:
    """A watcher sees what is committed after its call; a consumer goes on where it was done; both can be left."""

    async def main() -> None:
        async with aio.open(store, linger=0.2) as db:
            kv, log, runs = aio.KVStore(db), aio.EventLog(db), aio.RunIndex(db)
            changes, followed = kv.watch("r", "k"), runs.follow(timeout=10)
            await kv.put("r", "k1", 1)
            await kv.delete("r", "k1")
            assert [(change.key, change.value) for change in [await anext(changes), await anext(changes)]] == [
                ("k1", 1),
                ("k1", None),
            ]
            await changes.aclose()
            await runs.create_run(run_id="r")
            assert (await anext(followed)).run_id == "r"
            await followed.aclose()
            await log.append_many("r", [("e", number) for number in range(4)])
            for expected in ([0, 1], [2, 3]):
                async with log.consumer("r", "c") as consumer:
                    found: list[int] = []
                    async for event in consumer:
                        async with db.transaction("r") as txn:
                            txn.events.commit(consumer, event.sequence)
                        found.append(event.sequence)
                        if len(found) == 2:
                            break
                assert found == expected

    run_loop(main())


def test_close_ends_what_waits(store: Path, run_loop: Run) -> None:
    """Tasks that wait, and later calls, get InvalidOperationError; commits that were sent are answered."""

    async def main() -> None:
        db = await aio.open(store, linger=0.2)
        kv, cells = aio.KVStore(db), aio.StateCell(db)
        waiting = asyncio.create_task(cells.wait("r", "c", 0))
        await kv.put("r", "a", 1)
        await asyncio.sleep(0.1)
        sent = [asyncio.create_task(kv.put("r", f"k{number}", 1)) for number in range(20)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await db.close()
        await db.close()
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
        assert all(each is None or isinstance(each, shoal.InvalidOperationError) for each in outcomes)
        for call in (waiting, kv.put("r", "b", 1), kv.get("r", "a"), db.transact("r", lambda txn: None)):
            with pytest.raises(shoal.InvalidOperationError, match="is closed"):
                await call

    run_loop(main())
    with shoal.open(store, linger=0.2) as db:
        assert shoal.KVStore(db).get("r", "a") == 1


@pytest.mark.long
def test_read_only_at_rest_and_served(store: Path, run_loop: Run) -> None:
    """A store that nobody serves is read; when somebody serves it, what is committed is seen and waited for."""
    with shoal.open(store, linger=0.0) as written:
        shoal.KVStore(written).put("r", "a", 1)
        pid = written.info().coordinator_pid
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the coordinator has ended")

    async def main() -> None:
        async with aio.open(store, read_only=True) as db:
            kv, cells = aio.KVStore(db), aio.StateCell(db)
            assert await kv.get("r", "a") == 1
            assert await db.leases("r") == []
            with pytest.raises(shoal.InvalidOperationError, match="read_only"):
                await kv.put("r", "a", 2)
            assert await db.check() == []
            waiting = asyncio.create_task(cells.wait("r", "c", 0, timeout=60))
            async with aio.open(store, linger=0.2) as writer:
                await aio.KVStore(writer).put("r", "a", 3)
                await aio.StateCell(writer).set("r", "c", 4)
                state = await waiting
                assert state is not None
                assert (state.value, await kv.get("r", "a")) == (4, 3)

    run_loop(main())

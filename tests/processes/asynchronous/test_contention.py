"""Hundreds of tasks of one event loop that change the same at once: all get through, and few attempts are lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import shoal
from shoal import aio
from shoal.shm.host import tasks
from shoal.workers.tasks import greenlets
from tests.support.workers.forked import run_in_child

from .conftest import Run

_TASKS = 200
_MOST_ATTEMPTS = 5 * _TASKS


def test_transactions_on_one_key(store: Path, run_loop: Run) -> None:
    """None of them runs out of retries, and the attempts grow with the tasks, not faster."""
    attempts = 0

    def add(txn: shoal.Transaction) -> None:
        nonlocal attempts
        attempts += 1
        txn.kv.put("n", txn.kv.get("n", 0) + 1)

    async def main() -> None:
        async with aio.open(store, linger=0.2) as db:
            await asyncio.gather(*[db.transact("r", add) for _ in range(_TASKS)])
            assert await aio.KVStore(db).get("r", "n") == _TASKS
            assert attempts < _MOST_ATTEMPTS

    run_loop(main())


def test_transitions_of_one_cell(store: Path, run_loop: Run) -> None:
    """Each takes place once, and its function is called a few times, however many tasks there are."""
    attempts = 0

    def add(state: shoal.State) -> tuple[int, int]:
        nonlocal attempts
        attempts += 1
        return state.value + 1, state.value

    async def main() -> None:
        async with aio.open(store, linger=0.2) as db:
            cells = aio.StateCell(db)
            await cells.init("r", "n", 0)
            before = await asyncio.gather(*[cells.transition("r", "n", add) for _ in range(_TASKS)])
            assert sorted(before) == list(range(_TASKS))
            assert attempts < _MOST_ATTEMPTS

    run_loop(main())


@pytest.mark.long
def test_a_cancelled_task_gives_its_turn_to_the_next(store: Path, run_loop: Run) -> None:
    """Also one that is in line for it. A child that is forked meanwhile waits for none of them."""

    def add(txn: shoal.Transaction) -> None:
        txn.kv.put("n", txn.kv.get("n", 0) + 1)

    async def main() -> None:
        async with aio.open(store, linger=0.2) as db:
            tasks = [asyncio.create_task(db.transact("r", add)) for _ in range(_TASKS)]
            while not any(task.done() for task in tasks):
                await asyncio.sleep(0)
            assert run_in_child(lambda: run_loop(db.transact("r-child", add))) == 0  # nobody is in line there
            for task in tasks[::2]:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(outcome is None for outcome in outcomes[1::2])
            done = sum(outcome is None for outcome in outcomes)
            assert done <= await aio.KVStore(db).get("r", "n") <= _TASKS

    run_loop(main())


def test_turns_at_one_store_hold_up_no_other(run_loop: Run) -> None:
    """Who has the turn at one store may wait for its coordinator; at another store the next task has its turn."""

    async def main() -> None:
        answer = asyncio.Event()

        def wait_for_answer() -> bool:
            task = greenlets.running()
            assert task is not None
            return bool(task.wait(answer.wait()))

        waiting = asyncio.create_task(greenlets.run(lambda: tasks.in_turn("store", wait_for_answer)))
        following = asyncio.create_task(greenlets.run(lambda: tasks.in_turn("store", lambda: 1)))
        await asyncio.sleep(0)
        assert await greenlets.run(lambda: tasks.in_turn("another store", lambda: 2)) == 2
        assert not waiting.done()
        assert not following.done()
        answer.set()
        assert await waiting
        assert await following == 1

    run_loop(main())

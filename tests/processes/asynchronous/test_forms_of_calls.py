"""The forms in which asynchronous programs write a call: awaited, entered, with functions that return awaitables."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import aio

from .conftest import Run


def test_what_can_be_entered_can_be_awaited_too(store: Path, run_loop: Run) -> None:
    """Also a claim, which is None if there is no task: that cannot be entered, and the error says so."""

    async def main() -> None:
        async with aio.open(store, linger=0.2) as db:
            queue: Any = aio.TaskQueue(db)
            first, second = await queue.put_many("r", "q", [1, 2])
            async with queue.claim("r", "q") as task:
                assert task.payload == 1
            assert (await queue.get("r", first)).status is shoal.TaskStatus.Done
            async with await queue.claim("r", "q") as task:
                await task.complete("result")
            assert await asyncio.create_task(queue.result("r", second)) == "result"
            assert await asyncio.wait_for(queue.claim("r", "q"), 10) is None
            with pytest.raises(TypeError, match="returned None, which cannot be entered"):
                async with queue.claim("r", "q"):
                    pass

    run_loop(main())


def test_once_awaits_what_its_function_returns(store: Path, run_loop: Run) -> None:
    """A coroutine function, and a plain one that returns a coroutine or a future; so with ``on_doubt``."""

    async def call(value: int) -> int:
        await asyncio.sleep(0.001)
        return value

    async def main() -> None:
        async with aio.open(store, linger=0.2) as db:
            forms: list[Callable[[], Any]] = [
                lambda: call(1),
                partial(call, 1),
                lambda: asyncio.ensure_future(call(1)),
                lambda: 1,
            ]
            for number, form in enumerate(forms):
                assert await db.once("r", f"key {number}", form) == 1
                assert await db.once("r", f"key {number}", lambda: call(2)) == 1
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(db.once("r", "doubt", lambda: asyncio.sleep(60)), 0.1)
            assert await db.once("r", "doubt", lambda: call(2), on_doubt=lambda key: call(len(key))) == 5

    run_loop(main())


def test_once_inside_itself_is_refused(store: Path, run_loop: Run) -> None:
    """A task that awaits ``once`` in its own function would wait for itself. Other tasks wait for the result."""

    async def main() -> None:
        async with aio.open(store, linger=0.2) as db:

            async def fn() -> Any:
                await db.once("r", "other", lambda: 1)
                others.extend(asyncio.create_task(db.once("r", "key", lambda: 2)) for _ in range(3))
                with pytest.raises(shoal.InvalidOperationError, match="would wait for itself"):
                    await db.once("r", "key", lambda: 3)
                return 1

            others: list[asyncio.Task[int]] = []
            assert await db.once("r", "key", fn) == 1
            assert await asyncio.gather(*others) == [1, 1, 1]

    run_loop(main())


@pytest.mark.long
def test_a_long_log_is_verified_while_other_tasks_run(store: Path, run_loop: Run) -> None:
    """To hash all of it takes far longer than to read from memory."""

    async def main() -> None:
        async with aio.open(store, linger=0.2) as db:
            log = aio.EventLog(db)
            await log.append_many("r", [("e", number) for number in range(20_000)])
            verifying = asyncio.ensure_future(log.verify_chain("r"))
            turns = 0
            while not verifying.done():
                await asyncio.sleep(0)
                turns += 1
            assert turns > 3
            assert verifying.result().length == 20_000

    run_loop(main())

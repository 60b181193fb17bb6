"""What tasks that waited at the same time have opened is given back when it is not needed any more."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from shoal import aio
from shoal.workers.tasks import connection

from .conftest import Run

pytestmark = pytest.mark.long

_WAITING = 60


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _connection(db: Any) -> Any:
    return db._sync._store.connection


async def _wait_together(db: Any, tasks: int) -> None:
    """So many tasks wait at the same time for a cell, and all are woken."""
    cells = aio.StateCell(db)
    version = await cells.set("r", "c", 0)
    before, idle = _descriptors(), len(_connection(db)._idle)
    waits = [asyncio.create_task(cells.wait("r", "c", version)) for _ in range(tasks)]
    while _descriptors() < before + 2 * (tasks - idle) or _connection(db)._idle:
        await asyncio.sleep(0.01)
    await cells.set("r", "c", 1)
    assert [state.value for state in await asyncio.gather(*waits) if state is not None] == [1] * tasks


def test_descriptors_of_many_waits(store: Path, run_loop: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly all of them are closed while the database is idle; what was taken through them is held all the same."""
    monkeypatch.setattr(connection, "_SURPLUS_S", 0.2)

    async def main() -> None:
        async with aio.open(store, linger=0.2) as db:
            before = _descriptors()
            await _wait_together(db, _WAITING)
            leases = await asyncio.gather(*[db.lease("r", f"l{number}", wait=None) for number in range(_WAITING)])
            while _descriptors() > before + _WAITING:
                await asyncio.sleep(0.05)
            assert len(await db.leases("r")) == _WAITING
            await db.transact("r", lambda txn: txn.kv.put("k", 1), fence=leases[0])
            for lease in leases:
                await lease.release()
            assert await db.check() == []

    run_loop(main())


def test_channels_that_were_needed_meanwhile_stay(store: Path, run_loop: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that wait together again and again do not open anew what they have used."""
    monkeypatch.setattr(connection, "_SURPLUS_S", 3600.0)

    async def main() -> None:
        async with aio.open(store, linger=0.2) as db:
            used = _connection(db)
            await _wait_together(db, 30)
            used._drop_surplus(asyncio.get_running_loop())
            await _wait_together(db, 30)
            idle = len(used._idle)
            assert idle >= 30
            used._drop_surplus(asyncio.get_running_loop())
            assert len(used._idle) == idle
            used._drop_surplus(asyncio.get_running_loop())
            assert len(used._idle) < 10
            assert used._is_usable()

    run_loop(main())

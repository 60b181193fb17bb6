"""``aio.open`` takes what ``shoal.open`` takes."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import shoal
from shoal import aio
from tests.support.workers.forked import run_in_child

from .conftest import Run


def test_every_option_is_passed_on(store: Path, run_loop: Run) -> None:
    """The store is served as it was asked for; the signature shown is the one that holds."""
    assert inspect.signature(aio.open) == inspect.signature(shoal.open)

    async def main() -> None:
        options = {"durability": "memory", "max_bytes": 16 * 2**20, "timeout": 20.0, "linger": 0.1, "read_only": False}
        async with aio.open(store, **options, history=60) as db:  # type: ignore[arg-type]
            kv = aio.KVStore(db)
            await kv.put("r", "a", 1)
            version = (await db.info()).commit_version
            await kv.put("r", "a", 2)
            async with db.snapshot("r", version=version) as txn:
                assert txn.kv.get("a") == 1
            info = await db.info()
            assert (info.durability, info.history) == ("memory", 60.0)

    run_loop(main())


@pytest.mark.parametrize("options", [{"histroy": 60}, {"path": "again"}])
def test_an_unknown_option_is_refused_at_the_call(store: Path, options: dict[str, object]) -> None:
    """Before anything is made or awaited."""
    with pytest.raises(TypeError):
        aio.open(store, **options)  # type: ignore[arg-type]
    assert not store.exists()


@pytest.mark.long
def test_a_forked_child_uses_it_in_a_loop_of_its_own(store: Path, run_loop: Run) -> None:
    """It attaches by itself, holds nothing of what its parent holds, and the parent goes on in its loop."""

    async def child(db: aio.Database) -> None:
        assert await aio.KVStore(db).increment("r", "n") == 2
        with pytest.raises(shoal.LeaseHeldError):
            await db.lease("r", "of the parent")
        await db.close()

    async def main() -> None:
        async with aio.open(store, linger=0.2) as db, db.lease("r", "of the parent"):
            kv = aio.KVStore(db)
            await kv.increment("r", "n")
            assert run_in_child(lambda: run_loop(child(db))) == 0
            assert await kv.increment("r", "n") == 3

    run_loop(main())

"""``shoal.aio`` has the classes, names, signatures and texts of ``shoal``, and type checkers know."""

from __future__ import annotations

import ast
import asyncio
import inspect
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import aio
from shoal.aio import faces
from tests.support import aio_stub

_PROGRAM = """
import asyncio

import shoal
from shoal import aio


async def main() -> int:
    async with await aio.open("fleet.db", durability="memory") as db:
        kv = aio.KVStore(db, namespace=aio.Namespace(tenant="t"))
        await kv.put("run-1", "status", "running", ttl=3.0)
        names: list[str] = await kv.list("run-1")
        async with db.transaction("run-1") as txn:
            sequence: int = txn.events.append("e", 1).sequence
        version: int = txn.version
        async with db.lease("run-1", "leader", wait=None) as lease:
            total: int = await db.transact("run-1", lambda txn: txn.kv.increment("n"), fence=lease)
        taken: aio.Lease = await db.lease("run-1", "leader")
        await taken.release()
        async with db.snapshot("run-1") as view:
            view.kv.get("status")
        async for event in aio.EventLog(db).follow("run-1", timeout=1.0):
            found: shoal.Event = event
        state = await aio.StateCell(db).wait("run-1", "cell", 0)
        runs: list[aio.RunMetadata] = await aio.RunIndex(db).query_runs()
        await asyncio.gather(kv.put("run-1", "a", 1), kv.put("run-1", "b", 2))
        return len(names) + sequence + version + total + len(runs) + (state.version if state else 0)
"""


def test_each_class_has_a_face() -> None:
    """Every public class whose calls may wait has an asynchronous one of the same name, texts and signatures."""
    for sync, face in faces._FACES.items():
        assert getattr(aio, face.__name__) is face
        assert (face.__module__, face.__doc__, face.__qualname__) == ("shoal.aio", sync.__doc__, sync.__qualname__)
        for name, member in inspect.getmembers(sync, inspect.isfunction):
            if not name.startswith("_") and name != "pipeline":
                made = getattr(face, name)
                assert made.__doc__ == member.__doc__
                assert inspect.signature(made) == inspect.signature(member)
    waiting: set[type] = {
        shoal.Lease,
        shoal.Consumer,
        shoal.Database,
        shoal.KVStore,
        shoal.EventLog,
        shoal.StateCell,
        shoal.TraceStore,
    }
    assert (
        waiting | {shoal.RunIndex, shoal.TaskQueue, shoal.Task, shoal.Budget, shoal.Reservation} <= faces._FACES.keys()
    )
    others = {"Pipeline", "WorkerPool", "current_database"}
    assert set(aio.__all__) == set(shoal.__all__) - others
    assert all(hasattr(aio, name) for name in aio.__all__)
    assert aio.open.__doc__ == shoal.open.__doc__
    assert inspect.signature(aio.open) == inspect.signature(shoal.open)


def test_nothing_that_waits_is_left_without_a_face() -> None:
    """Classes of ``shoal`` that are facades, or are entered and keep what is held, have one."""
    kept = {"Transaction", "Pipeline", "WorkerPool"}
    for name in set(shoal.__all__) - kept:
        public = getattr(shoal, name)
        if isinstance(public, type) and (hasattr(public, "__enter__") or hasattr(public, "_bind")):
            assert public in faces._FACES, f"add {name} to shoal/aio/__init__.py"


def test_the_stub_is_of_these_classes() -> None:
    """``python -m tests.support.aio_stub`` writes it anew."""
    assert ast.dump(ast.parse(aio_stub.STUB.read_text())) == ast.dump(ast.parse(aio_stub.stub()))


@pytest.mark.uncompiled
@pytest.mark.long
@pytest.mark.plain
def test_programs_are_type_checked(tmp_path: Path) -> None:
    """Mypy, strict, accepts a program that uses every kind of call, and refuses one that forgets to await."""
    pytest.importorskip("mypy")
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(_PROGRAM)
    bad.write_text(_PROGRAM.replace("= await kv.list", "= kv.list"))
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")]
    checked = subprocess.run([*command, str(good)], capture_output=True, text=True, timeout=300)
    assert checked.returncode == 0, checked.stdout
    checked = subprocess.run([*command, str(bad)], capture_output=True, text=True, timeout=300)
    assert "Incompatible types in assignment" in checked.stdout


@pytest.mark.long
def test_bad_arguments(store: Path) -> None:
    """They are refused as by the synchronous classes; a database of the other kind is a TypeError."""

    async def main() -> None:
        with pytest.raises(shoal.ConfigurationError):
            await aio.open(store, durability="no")
        async with aio.open(store, linger=0.2) as db:
            untyped: Any = db
            assert repr(db) == f"<shoal.aio.Database {str(store)!r}>"
            with pytest.raises(TypeError, match=r"what shoal\.aio\.open returns"):
                aio.KVStore(untyped._sync)
            for facade in (shoal.KVStore, shoal.TaskQueue, shoal.RunIndex):
                with pytest.raises(TypeError, match=r"Database of shoal\.aio; give what shoal\.open returns"):
                    facade(untyped)
            with pytest.raises(ValueError, match="run_id"):
                await aio.KVStore(db).put("", "a", 1)
            with pytest.raises(TypeError, match="fn"):
                await untyped.transact("r", main)
            with pytest.raises(AttributeError, match=r"asyncio\.gather"):
                untyped.pipeline  # noqa: B018
            again: Any = pickle.loads(pickle.dumps(db))
            await aio.KVStore(again).put("r", "a", 1)
            await again.close()
            assert await aio.KVStore(db).get("r", "a") == 1
            assert await aio.EventLog(db).verify_chain("r") == aio.EventLog.verify([])

    asyncio.run(main())


@pytest.mark.long
def test_greenlet_is_asked_for() -> None:
    """Without the package greenlet, importing says what to install."""
    program = "import sys; sys.modules['greenlet'] = None\ntry: import shoal.aio\nexcept ImportError as e: print(e)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "install shoal[asyncio]" in ran.stdout, ran.stderr

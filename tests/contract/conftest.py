"""Each engine with all the primitives over it; that in shared memory also through the asynchronous face."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import shoal
from shoal import aio
from tests.support.aio_driver import FACADES, Driven, LoopThread, facade

from .toy_engine import ToyStore
from .toy_fleet import ToyFleetStore


@pytest.fixture(scope="session")
def toy_db() -> Iterator[shoal.Database]:
    """A database over a dict that has what the five primitives need. Tests of fleets replace it by ``toy_fleet_db``."""
    store: Any = ToyStore()
    with shoal.Database(store) as database:
        yield database


@pytest.fixture(scope="session")
def toy_fleet_db() -> Iterator[shoal.Database]:
    """A database over a dict that also has what fleets need."""
    store: Any = ToyFleetStore()
    with shoal.Database(store) as database:
        yield database


# What is another thing for the asynchronous face.
_ONLY_SYNCHRONOUS = {
    "test_a_reservation_stays_in_its_process": "a forked child has no event loop",
    "test_bad_arguments_of_once": "a coroutine function is no bad one",
}


@pytest.fixture(scope="session")
def driven_db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The asynchronous face of a database, driven by a thread."""
    loop = LoopThread()
    try:
        with Driven(loop, loop.run(aio.open, tmp_path_factory.mktemp("driven") / "store", durability="memory")) as db:
            yield db
    finally:
        loop.close()


@pytest.fixture(params=["shared memory", "dict", "asyncio"])
def any_db(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> shoal.Database:
    """A database over each engine; ``run`` keeps tests apart."""
    fixture = {"shared memory": "memory_db", "dict": "toy_db", "asyncio": "driven_db"}[request.param]
    found: shoal.Database = request.getfixturevalue(fixture)
    if request.param == "asyncio":
        if request.node.originalname in _ONLY_SYNCHRONOUS:
            pytest.skip(_ONLY_SYNCHRONOUS[request.node.originalname])
        for name in FACADES:
            monkeypatch.setattr(shoal, name, facade(name))
    return found


@pytest.fixture
def space(run: str) -> shoal.Namespace:
    """A namespace no other test uses."""
    return shoal.Namespace(tenant=run)


@pytest.fixture
def store(any_db: shoal.Database) -> Any:
    return any_db._store


@pytest.fixture
def prefix(run: str) -> bytes:
    """Keys below it belong to one test."""
    return b"\x01c" + run.encode() + b"/"


def contents(engine: Any, prefix: bytes) -> dict[bytes, bytes]:
    return {key[len(prefix) :]: found.value for key, found in engine.scan(prefix, prefix + b"\xff")}

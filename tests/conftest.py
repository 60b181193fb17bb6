"""Fixtures shared by all tests: a store's path, an opened store, and a watch for coordinators left behind."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

import shoal
from shoal.shm.compilation import is_compiled
from tests.support.coordinators import command_of, coordinators_below, is_alive
from tests.support.primitives.event_logs import filled, log  # noqa: F401 (fixtures)
from tests.support.primitives.run_indices import raw_keys, runs, space  # noqa: F401 (fixtures)
from tests.support.repository import stale_extensions

_LEFT_BEHIND_S = 30.0
_numbers = itertools.count()

# Two hundred processes of shoal are started by the tests: half of what each costs would be compiling it anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests that take seconds, too")
    parser.addoption("--slow", action="store_true", help="run the tests that take seconds or minutes, too")


def pytest_configure(config: pytest.Config) -> None:
    """Tests that say nothing else take their number of examples from here, or a part of it."""
    if config.args_source is pytest.Config.ArgsSource.ARGS:  # files or folders are named: the workers are told by this
        config.option.long = True
    hypothesis.settings.register_profile("short", max_examples=60, deadline=None)
    hypothesis.settings.register_profile("long", max_examples=2_000, deadline=None)
    hypothesis.settings.load_profile("long" if config.getoption("--slow") else "short")
    if is_compiled() and (stale := stale_extensions()):
        raise pytest.UsageError(f"compiled before the last change of their files: {stale}; run make compile")


def pytest_xdist_auto_num_workers() -> int:
    """Two for each processor: many tests wait for other processes, and two on two left one processor idle."""
    return 2 * (os.cpu_count() or 1)


def pytest_report_header() -> str:
    """Which form of the hot modules is tested."""
    return f"hot modules: {'compiled' if is_compiled() else 'plain Python'}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what takes seconds or minutes, and on compiled modules what says nothing about them."""
    skipped = {}
    if not config.getoption("--slow"):
        skipped["slow"] = pytest.mark.skip(reason="takes minutes; run with --slow")
        if not config.getoption("--long"):
            skipped["long"] = pytest.mark.skip(reason="takes seconds; run with --long")
    if is_compiled():
        skipped["plain"] = pytest.mark.skip(reason="runs on plain Python; run with SHOAL_DISABLE_EXTENSION=1")
        if not config.getoption("--slow"):
            skipped["uncompiled"] = pytest.mark.skip(reason="of modules that are never compiled; run with --slow")
    for item in items:
        for name in skipped.keys() & item.keywords.keys():
            item.add_marker(skipped[name])


def pytest_collection_finish() -> None:
    """Keep what was imported out of every garbage collection to come, of which tests ask for many."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where a store may be made; nothing is there yet."""
    return tmp_path / "store"


@pytest.fixture
def db(store: Path) -> Iterator[shoal.Database]:
    """A fresh store with every default but a short linger."""
    with shoal.open(store, linger=0.2) as database:
        yield database


@pytest.fixture(scope="session")
def memory_db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[shoal.Database]:
    """One ``memory`` store for all tests that need no store of their own: use ``run`` to stay apart."""
    with shoal.open(tmp_path_factory.mktemp("shared") / "store", durability="memory", linger=0.2) as database:
        yield database


@pytest.fixture
def another(memory_db: shoal.Database) -> Iterator[shoal.Database]:
    """A Database of its own on the shared store, for tests that close or stop one."""
    with shoal.open(memory_db.path) as database:
        yield database


@pytest.fixture
def run() -> str:
    """A run id no other test uses, nor any that begins with it: the dot keeps ``run + "2"`` from being another's id."""
    return f"run-{os.getpid()}-{next(_numbers)}."


@pytest.fixture
def kv(memory_db: shoal.Database) -> shoal.KVStore:
    """A KVStore of the shared store."""
    return shoal.KVStore(memory_db)


@pytest.fixture
def cells(memory_db: shoal.Database) -> shoal.StateCell:
    """A StateCell of the shared store."""
    return shoal.StateCell(memory_db)


@pytest.fixture
def traces(memory_db: shoal.Database) -> shoal.TraceStore:
    """A TraceStore of the shared store."""
    return shoal.TraceStore(memory_db)


@pytest.fixture
def wait_for_end() -> Callable[[int], None]:
    """Call it with the pid of a coordinator whose clients are gone: returns when the process has ended."""

    def wait(pid: int) -> None:
        deadline = time.monotonic() + 20
        while is_alive(pid):
            assert time.monotonic() < deadline, f"coordinator {pid} did not end after its last client"
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session", autouse=True)
def no_coordinator_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every coordinator of a test's store ends once its clients are gone: none outlives the tests."""
    base = tmp_path_factory.getbasetemp()
    yield
    if not base.exists():
        return
    gc.collect()
    deadline = time.monotonic() + _LEFT_BEHIND_S
    while (left := coordinators_below(base)) and time.monotonic() < deadline:
        time.sleep(0.05)
    commands = {pid: command_of(pid) for pid in left}  # they name the test
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, f"coordinators left behind {_LEFT_BEHIND_S} s after the last test: {commands}"

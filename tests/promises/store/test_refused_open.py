"""An ``open`` that raises leaves everything as it was: byte for byte, and nothing new."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.cli.main import main as command
from shoal.shm.files import epoch_file, store_files
from shoal.shm.host.child_python import python_environment
from shoal.shm.limits import MIN_STORE_BYTES
from tests.support.at_rest import ended, looks
from tests.support.slow import slow

RUN = "run"
NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root: only root can become another user")


def make(path: Path, *, kill: bool = False, **options: Any) -> Path:
    """A store at rest that holds 10 MB."""
    with shoal.open(path, max_bytes=64 << 20, linger=0, **options) as db:
        kv = shoal.KVStore(db)
        for i in range(50):
            kv.put(RUN, f"k{i}", os.urandom(200_000))
        pid = db.info().coordinator_pid
        if kill:
            os.kill(pid, signal.SIGKILL)
    ended(pid)
    return path


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that was closed in order; not to be opened."""
    return make(tmp_path_factory.mktemp("closed") / "store")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose coordinator was killed; not to be opened."""
    return make(tmp_path_factory.mktemp("killed") / "store", kill=True)


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory, closed: Path) -> Path:
    """A backup, which was never served; not to be opened."""
    path = tmp_path_factory.mktemp("backup")
    shutil.copytree(closed, path / "source")
    with shoal.open(path / "source", linger=0) as db:
        db.backup(path / "store")
    return path / "store"


@pytest.fixture(params=["killed", *slow("closed", "backup")])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of each of them, to be opened."""
    source = request.getfixturevalue(request.param)
    target = tmp_path / "store"
    shutil.copytree(source, target, ignore=lambda _, names: [name for name in names if name.endswith(".sock")])
    return target


def _opens(path: Path) -> int:
    with shoal.open(path, linger=0) as db:
        assert db.info().durability == "buffered"
        assert db.check() == []
        return len(shoal.KVStore(db).list(RUN))


def _damage(path: Path) -> None:
    name = max((entry for entry in path.iterdir() if entry.name.startswith(("wal-", "ckpt", "checkpoint-"))), key=_used)
    data = bytearray(name.read_bytes())
    data[1000] ^= 1
    name.write_bytes(data)


def _used(path: Path) -> int:
    return len(path.read_bytes().rstrip(b"\0"))


REFUSALS: dict[str, tuple[dict[str, Any], type[BaseException]]] = {
    "too small": ({"max_bytes": MIN_STORE_BYTES}, shoal.StoreFullError),
    "too small, in another durability": ({"max_bytes": MIN_STORE_BYTES, "durability": "strict"}, shoal.StoreFullError),
    "below what any store takes": ({"max_bytes": MIN_STORE_BYTES - 1}, shoal.ConfigurationError),
    "no durability": ({"durability": "durable"}, shoal.ConfigurationError),
    "no number": ({"max_bytes": "1"}, TypeError),
}


def _refusals() -> Iterator[Any]:
    """Every refusal, of each kind of store; by default each refusal once, of each kind in turns, and one read-only."""
    kinds = ["closed", "killed", "backup"]
    for n, (read_only, why) in enumerate(itertools.product([False, True], REFUSALS)):
        for kind in kinds:
            is_first = kind == kinds[n % len(kinds)] and (not read_only or why == "too small")
            marks = [] if is_first else [pytest.mark.slow]
            yield pytest.param(kind, why, read_only, marks=marks)


@pytest.mark.long
@pytest.mark.parametrize(("store", "why", "read_only"), list(_refusals()), indirect=["store"])
def test_store_stays_as_it_was(store: Path, why: str, read_only: bool) -> None:
    """Whatever it is refused for; and it opens afterwards as if nothing had happened."""
    options, kind = REFUSALS[why]
    before = looks(store)
    with pytest.raises(shoal.ConfigurationError if read_only and "in another" in why else kind):
        shoal.open(store, linger=0, read_only=read_only, **options)
    assert looks(store) == before
    assert _opens(store) == 50


@pytest.mark.long
def test_damaged_store_stays_as_it_was(store: Path) -> None:
    """Damage is told, and nothing is done to it."""
    _damage(store)
    before = looks(store)
    for options in ({}, {"durability": "strict"}, {"max_bytes": 32 << 20}, {"read_only": True}):
        with pytest.raises(shoal.CorruptionError):
            shoal.open(store, linger=0, **options)
        assert looks(store) == before


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", shoal.CorruptionError),
        (b"{", shoal.CorruptionError),
        (b'{"format": 99}', shoal.ConfigurationError),
        (b'{"format": 2, "durability": "buffered"}', shoal.CorruptionError),
    ],
)
def test_strange_store_json(store: Path, content: bytes, error: type[Exception]) -> None:
    """A store.json that shoal did not write is damage; one of an unknown format needs another shoal."""
    (store / store_files.META_FILE).write_bytes(content)
    before = looks(store)
    for read_only in (False, True):
        with pytest.raises(error):
            shoal.open(store, linger=0, read_only=read_only)
        assert looks(store) == before


def test_last_generation(store: Path) -> None:
    """An epoch that cannot be raised is found before a log file is made."""
    (store / epoch_file.EPOCH_FILE).write_bytes(b"\xff" * 8 + bytes(4088))
    before = looks(store)
    with pytest.raises(shoal.CorruptionError, match="epoch"):
        shoal.open(store, linger=0, durability="strict")
    assert looks(store) == before


@pytest.mark.parametrize("why", ["below what any store takes", "no durability", "no number"])
def test_new_store_is_not_made(tmp_path: Path, why: str) -> None:
    """Not even its directory, nor those above it."""
    options, kind = REFUSALS[why]
    with pytest.raises(kind):
        shoal.open(tmp_path / "a" / "b" / "store", **options)
    assert list(tmp_path.iterdir()) == []


def test_read_only_makes_nothing(tmp_path: Path) -> None:
    """Where there is no store there is none afterwards."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no store")
    before = looks(tmp_path)
    for name in ("missing", "a/b/missing", "empty", "file", "file/store"):
        with pytest.raises(shoal.NotFoundError, match=name):
            shoal.open(tmp_path / name, read_only=True)
        for command_name in ("info", "runs", "check", "export"):
            assert command([command_name, str(tmp_path / name)]) == 1
    assert looks(tmp_path) == before


def _with_small_files(path: Path, limit: int, **options: Any) -> str:
    """Open in a process whose files, and whose coordinator's, end at ``limit``: what it raises."""

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    code = (
        "import shoal, sys\n"
        f"try:\n    shoal.open({str(path)!r}, linger=0, **{options!r}).close()\n"
        "except shoal.ShoalError as error:\n    print(type(error).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        preexec_fn=small,
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.long
@pytest.mark.parametrize("limit", [3 << 20, *slow(70 << 20)])
def test_no_room_for_the_log(store: Path, tmp_path: Path, limit: int) -> None:
    """The first log file, or the memory, cannot be had: neither an old store nor a new path shows that it was tried."""
    before = looks(store)
    options = {"durability": "strict", "max_bytes": 80 << 20}
    assert _with_small_files(store, limit, **options) == "ConfigurationError"
    assert looks(store) == before
    assert _with_small_files(tmp_path / "a" / "new", limit, **options) == "ConfigurationError"
    assert not (tmp_path / "a").exists()
    assert _opens(store) == 50


def _with_few_descriptors(path: Path, limit: int, **options: Any) -> str:
    """What ``open`` says in a process, and to a coordinator that it starts, that may have so few descriptors."""
    opening = f"shoal.open({str(path)!r}, **{options!r})"
    code = f"import shoal, shoal.at_rest\ntry:\n    {opening}\nexcept shoal.ShoalError as error:\n    print(error)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=python_environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.parametrize("limit", [8, *slow(12), 20])
def test_too_few_descriptors(tmp_path: Path, limit: int) -> None:
    """Whatever cannot be opened first, the message names the limit and what raises it."""
    said = _with_few_descriptors(tmp_path / "store", limit)
    assert f"may have {limit} descriptors" in said
    assert "raise `ulimit -n`" in said
    assert not said.startswith(". ")


@pytest.mark.long
@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("is_served", [False, True])
def test_too_few_descriptors_for_a_client(store: Path, read_only: bool, is_served: bool) -> None:
    """They are named also where no coordinator is started: it serves already, or a store at rest is read."""
    with shoal.open(store, linger=0) if is_served else contextlib.nullcontext():
        said = _with_few_descriptors(store, 7, read_only=read_only)
    assert "may have 7 descriptors" in said
    assert "raise `ulimit -n`" in said


def _as_nobody(path: Path, **options: Any) -> str:
    """Open as another user: what it raises or finds."""
    code = (
        "import codecs, os, shoal, shoal.at_rest\ncodecs.lookup('ascii')\n"
        f"os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "try:\n"
        f"    with shoal.open({str(path)!r}, timeout=5, linger=0, **{options!r}) as db:\n"
        f"        print(len(shoal.KVStore(db).list({RUN!r})))\n"
        "except shoal.ShoalError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose path a socket address can hold, which any user may enter."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.mark.long
@as_root
def test_another_users_store(store: Path, short: Path) -> None:
    """Nobody else can open it, and it stays as it was; who may read its files can read it."""
    store = Path(shutil.move(store, short / "store"))
    before = looks(store)
    for read_only in (False, True):
        said = _as_nobody(store, read_only=read_only)
        assert said.startswith("ConfigurationError")
        assert str(store) in said
        assert looks(store) == before
    store.chmod(0o755)
    for entry in store.iterdir():
        entry.chmod(0o644)
    before = looks(store)
    assert "read_only=True" in _as_nobody(store)
    assert looks(store) == before
    assert _as_nobody(store, read_only=True) == "50"
    assert looks(store) == before
    assert "give another path" in _as_nobody(short / "new" / "store")  # nothing is there to be read
    assert not (short / "new").exists()


@pytest.mark.long
def test_wrong_options_while_it_is_served(tmp_path: Path) -> None:
    """Whoever is refused changes nothing for those inside, or for the next."""
    path = tmp_path / "store"
    refused: list[Callable[[], object]] = [
        lambda: shoal.open(path, durability="memory"),
        lambda: shoal.open(path, max_bytes=9 << 20),
        lambda: shoal.open(path, durability="memory", read_only=True),
        lambda: shoal.open(path, max_bytes=9 << 20, read_only=True),
    ]
    with shoal.open(path, durability="strict", max_bytes=16 << 20, linger=0) as db:
        shoal.KVStore(db).put(RUN, "k", 1)
        meta = (path / store_files.META_FILE).read_bytes()
        names = sorted(entry.name for entry in path.iterdir())
        for attempt in refused:
            with pytest.raises(shoal.ConfigurationError):
                attempt()
        assert (path / store_files.META_FILE).read_bytes() == meta
        assert sorted(entry.name for entry in path.iterdir()) == names
        pid = db.info().coordinator_pid
    ended(pid)
    with shoal.open(path, linger=0) as db:
        assert db.info().durability == "strict"

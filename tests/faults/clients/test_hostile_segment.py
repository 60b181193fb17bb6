"""What a worker may not do to the memory it is given, and that nothing in a store is ever unpickled."""

from __future__ import annotations

import ast
import ctypes
import errno
import fcntl
import functools
import mmap
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.shm.memory.segment import Segment
from shoal.shm.memory.snapshots import new_page
from tests.support.raw_client import attach
from tests.support.repository import ROOT
from tests.support.shared_memory import store_of

NOBODY = 65534
PROT_READ, PROT_WRITE, MAP_SHARED, PUNCH = 1, 2, 1, 0x03
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p


def call(name: str, *arguments: object) -> int:
    """A system call that raises OSError."""
    found: int = getattr(_libc, name)(*arguments)
    if found in (-1, ctypes.c_void_p(-1).value):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return found


@pytest.fixture
def segment_fd(memory_db: shoal.Database) -> Iterator[int]:
    """The descriptor of the segment as a worker receives it."""
    welcome = attach(memory_db)
    yield welcome.segment_fd
    for fd in welcome.descriptors:
        os.close(fd)
    assert memory_db.check() == []


def _mapped(fd: int, protection: int) -> int:
    return call("mmap", None, ctypes.c_size_t(4096), protection, MAP_SHARED, fd, ctypes.c_int64(0))


# What may be tried with the descriptor, and the errors that say no.
ATTEMPTS: dict[str, Callable[[int], object]] = {
    "write": lambda fd: os.pwrite(fd, b"x", 0),
    "map for writing": lambda fd: _mapped(fd, PROT_READ | PROT_WRITE),
    "map for reading, then allow writing": lambda fd: call(
        "mprotect", ctypes.c_void_p(_mapped(fd, PROT_READ)), ctypes.c_size_t(4096), PROT_READ | PROT_WRITE
    ),
    "cut": lambda fd: os.ftruncate(fd, 0),
    "grow": lambda fd: os.ftruncate(fd, 1 << 40),
    "punch a hole": lambda fd: call("fallocate", fd, PUNCH, ctypes.c_int64(0), ctypes.c_int64(4096)),
    "seal": lambda fd: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
    "append": lambda fd: (fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND | os.O_RDWR), os.write(fd, b"x")),
    "copy into": lambda fd: os.sendfile(fd, fd, 0, 10),
}
REFUSED = {errno.EBADF, errno.EACCES, errno.EPERM, errno.EINVAL, errno.EROFS}


@pytest.mark.long
@pytest.mark.parametrize("what", ATTEMPTS)
def test_a_worker_cannot_write_the_segment(segment_fd: int, what: str) -> None:
    """Whatever is done with the descriptor it was given, or with a mapping of it, is refused by the kernel."""
    with pytest.raises(OSError, match=r".") as caught:
        ATTEMPTS[what](segment_fd)
    assert caught.value.errno in REFUSED


def test_attempts_would_succeed_on_other_memory(tmp_path: Path) -> None:
    """The attempts are real: on a file opened for writing they all do what they say."""
    for what, attempt in ATTEMPTS.items():
        fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 1 << 20)
        try:
            if what != "seal":  # of files in memory only
                attempt(fd)
        finally:
            os.close(fd)


def test_seals(memory_db: shoal.Database) -> None:
    """Neither side can change the size of the segment or of a page of slots: no mapping of them ever faults."""
    segment = Segment.create(8 << 20, 1)
    page = new_page()
    wanted = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    try:
        for fd in (segment._fd, page):
            assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & wanted == wanted
            for size in (0, 1 << 30):
                with pytest.raises(PermissionError):
                    os.ftruncate(fd, size)
    finally:
        segment.close_descriptor()
        os.close(page)


def _as_nobody(attempt: Callable[[], object]) -> int:
    """What a forked child of another, unprivileged user says of ``attempt``: 0 done, else the number of the error."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            attempt()
            code = 0
        except OSError as error:
            code = error.errno or 254
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.skipif(os.getuid() != 0, reason="needs root: only root can become an unprivileged user")
def test_opening_it_anew_does_not_help() -> None:
    """The segment is a file of mode 0400: not even its own user opens ``/proc/self/fd`` of it for writing by mistake.

    On purpose it can change the mode, as it can stop the coordinator or write the log: processes of one user trust each
    other. Root is bound by no mode.
    """

    def reopen() -> None:
        segment = Segment.create(8 << 20, 1)
        assert segment.words[0]
        os.open(f"/proc/self/fd/{segment.read_only_fd()}", os.O_RDWR)

    assert _as_nobody(reopen) == errno.EACCES


class TestMappedMemory:
    """What this process has mapped of it."""

    def test_is_for_reading(self, memory_db: shoal.Database) -> None:
        """A wild write through any of shoal's own views of it is an exception here, not damage there."""
        reader = store_of(memory_db).connection.attachment.reader
        segment = store_of(memory_db).connection.attachment.segment
        for view in (segment.mm, reader._mm):
            with pytest.raises(TypeError):
                view[0:1] = b"x"
        for words in (segment.words, reader.words):
            with pytest.raises(TypeError):
                words[3] = 7
        assert memory_db.check() == []

    def test_by_the_kernel_too(self, memory_db: shoal.Database) -> None:
        """The kernel's own list of mappings says the same."""
        assert _permissions_at(_address_of(store_of(memory_db).connection.attachment.segment.mm)) == "r--s"


def _address_of(mm: mmap.mmap) -> int:
    info = _PyBuffer()  # of a read-only buffer ctypes has no view of its own
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(mm), ctypes.byref(info), 0)
    try:
        return int(info.buf)
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(info))


class _PyBuffer(ctypes.Structure):
    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("rest", ctypes.c_char * 128),
    )


def _permissions_at(address: int) -> str:
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, permissions, *_ = line.split()
        start, end = (int(bound, 16) for bound in bounds.split("-"))
        if start <= address < end:
            return permissions
    raise AssertionError("nothing is mapped there")


PRODUCT = sorted(
    [path for folder in ("shm", "coordinator", "workers", "primitives") for path in (ROOT / folder).rglob("*.py")]
    + list((ROOT / "shoal").glob("*.py"))
)
MAKES_OBJECTS = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "copyreg"}
PICKLERS = {"workers/pool/outcome.py", "workers/pool/worker.py", "shoal/worker_pool.py"}
POOL = {
    "workers/pool/fork_template.py",
    "workers/pool/helper_processes.py",
    "workers/pool/life.py",
} | {
    "workers/pool/worker_process.py",
    *PICKLERS,
}
SEND_BYTES = {
    "worker.channel.send",
    "self._requests.send",
    "self._theirs.send",
    "self._requests.recv",
}  # a socket's, not a connection's of multiprocessing


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.plain
class TestNoPickle:
    """Values are msgpack. Only the pool pickles: functions and results, over pipes of its own making."""

    def users(self, names: set[str]) -> set[str]:
        found = set()
        for path in PRODUCT:
            for node in ast.walk(tree_of(path)):
                imported = []
                if isinstance(node, ast.Import):
                    imported = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    imported = [node.module or ""]
                if names & {name.split(".")[0] for name in imported}:
                    found.add(str(path.relative_to(ROOT)))
        return found

    def calls(self, path: Path) -> set[str]:
        """What is called in a file, as ``pickle.loads`` or ``eval``."""
        return {ast.unparse(node.func) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)}

    @pytest.mark.long
    def test_only_the_pool_imports_it(self) -> None:
        """Nor anything else that makes objects of bytes; multiprocessing, whose ``recv`` unpickles, likewise."""
        assert self.users(MAKES_OBJECTS) == PICKLERS
        assert self.users({"multiprocessing"}) == POOL

    @pytest.mark.long
    def test_nothing_evaluates_what_it_reads(self) -> None:
        """No eval, exec, compile, yaml; and no hook where values are decoded that could make other objects of them."""
        for path in PRODUCT:
            called = self.calls(path)
            assert not called & {"eval", "exec", "compile", "__import__", "yaml.load"}, path
            assert "ext_hook=" not in path.read_text(encoding="utf-8"), path
        assert "hook" not in (ROOT / "shm" / "codec.py").read_text(encoding="utf-8")

    def test_the_pool_unpickles_from_its_own_pipes_only(self) -> None:
        """Every ``loads`` there is of what came through its channel, or of what the pool started its worker with."""
        for name in POOL:
            called = self.calls(ROOT / name)
            doubtful = {call for call in called if call.endswith((".recv", ".send", "open", "Client", "Listener"))}
            assert doubtful <= SEND_BYTES | {"os.open", "os.pidfd_open", "process._Popen"}, name
        sources = set()
        for name in POOL:
            for node in ast.walk(tree_of(ROOT / name)):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("pickle.loads", "ForkingPickler.loads"):
                    sources.add((name, ast.unparse(node.args[0])))
        assert sources == {
            ("workers/pool/outcome.py", "body"),
            ("workers/pool/outcome.py", "raw"),
            ("workers/pool/worker.py", "_recipe"),
            ("workers/pool/worker.py", "database"),
            ("workers/pool/worker.py", "raw"),
        }

    def test_a_pickle_in_a_store_stays_bytes(self, memory_db: shoal.Database, run: str) -> None:
        """Put where values, records or messages are, it is data or refused; it never runs."""
        bomb = pickle.dumps(_Bomb())
        kv = shoal.KVStore(memory_db)
        kv.put(run, "bomb", bomb)
        assert kv.get(run, "bomb") == bomb
        engine = memory_db._store.auto_commit
        prefix = shoal.Namespace()._run_prefix(run)
        for tag in (b"\1", b"\3"):
            engine.put(prefix + tag + b"raw", bomb)
        for read in (lambda: kv.get(run, "raw"), lambda: shoal.StateCell(memory_db).read(run, "raw")):
            with pytest.raises(shoal.CorruptionError):
                read()
        assert _Bomb.went_off == 0
        with pytest.raises(AssertionError, match="went off"):
            pickle.loads(bomb)  # it is one
        memory_db._store.auto_commit.clear(prefix, prefix + b"\xff")


class _Bomb:
    went_off = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _go_off, ()


def _go_off() -> None:
    raise AssertionError(f"went off in {sys.argv[0]}")

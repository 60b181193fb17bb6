"""Programs that replace parts of the standard library, as ``gevent`` and ``eventlet`` do when they are told to."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import shoal
from tests.support.slow import slow
from tests.support.workers.crash_workers import DEADLINE_S

_GEVENT = "from gevent import monkey; monkey.patch_all()"
_EVENTLET = "import eventlet; eventlet.monkey_patch()"
_REMOVED = """
import _thread, os, queue, select, socket, subprocess, time
for name in ("poll", "epoll", "kqueue", "devpoll"):
    if hasattr(select, name):
        delattr(select, name)
def refuse(*_arguments, **_options):
    raise RuntimeError("replaced")
for module, names in {
    time: ["sleep"], queue: ["SimpleQueue"],
    socket: ["socket"], _thread: ["start_new_thread"], subprocess: ["Popen"],
    os: ["fork", "posix_spawn", "waitpid", "read", "write"],
}.items():
    for name in names:
        setattr(module, name, refuse)
"""

_WORK = """
import os, sys
import shoal
db = shoal.open(sys.argv[1], linger=0.2)
kv = shoal.KVStore(db)
def work(i):
    kv.put("run", f"key {i}", i)
    assert kv.get("run", f"key {i}") == i
    db.transact("run", lambda txn: txn.kv.put("sum", txn.kv.get("sum", 0) + i))
    with db.snapshot("run") as view:
        assert view.kv.get(f"key {i}") == i
def wait(i):
    assert shoal.StateCell(db).wait("run", f"cell {i}", 0, timeout=20).value == i
def tell(i):
    shoal.StateCell(db).set("run", f"cell {i}", i)
for i in range(5):
    work(i)
"""
_WAITING_TASKS = {
    _GEVENT: "gevent.joinall([gevent.spawn(f, i) for f in (wait, tell) for i in range(5)], raise_error=True)",
    _EVENTLET: "[thread.wait() for thread in [eventlet.spawn(f, i) for f in (wait, tell) for i in range(5)]]",
    _REMOVED: "tell(0); wait(0)",
}
_END = """
os.kill(db.info().coordinator_pid, 9)
work(5)
assert db.check() == []
assert shoal.EventLog(db).append("run", "type", 1).sequence == 0
db.close()
"""
_TASKS = {
    _GEVENT: "import gevent; gevent.joinall([gevent.spawn(work, i) for i in range(6, 20)], raise_error=True)",
    _EVENTLET: "[thread.wait() for thread in [eventlet.spawn(work, i) for i in range(6, 20)]]",
    _REMOVED: "",
}


@pytest.mark.long
@pytest.mark.parametrize(
    ("patch", "first"),
    [
        *((_GEVENT, "patch"), (_EVENTLET, "shoal"), (_REMOVED, "patch")),
        *slow((_GEVENT, "shoal"), (_EVENTLET, "patch"), (_REMOVED, "shoal")),
    ],
    ids=lambda value: {_GEVENT: "gevent", _EVENTLET: "eventlet", _REMOVED: "refused"}.get(value, value),
)
def test_shoal_works_in_a_patched_program(store: Path, patch: str, first: str) -> None:
    """Opening, commits, reads, take-over and closing, in a program patched before its import of shoal or after."""
    package = {_GEVENT: "gevent", _EVENTLET: "eventlet"}.get(patch)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    begin = f"import shoal\n{patch}" if first == "shoal" else patch
    program = "\n".join([begin, _WORK, _TASKS[patch], _WAITING_TASKS[patch], _END])
    done = subprocess.run(
        [sys.executable, "-c", program, str(store)], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 0, done.stderr
    with shoal.open(store, linger=0.05) as db:
        assert shoal.KVStore(db).get("run", "key 5") == 5
        assert db.check() == []


# As in a program with tasks in place of threads: those that another thread starts end with that thread's own loop.
_TASKS_FOR_THREADS = """
import _thread, threading
own, start = _thread.get_ident(), threading.Thread.start
class Lock:
    def __init__(self):
        self._lock = _thread.RLock()
    def __getattr__(self, name):
        return getattr(self._lock, name)
    def __enter__(self):
        return self._lock.__enter__()
    def __exit__(self, *error):
        self._lock.release()
def start_here(thread):
    if _thread.get_ident() != own:
        raise RuntimeError("this thread has no loop that would run it")
    start(thread)
threading.RLock, threading.Thread.start = Lock, start_here
"""
_POOL = """
import sys
import shoal
with shoal.WorkerPool(sys.argv[1], 2, durability="memory", linger=0.2, mp_context=sys.argv[2]) as pool:
    assert pool.submit(len, "abc").result(60) == 3
    assert list(pool.map(abs, range(-9, 0))) == list(range(9, 0, -1))
"""


@pytest.mark.long
@pytest.mark.uncompiled
@pytest.mark.parametrize("method", ["forkserver", "fork"])
@pytest.mark.parametrize("patch", [_GEVENT, _TASKS_FOR_THREADS], ids=["gevent", "own"])
def test_a_pool_in_a_patched_program(store: Path, patch: str, method: str) -> None:
    """Supervisors are started where the program's own tasks run: each task is done, and the pool ends."""
    if patch is _GEVENT and importlib.util.find_spec("gevent") is None:
        pytest.skip("gevent is not installed")
    command = [sys.executable, "-c", patch + _POOL, str(store), method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr

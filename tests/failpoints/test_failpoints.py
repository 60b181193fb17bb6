"""kill -9 at named places of a commit, a checkpoint, recovery, take-over and close: no promise is ever broken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.shm.files import checkpoint
from tests.support.repository import ROOT
from tests.support.shared_memory import store_of

pytestmark = pytest.mark.plain


def _failpoints(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The program as people run it; it is a process of its own because it adopts all orphans."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.failpoints", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    print(done.stdout, done.stderr)
    return done


@pytest.mark.long
def test_killed_at_a_few_failpoints() -> None:
    """A coordinator killed before it answers, a client with half a request sent: all acknowledged is there once."""
    chosen = ["commit: published, not answered", "client: half of the request written"]
    arguments = [part for text in chosen for part in ("--failpoint", text)]
    done = _failpoints(*arguments, "--passages", "1", "--durability", "strict")
    assert done.returncode == 0
    assert "2 kills in 2 runs, 0 broke a promise" in done.stdout


@pytest.mark.slow
def test_killed_at_every_failpoint() -> None:
    """At each failpoint's first four passages, in both durabilities, a helper also together with its coordinator."""
    assert _failpoints("--jobs", "2").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutant", "failpoint", "noticed"),
    [
        ("answer_before_log", "commit: answered", "is there 0 times"),
        ("forget_outcomes", "commit: published, not answered", "is there 2 times"),
        ("remove_log_before_checkpoint", "checkpoint: before the rename", "CorruptionError"),
        ("drop_last_record", "commit: answered", "the store could not be looked at afterwards"),
    ],
)
def test_a_mutant_is_noticed(mutant: str, failpoint: str, noticed: str) -> None:
    """With a mutant, the program finds promises broken."""
    done = _failpoints("--failpoint", failpoint, "--mutant", mutant)
    assert done.returncode == 1
    assert noticed in done.stdout


def _helper(store: Path, db: shoal.Database, owner: Any, name: str, when: Callable[[], None]) -> int:
    """A process that writes a checkpoint as a helper does and calls ``when`` after it has called ``owner.name``."""
    pid = os.fork()
    if pid:
        return pid
    try:
        sound = getattr(owner, name)

        def call(*arguments: Any) -> Any:
            result = sound(*arguments)
            when()
            return result

        setattr(owner, name, call)
        reader = store_of(db).connection.attachment.reader
        checkpoint.write_checkpoint(store, reader, db.info().commit_version, [])
    finally:
        os._exit(1)


@pytest.mark.long
def test_a_dead_coordinators_helper_cannot_spoil_the_next_checkpoint(store: Path) -> None:
    """Its helper outlives it, and is slow: what it renames must not be the file that another helper is writing.

    The order that shows it: the old helper has written and synced; recovery removes its file; the next coordinator's
    helper, at the same version, begins; the old one renames and ends; the new one is killed, and its coordinator.
    """
    with shoal.open(store, linger=0.05) as db:
        kv = shoal.KVStore(db)
        for i in range(100):
            kv.put("run", f"key {i}", "v" * 5000)
        synced, go, ended = os.pipe(), os.pipe(), os.pipe()

        def be_slow() -> None:
            os.close(ended[0])
            os.write(synced[1], b"x")
            os.read(go[0], 1)

        def be_overtaken() -> None:
            os.write(go[1], b"x")
            os.read(ended[0], 1)  # until the old helper is gone
            os.kill(os.getpid(), signal.SIGKILL)

        old = _helper(store, db, os, "fsync", be_slow)
        os.close(ended[1])
        os.read(synced[0], 1)
        for name in os.listdir(store):
            if name.endswith(".new"):
                (store / name).unlink()
        new = _helper(store, db, checkpoint, "private_file", be_overtaken)
        for pid in (new, old):
            os.waitpid(pid, 0)
        for fd in (*synced, *go, ended[0]):
            os.close(fd)
        os.kill(db.info().coordinator_pid, signal.SIGKILL)
        assert kv.increment("run", "sum") == 1

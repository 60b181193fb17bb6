"""Claims on inputs: one process at a time holds one, and any death of the process releases it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from shoal.claims import CLAIMS_FILE, claimed
from shoal.claims import holder as holder_of

CONTEXT = multiprocessing.get_context("spawn")
ONE, OTHER = "1" * 32, "2" * 32


def _hold(directory: str, text: str, pipe: Connection) -> None:
    with claimed(directory, text, wait=False) as mine:
        pipe.send(mine)
        pipe.recv()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """A process that has the claim on ``ONE``, and the pipe that ends it."""
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_hold, args=(str(tmp_path), ONE, theirs))
    process.start()
    theirs.close()
    assert ours.poll(60)
    assert ours.recv() is True
    yield process, ours
    process.kill()
    process.join()


def is_free(directory: Path, text: str) -> bool:
    with claimed(str(directory), text, wait=False) as mine:
        return mine


def test_one_process_at_a_time(tmp_path: Path, holder: tuple[Any, Any]) -> None:
    """Another process does not get the claim, only those on other inputs, until the block has ended."""
    process, pipe = holder
    assert not is_free(tmp_path, ONE)
    assert is_free(tmp_path, OTHER)
    pipe.send(None)
    with claimed(str(tmp_path), ONE, wait=True) as mine:
        assert mine
    process.join(60)
    assert process.exitcode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked for the process")
def test_which_process_holds_a_claim(tmp_path: Path, holder: tuple[Any, Any]) -> None:
    """The process is named while it holds the claim; asking takes no claim and gives none back."""
    process, pipe = holder
    with claimed(str(tmp_path), OTHER, wait=False) as mine:
        assert mine
        assert holder_of(str(tmp_path), ONE) == process.pid
        assert holder_of(str(tmp_path), OTHER) is None  # it is this process
    pipe.send(None)
    process.join(60)
    assert holder_of(str(tmp_path), ONE) is None


def test_a_killed_process_holds_nothing(tmp_path: Path, holder: tuple[Any, Any]) -> None:
    """SIGKILL releases the claim: a process that waits for it gets it."""
    process, _ = holder
    os.kill(process.pid, signal.SIGKILL)
    with claimed(str(tmp_path), ONE, wait=True) as mine:
        assert mine


def test_it_is_released_by_an_exception(tmp_path: Path) -> None:
    """Whatever ends the block releases the claim; the file stays empty."""
    with pytest.raises(KeyError), claimed(str(tmp_path), ONE, wait=False):
        raise KeyError
    assert is_free(tmp_path, ONE)
    assert (tmp_path / CLAIMS_FILE).stat().st_size == 0


def test_a_child_does_not_inherit_it(tmp_path: Path, holder: tuple[Any, Any]) -> None:
    """A forked child of this process has no claim of its parent's, and asking in the child does not release it."""
    with claimed(str(tmp_path), OTHER, wait=False) as mine:
        assert mine
        child = os.fork()
        if not child:
            os._exit(int(is_free(tmp_path, OTHER)))  # 1: the child took it for its own
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

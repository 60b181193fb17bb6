"""Descriptors that shoal owns in a user's process."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import msgpack
import pytest
import sortedcontainers
import xxhash

from shoal.shm.host import descriptors, unpatched
from shoal.shm.host.child_python import LAUNCHED, check_launched, python_command, python_environment, starting
from tests.support.repository import ROOT


def test_a_list_is_closed_once() -> None:
    """All descriptors of the list are closed; a second call, when the numbers may be used again, does nothing."""
    pair = descriptors.pipe()
    owned = descriptors.owned(*pair)
    descriptors.close_all(owned)
    again = descriptors.pipe()
    assert sorted(again) == sorted(pair)  # the kernel gives the lowest free numbers
    descriptors.close_all(owned)
    assert all(os.fstat(fd) for fd in again)
    for fd in again:
        os.close(fd)


NUMBERS = """
import mmap, os, tempfile
from shoal.shm.host import descriptors
for fd in (0, 1, 2):
    os.close(fd)
pair = descriptors.pipe()
copied = descriptors.above_standard(os.open(os.devnull, os.O_RDONLY))
file = os.memfd_create("test")
file = descriptors.above_standard(file)
os.ftruncate(file, mmap.PAGESIZE)
mapped = descriptors.map_file(file, mmap.PAGESIZE, mmap.PROT_READ)
free = [fd for fd in (0, 1, 2) if not os.path.exists(f"/proc/self/fd/{fd}")]
assert min(*pair, copied, file) > 2 and free == [0, 1, 2], (pair, copied, file, free)
"""


@pytest.mark.long
def test_no_number_below_three() -> None:
    """With 0 to 2 closed, neither a pipe nor a copy nor a mapping takes one of them."""
    assert subprocess.run([sys.executable, "-c", NUMBERS], timeout=60).returncode == 0  # it has no stderr to say more


TAKEN = """
import os, threading
from shoal.shm.host import descriptors

def free():
    return [fd for fd in (0, 1, 2) if not os.path.exists(f"/proc/self/fd/{fd}")]

os.closerange(0, 3)
inside, leave = threading.Event(), threading.Event()

def take():
    with descriptors.standard_taken():
        inside.set()
        leave.wait()

thread = threading.Thread(target=take, daemon=True)
thread.start()
inside.wait()
with descriptors.standard_taken():
    assert free() == []
assert free() == [], "another thread is still inside"
assert not any(os.get_inheritable(fd) for fd in (0, 1, 2))
if os.fork() == 0:
    os._exit(free() != [0, 1, 2])
assert os.wait()[1] == 0, "the child has kept the numbers"
nowhere = os.open(os.devnull, os.O_RDWR)
os.dup2(nowhere, 1)
os.close(2)
leave.set()
thread.join()
assert free() == [0, 2], free()
with descriptors.standard_taken():
    assert free() == []
    if os.fork() == 0:
        os._exit(free() != [])
    assert os.wait()[1] == 0, "the thread that forks is still inside in the child"
assert free() == [0, 2], free()
os._exit(7)
"""


@pytest.mark.long
def test_the_standard_numbers_are_taken_for_a_while() -> None:
    """The last thread frees them, except what the program has put there. A forked child has no other threads."""
    assert subprocess.run([sys.executable, "-c", TAKEN], timeout=60).returncode == 7


def test_modules_are_not_those_a_program_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replaced ``time.sleep`` or ``select.poll`` is not seen in the copies."""
    import select
    import time

    monkeypatch.setattr(time, "monotonic", lambda: 1 / 0)
    monkeypatch.setattr(select, "poll", None)
    assert unpatched.time.monotonic() > 0
    assert unpatched.select.poll().poll(0) == []


class TestChildPython:
    def test_the_command(self) -> None:
        """It runs a module of this shoal with this interpreter, from any directory."""
        command = python_command("shoal.shm.limits")
        assert command[0] == sys.executable
        assert subprocess.run(command, cwd="/", env=python_environment(), timeout=60).returncode == 0

    @pytest.mark.long
    def test_packages_on_the_path_of_the_program_only(self, tmp_path: Path) -> None:
        """A coordinator finds what shoal needs where the program found it, though its interpreter does not have it."""
        venv.create(tmp_path / "bare", with_pip=False)
        places = [str(ROOT), *(str(Path(needed.__path__[0]).parent) for needed in (msgpack, sortedcontainers, xxhash))]
        program = (
            f"import sys\nsys.path[:0] = {places!r}\nimport shoal\n"
            "with shoal.open(sys.argv[1]) as db:\n    print(shoal.KVStore(db).increment('run', 'n'))"
        )
        command = [str(tmp_path / "bare/bin/python"), "-c", program, str(tmp_path / "store")]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=60)
        assert (done.stdout, done.stderr) == ("1\n", "")

    def test_no_relative_path_is_inherited(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """PYTHONPATH begins with shoal's own place and keeps absolute entries only."""
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "here", "/there"]))
        own, *rest = python_environment()["PYTHONPATH"].split(os.pathsep)
        assert os.path.isdir(os.path.join(own, "shoal"))
        assert rest == ["/there"]

    @pytest.mark.parametrize("executable", ["", None, "/no/such/file", "/", "/etc/passwd"])
    def test_what_is_no_interpreter(self, monkeypatch: pytest.MonkeyPatch, executable: Any) -> None:
        """It is ConfigurationError, which names sys.executable."""
        from shoal import ConfigurationError

        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(ConfigurationError, match=r"sys\.executable"):
            python_command("shoal.shm.limits")

    def test_how_a_launcher_ends(self) -> None:
        """Its own status and a signal are good; any other status, and a refusal to run it, are ConfigurationError."""
        from shoal import ConfigurationError

        check_launched(LAUNCHED)
        check_launched(-9)
        with pytest.raises(ConfigurationError):
            check_launched(0)
        with pytest.raises(ConfigurationError), starting():
            raise PermissionError(13, "Permission denied")
        with pytest.raises(BlockingIOError), starting():
            raise BlockingIOError(11, "try again")


@pytest.mark.long
def test_keeping_the_standard_numbers() -> None:
    """In a process of shoal's own, 0 to 2 are there afterwards, whatever was closed before."""
    code = "import os\nfrom shoal.shm.host import descriptors\nfor fd in (0, 1):\n    os.close(fd)\n"
    code += "descriptors.keep_standard()\nassert all(os.fstat(fd) for fd in (0, 1, 2))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_mapping_sees_the_file() -> None:
    """A mapping of a file shows what another descriptor of it writes."""
    fd = os.memfd_create("test")
    os.ftruncate(fd, mmap.PAGESIZE)
    mapped = descriptors.map_file(fd, mmap.PAGESIZE, mmap.PROT_READ)
    os.pwrite(fd, b"x", 5)
    assert mapped[5] == ord("x")
    mapped.close()
    os.close(fd)

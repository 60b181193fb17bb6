"""Containers and chroots in which a part of the usual system is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.workers.crash_workers import DEADLINE_S

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        sys.platform != "linux" or os.getuid() != 0 or shutil.which("unshare") is None, reason="only root may mount"
    ),
]

_PROGRAM = """
import sys, shoal
try:
    with shoal.WorkerPool(sys.argv[1], workers=1, mp_context="fork") as pool:
        print(pool.submit(len, "abc").result(), end="")
except shoal.ShoalError as error:
    print(type(error).__name__, error, end="")
"""
# A /dev of its own that holds the devices only, made beside the old one and put in its place.
_DEVICES_ONLY = """
mount -t tmpfs none "$1" && mkdir "$1/shm"
for name in null zero random urandom; do touch "$1/$name"; mount --bind "/dev/$name" "$1/$name"; done
mount --rbind "$1" /dev
"""


def _run(setup: str, tmp_path: Path) -> str:
    """What the program prints in a mount namespace of its own, in which ``setup`` has run."""
    (tmp_path / "dev").mkdir()
    command = f'set -e\n{setup}\nexec "$2" -c "$3" "$4"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, "sh", tmp_path / "dev", sys.executable, _PROGRAM, tmp_path / "db"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    assert done.stderr == ""
    return done.stdout


def test_without_dev_fd(tmp_path: Path) -> None:
    """A /dev that holds the devices only, without the link ``fd``, is enough to serve a store and to have a pool."""
    assert _run(_DEVICES_ONLY, tmp_path) == "3"


def test_without_proc(tmp_path: Path) -> None:
    """The memory of a store is handed out through /proc: where that is missing, ``open`` says so and makes nothing."""
    told = _run("mount -t tmpfs none /proc", tmp_path)
    assert told.startswith("ConfigurationError ")
    assert "mount /proc" in told
    assert "PYTHONPATH" not in told
    assert not (tmp_path / "db").exists()

"""Paths at which no store can be: each is refused with what to do, and nothing is made."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

import shoal
from tests.support.at_rest import looks
from tests.support.workers.crash_workers import kill


def test_path_that_cannot_be_made(tmp_path: Path) -> None:
    """A name that is too long, below one that would have to be made; a path below a file; a link to nothing."""
    (tmp_path / "file").write_text("no store")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = looks(tmp_path)
    too_long = ("a/" + "n" * 300, "a/b/c/" + "n" * 300 + "/d")
    too_long_with_a_file_in_it = "/".join(["n" * 100] * 41)[: 4090 - len(str(tmp_path))]
    for name in ("file/store", "file", "link", "link/store", *too_long, too_long_with_a_file_in_it):
        with pytest.raises(shoal.ConfigurationError):
            shoal.open(tmp_path / name, timeout=2)
        assert looks(tmp_path) == before, name


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
@pytest.mark.parametrize("path", ["/proc", "/proc/x/y"])
def test_where_nothing_can_be_made(path: str) -> None:
    """The error is shoal's and says that another path is needed."""
    with pytest.raises(shoal.ConfigurationError, match="give another path"):
        shoal.open(path, timeout=2)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """No store is served there: the error says why and makes nothing. One that lies there at rest can be read."""
    with shoal.open(tmp_path / "store") as db:
        shoal.KVStore(db).put("run", "key", 1)
        kill(db.info().coordinator_pid)

    def refuse(_fd: int, _how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    before = looks(tmp_path)
    for name in ("store", "new"):
        with pytest.raises(shoal.ConfigurationError, match=rf"{name}/start\.lock cannot be locked .* give a path"):
            shoal.open(tmp_path / name, timeout=2)
        assert looks(tmp_path) == before, name
    with shoal.open(tmp_path / "store", read_only=True) as db:
        assert shoal.KVStore(db).get("run", "key") == 1

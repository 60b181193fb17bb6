"""Paths at which no store can be: each is refused with what to do, and nothing is made."""

from __future__ import annotations

from pathlib import Path

import pytest

import shoal
from tests.support.at_rest import looks


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

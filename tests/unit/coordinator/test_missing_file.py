"""A file of a store being served that somebody removed."""

from __future__ import annotations

from pathlib import Path

from shoal.coordinator.missing_file import MissingFile
from shoal.shm.limits import REMAKE_AFTER_S


def test_only_a_file_that_stays_away_is_made_again(tmp_path: Path) -> None:
    """It counts from the first look that missed it, and from anew when it was back."""
    path = tmp_path / "file"
    path.touch()
    missing = MissingFile(path)
    assert not missing.is_due(10.0)
    path.unlink()
    assert not missing.is_due(11.0)
    assert missing.since_s == 11.0
    path.touch()
    assert not missing.is_due(20.0)
    assert missing.since_s is None
    path.unlink()
    assert not missing.is_due(30.0)
    assert missing.is_due(30.0 + 2 * REMAKE_AFTER_S)

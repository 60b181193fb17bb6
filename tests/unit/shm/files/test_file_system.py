"""Which file system a directory lies on, from what the kernel lists as mounted."""

from __future__ import annotations

import os
from pathlib import Path

from shoal.shm.files.file_system import _type_of

MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 259:3 / / rw,relatime shared:1 master:2 - ext4 /dev/root rw,discard
30 27 0:44 / /with\\040space rw - btrfs /dev/vdb rw
"""


def test_by_device(tmp_path: Path) -> None:
    """Fields between the options and the dash may be missing or many; a device that is not listed has no type."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert [_type_of(os.makedev(*device), mounts) for device in [(259, 3), (0, 44), (0, 21), (8, 1)]] == [
        *("ext4", "btrfs", "proc", "")
    ]


def test_where_the_system_lists_nothing(tmp_path: Path) -> None:
    """The type is not known."""
    assert _type_of(1, tmp_path / "missing") == ""

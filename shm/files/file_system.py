"""On which file system a directory lies, as far as the machine tells."""

from __future__ import annotations

import os
from pathlib import Path

# They write a page of a file to the same place again. Others (btrfs, ZFS) take new room for every write but the first
# one to a reserved page.
_OVERWRITING = ("ext4", "xfs")


def overwrites_in_place(directory: Path) -> bool:
    """Whether a page of a file is known to be overwritten where it is, with room that it has."""
    return _type_of(os.stat(directory).st_dev, Path("/proc/self/mountinfo")) in _OVERWRITING


def _type_of(device: int, mounts: Path) -> str:
    """The type of the file system on a device; "" if it is not known, as where there is no /proc."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    name = f"{os.major(device)}:{os.minor(device)}"
    mounted = (line.split() for line in lines)
    return next((fields[fields.index("-") + 1] for fields in mounted if fields[2] == name), "")

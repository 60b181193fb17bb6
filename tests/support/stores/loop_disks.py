"""Small ext4 file systems on loop devices, from which the power can be taken. Only root may make them."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

from tests.support.workers.crash_workers import wait_for

IMAGE_MIB = 96
PAGE_BYTES = 4096
_EXT4_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2


class Disk:
    """An ext4 file system in a file, mounted by loop device."""

    def __init__(self, image: Path, mounted: Path) -> None:
        self.image, self.mounted = image, mounted

    @classmethod
    def make(cls, directory: Path) -> Disk:
        """A new, empty one, mounted."""
        disk = cls(directory / "disk.img", directory / "disk")
        with disk.image.open("wb") as file:
            file.truncate(IMAGE_MIB << 20)
        run("mkfs.ext4", "-q", str(disk.image))
        disk.mount()
        return disk

    def mount(self) -> None:
        """Mount it; ext4 replays its journal."""
        self.mounted.mkdir(exist_ok=True)
        run("mount", "-o", "loop", str(self.image), str(self.mounted))

    def unmount(self) -> None:
        """Unmount it, if it is mounted."""
        if os.path.ismount(self.mounted):
            gc.collect()  # a Database that was closed keeps its mapping of the epoch file until it is collected
            wait_for(lambda: _works("umount", str(self.mounted)), "processes to let go of the disk", pause_s=0.05)

    def detach(self) -> None:
        """Unmount it whoever uses it, as the traceback of a failed test may."""
        gc.collect()
        if os.path.ismount(self.mounted) and not _works("umount", str(self.mounted)):
            run("umount", "-l", str(self.mounted))

    def cut(self) -> None:
        """From this moment on nothing reaches the device."""
        fd = os.open(self.mounted, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def copy(self, directory: Path) -> Disk:
        """The device as it is now, as another disk."""
        directory.mkdir()
        other = Disk(directory / "disk.img", directory / "disk")
        run("cp", "--sparse=always", str(self.image), str(other.image))
        return other


class ThinDisk(Disk):
    """A disk with less behind it than it says: its file is on a memory disk that fills up."""

    @classmethod
    def make(cls, directory: Path) -> ThinDisk:
        """A new one, mounted, on a memory disk with room for all of it, for now."""
        below = directory / "below"
        below.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={IMAGE_MIB + 16}m", "tmpfs", str(below))
        disk = cls(below / "disk.img", directory / "thin")
        disk.image.write_bytes(bytes(IMAGE_MIB << 20))
        run("mkfs.ext4", "-q", "-b", f"{PAGE_BYTES}", "-E", "nodiscard", str(disk.image))
        content = disk.image.read_bytes()  # mkfs makes holes: the journal must have room whatever happens
        with disk.image.open("r+b") as file:
            file.write(content)
        disk.mount()
        return disk

    def take_room_from(self, path: Path, first_page: int) -> None:
        """Let the pages of a file from ``first_page`` on have nothing behind them, and use up what that frees."""
        os.sync()
        command = ["filefrag", "-v", f"-b{PAGE_BYTES}", str(path)]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for logical, physical, pages in re.findall(r"\n +\d+: +(\d+)\.\. *\d+: +(\d+)\.\. *\d+: +(\d+):", found):
            skip = max(0, first_page - int(logical))
            if skip < int(pages):
                place, length = (int(physical) + skip) * PAGE_BYTES, (int(pages) - skip) * PAGE_BYTES
                run("fallocate", "-p", "-o", f"{place}", "-l", f"{length}", str(self.image))
        with (self.image.parent / "filling").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(PAGE_BYTES)):
                pass

    def mend(self) -> None:
        """There is room again."""
        (self.image.parent / "filling").unlink()


def why_not(directory: Path) -> str | None:
    """Why there can be no such disk here."""
    if os.getuid() != 0:
        return "only root may mount"
    missing = [tool for tool in ("mkfs.ext4", "mount", "umount") if shutil.which(tool) is None]
    if missing:
        return f"there is no {', '.join(missing)}"
    try:
        disk = Disk.make(directory)
    except subprocess.CalledProcessError as error:
        return f"no file system can be mounted by loop device: {error.stderr.decode().strip()}"
    disk.unmount()
    return None


def run(*command: str) -> None:
    """Run a command, which must succeed."""
    subprocess.run(command, check=True, capture_output=True)


def _works(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0

"""The default bound of a store's memory: what the machine, the control group and the process's limits allow.

The smallest of these counts:
- half of the machine's memory, and half of the limit of the process's control group (version 1 or 2) or of any group
  around it. Containers are limited by control groups; the kernel kills processes that take more;
- a quarter of the process's address space (``ulimit -v``), because every client maps the whole store beside its own
  memory; and half of what a process leaves of it, because a client maps the store of the next coordinator before it
  lets the last one's go;
- the largest file size (``ulimit -f``), because to the kernel the store's memory is a file.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from shoal.shm.limits import DEFAULT_STORE_BYTES, GIB, MIB, MIN_STORE_BYTES

_UNKNOWN_MACHINE_BYTES = 2 * GIB
# The address space of a process before it maps a store: Python takes 60 MiB, and the allocator 64 MiB for a thread.
_PROCESS_BYTES = 144 * MIB
# By the controllers of a mount: the file with the limit, of version 2 and of version 1.
_LIMIT_FILES = {"": "memory.max", "memory": "memory.limit_in_bytes"}


def default_store_bytes() -> int:
    """The default bound, in bytes."""
    bounds = [DEFAULT_STORE_BYTES, _machine_bytes() // 2]
    bounds += [limit // 2 for limit in _control_group_limits(Path("/proc/self/cgroup"), Path("/proc/self/mountinfo"))]
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        bounds += [address_space // 4, (address_space - _PROCESS_BYTES) // 2]
    file_size, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if file_size != resource.RLIM_INFINITY:
        bounds.append(file_size)
    return max(MIN_STORE_BYTES, min(bounds))


def _machine_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return _UNKNOWN_MACHINE_BYTES


def _control_group_limits(groups: Path, mounts: Path) -> Iterator[int]:
    """The limits in bytes of this process's group and of the groups around it; nothing where there are no groups."""
    try:
        paths = dict(line.split(":", 2)[1:] for line in groups.read_text().splitlines())  # controllers -> group
        mounted = [line.split(" - ", 1) for line in mounts.read_text().splitlines()]
    except (OSError, ValueError):
        return
    for mount, filesystem in mounted:
        kind, _, options = filesystem.split(" ", 2)
        if kind == "cgroup2":
            controllers = ""
        elif kind == "cgroup" and "memory" in options.split(" ")[-1].split(","):
            controllers = "memory"
        else:
            continue
        group = next((path for names, path in paths.items() if controllers in names.split(",")), "/")
        root, place = (field.replace("\\040", " ") for field in mount.split(" ")[3:5])
        # In a container the group's path may be the host's, while the group itself is mounted as the root.
        inside = os.path.relpath(group, root) if f"{group}/".startswith(f"{root.rstrip('/')}/") else "."
        yield from _limits_upward(Path(place), Path(place) / inside, _LIMIT_FILES[controllers])


def _limits_upward(top: Path, group: Path, name: str) -> Iterator[int]:
    for directory in (group, *group.parents):
        try:
            text = (directory / name).read_text().strip()
        except OSError:  # the root group of version 2 has no such file
            text = "max"
        if text.isdecimal():
            yield int(text)
        if directory == top:
            return

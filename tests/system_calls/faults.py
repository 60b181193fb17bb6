"""Which faults there are, and which calls can meet them."""

from __future__ import annotations

from typing import NamedTuple

KILL = "SIGKILL"
SHORT = "short"
FOREVER = " for good"

_DISK = {
    *("openat", "read", "pread64", "write", "pwrite64", "lseek", "fsync", "fdatasync", "fallocate", "ftruncate"),
    *("truncate", "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "chmod", "fchmod"),
    *("fchmodat", "getdents64", "newfstatat", "fstat", "lstat", "stat", "mmap", "flock", "bind", "ioctl", "fcntl"),
    *("connect", "accept4", "sendmsg", "sendto", "recvmsg", "recvfrom", "socket", "pipe2", "memfd_create"),
    *("epoll_create1", "epoll_ctl", "listen", "getsockopt", "setsockopt", "readlink", "access", "msync", "dup"),
    *("getcwd", "statx", "faccessat2", "membarrier"),
}
# What may sleep: only these can be interrupted. Opening sleeps for a pipe or a slow device only, connecting for a
# socket that may wait, of which there are none here; close may be interrupted, but has closed by then, and strace can
# only keep a call from happening.
_INTERRUPTED = {
    *("read", "write", "pread64", "pwrite64", "fsync", "fdatasync", "fallocate", "ftruncate", "flock"),
    *("accept4", "sendmsg", "sendto", "recvmsg", "recvfrom", "epoll_wait", "epoll_pwait", "poll", "ppoll"),
    *("wait4", "waitid", "clock_nanosleep"),
}
# What else a call runs out of.
_OWN = {
    **dict.fromkeys(("openat", "pipe2", "socket", "accept4", "epoll_create1", "memfd_create", "dup"), "EMFILE"),
    **dict.fromkeys(
        ("mmap", "munmap", "mprotect", "mremap"), "ENOMEM"
    ),  # brk fails by moving nothing, without an error
    **dict.fromkeys(("clone", "clone3", "fork", "vfork"), "EAGAIN"),
}
_LASTING = {"openat", "write", "fsync", "fdatasync", "fallocate", "rename", "unlink", "read", "mmap", "ftruncate"}
_SHORTENED = {"read", "write", "sendto", "recvfrom", "sendmsg", "recvmsg"}


# The first read of a process under strace is the test's own: it waits there for strace.
FIRST = {"read": 2}


class Case(NamedTuple):
    """One run: the ``number``-th call of ``name`` in each process and thread of ``target`` meets ``fault``."""

    target: str  # "coordinator" or "client"
    durability: str
    name: str
    fault: str
    number: int

    def strace_options(self) -> list[str]:
        """How strace brings it about."""
        fault = self.fault.removesuffix(FOREVER)
        effect = f"signal={KILL}" if fault == KILL else f"error={fault}"
        when = f"{self.number}{'+' if self.fault.endswith(FOREVER) else ''}"
        return ["-e", f"trace={self.name}", "-e", f"inject={self.name}:{effect}:when={when}"]


def faults_for(name: str) -> list[str]:
    """What a call of that name can meet."""
    found = [KILL]
    if name in _DISK:
        found += ["EIO", "ENOSPC"]
    if name in _LASTING:
        found += [f"EIO{FOREVER}", f"ENOSPC{FOREVER}"]
    if name in _INTERRUPTED:
        found.append("EINTR")
    if name in _OWN:
        found.append(_OWN[name])
    if name in _SHORTENED:
        found.append(SHORT)
    return found


def cases(target: str, durability: str, counts: dict[str, int]) -> list[Case]:
    """Every fault at every call, as often as each was counted."""
    return [
        Case(target, durability, name, fault, number)
        for name, count in sorted(counts.items())
        for fault in faults_for(name)
        for number in range(FIRST.get(name, 1), count + 1)
    ]

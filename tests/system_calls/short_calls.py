"""Calls that do only part of what was asked, as POSIX lets them: half the bytes, once, in a process of our choice.

A library put before libc (LD_PRELOAD, so made with the C compiler and loaded by starting this interpreter anew)
shortens the n-th call of one name. strace can only make a call lie about what it did.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *armed = "";
static char name_kept[32];
static long countdown;
static long *fired;

void short_calls_arm(const char *name, long number, long *counter) {
    memset(name_kept, 0, sizeof name_kept);
    strncpy(name_kept, name, sizeof name_kept - 1);
    countdown = number;
    fired = counter;
    armed = name_kept;
}

/* A pipe takes and gives up to PIPE_BUF bytes whole, but for what a reader asked for. */
static size_t cut(const char *name, int fd, size_t n, int writing) {
    struct stat about;
    if (strcmp(armed, name) != 0 || --countdown != 0 || n < 2) return n;
    if (writing && n <= PIPE_BUF && fstat(fd, &about) == 0 && S_ISFIFO(about.st_mode)) return n;
    ++*fired;
    return n / 2;
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t n) { REAL(write); return real(fd, data, cut("write", fd, n, 1)); }
ssize_t send(int fd, const void *data, size_t n, int flags) {
    REAL(send);
    return real(fd, data, cut("sendto", fd, n, 1), flags);
}
static size_t some(size_t got) { return got > 1 ? got / 2 : got; }
ssize_t read(int fd, void *data, size_t n) {
    REAL(read);
    struct stat about;
    if (strcmp(armed, "read") == 0 && countdown == 1 && fstat(fd, &about) == 0 && n > 1) {
        n = cut("read", fd, n > 64 ? 64 : n, 0);
    } else if (strcmp(armed, "read") == 0) {
        --countdown;
    }
    return real(fd, data, n);
}
ssize_t recv(int fd, void *data, size_t n, int flags) {
    REAL(recv);
    return real(fd, data, cut("recvfrom", fd, n > 16 && strcmp(armed, "recvfrom") == 0 ? 16 : n, 0), flags);
}
ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
    REAL(recvmsg);
    size_t kept = message->msg_iov[0].iov_len;
    if (strcmp(armed, "recvmsg") == 0) message->msg_iov[0].iov_len = cut("recvmsg", fd, 8, 0);
    ssize_t got = real(fd, message, flags);
    message->msg_iov[0].iov_len = kept;
    return got;
}
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    REAL(sendmsg);
    struct msghdr shorter = *message;
    struct iovec first = message->msg_iov[0];
    first.iov_len = cut("sendmsg", fd, first.iov_len, 1);
    shorter.msg_iov = &first;
    return real(fd, message->msg_iovlen == 1 ? &shorter : message, flags);
}
"""
_LOADED_FROM = "SHOAL_SHORT_CALLS"
_state = {"loaded": False}


def load() -> str | None:
    """Start this program anew with the library in front of libc; why not, if it cannot be had."""
    place = os.environ.pop(_LOADED_FROM, None)
    if place is not None:
        _state["loaded"] = True
        del os.environ["LD_PRELOAD"]  # what is started from here on has it already, or is none of ours
        shutil.rmtree(place)
        return None
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return "there is no C compiler"
    directory = Path(tempfile.mkdtemp(prefix="shoal-short-calls-"))
    source, library = directory / "short_calls.c", directory / "short_calls.so"
    source.write_text(_SOURCE)
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    environment = {**os.environ, _LOADED_FROM: str(directory), "LD_PRELOAD": str(library)}
    return os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def is_loaded() -> bool:
    """Whether calls can be cut short in this process."""
    return _state["loaded"]


def arm(name: str, number: int, counter: mmap.mmap) -> None:
    """Cut the ``number``-th call of ``name`` in this process from now on; ``counter`` says that it was."""
    place = ctypes.addressof(ctypes.c_long.from_buffer(counter))
    ctypes.CDLL(None).short_calls_arm(name.encode(), ctypes.c_long(number), ctypes.c_void_p(place))


def disarm() -> None:
    """Let every call in this process do all it can."""
    if is_loaded():
        ctypes.CDLL(None).short_calls_arm(b"", ctypes.c_long(0), ctypes.c_void_p(0))

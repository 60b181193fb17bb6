"""A segment: made by one process, mapped read-only by others, of a fixed size, with memory only where it was taken."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator

import pytest

from shoal.shm.errors import ConfigurationError, StoreFullError
from shoal.shm.limits import MIB
from shoal.shm.memory import layout
from shoal.shm.memory.segment import Segment, anonymous_file

SEED = 12345


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment.create(8 * MIB + 1, SEED)
    yield made
    made.close()
    os.close(made._fd)


def test_a_new_segment(segment: Segment) -> None:
    """Its size is whole pages, its header says what it is, and everything else is zero."""
    words = segment.words
    assert segment.size_bytes == len(segment.mm) == 8 * MIB
    assert (words[layout.W_MAGIC], words[layout.W_LAYOUT_VERSION]) == (layout.MAGIC, layout.LAYOUT_VERSION)
    assert (words[layout.W_MAX_BYTES], words[layout.W_HASH_SEED]) == (8 * MIB, SEED)
    written = {layout.W_MAGIC, layout.W_LAYOUT_VERSION, layout.W_MAX_BYTES, layout.W_HASH_SEED}
    assert all(words[i] == 0 for i in range(layout.DIRECTORY_WORD) if i not in written)


def test_an_attached_segment_sees_every_store_and_makes_none(segment: Segment) -> None:
    """A mapping of its read-only descriptor shows what is written later, and cannot write."""
    fd = segment.read_only_fd()
    with pytest.raises(OSError, match="descriptor"):
        os.pwrite(fd, b"x", 0)
    attached = Segment.attach(fd)
    segment.words[layout.W_PUBLISHED] = 7
    segment.mm[5000:5005] = b"bytes"
    assert attached.words[layout.W_PUBLISHED] == 7
    assert attached.mm[5000:5005] == b"bytes"
    with pytest.raises(TypeError):
        attached.words[layout.W_PUBLISHED] = 8
    with pytest.raises(TypeError):
        attached.mm[5000:5001] = b"x"
    attached.close()
    with pytest.raises(ValueError, match="released"):
        attached.words[0]
    assert segment.words[layout.W_PUBLISHED] == 7


@pytest.mark.parametrize("word", [layout.W_MAGIC, layout.W_LAYOUT_VERSION])
def test_another_layout_is_refused(segment: Segment, word: int) -> None:
    """A segment of another version of shoal, or no segment at all, is ConfigurationError with the remedy."""
    segment.words[word] += 1
    with pytest.raises(ConfigurationError, match="same version of shoal"):
        Segment.attach(segment.read_only_fd())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux punches holes")
def test_memory_is_taken_and_given_back(segment: Segment) -> None:
    """Taken memory is backed by the machine, what is given back is zero again, and the rest keeps its bytes."""
    start = 4 * MIB

    def backed_bytes() -> int:
        return os.fstat(segment._fd).st_blocks * 512

    before = backed_bytes()
    segment.take(start, MIB)
    assert backed_bytes() == before + MIB
    segment.mm[start - 1 : start] = segment.mm[start + MIB - 1 : start + MIB] = b"x"
    segment.mm[start : start + 4] = b"word"
    assert segment.give_back(start, MIB // 2)
    assert segment.mm[start : start + 4] == bytes(4)
    assert segment.mm[start - 1 : start] == segment.mm[start + MIB - 1 : start + MIB] == b"x"
    assert backed_bytes() < before + MIB


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM, errno.EFBIG, errno.EDQUOT])
def test_a_full_machine(segment: Segment, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """No memory is StoreFullError for a segment that is there, and ConfigurationError for a new one."""

    def full(*_arguments: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreFullError, match="1,048,576 bytes"):
        segment.take(0, MIB)
    with pytest.raises(ConfigurationError, match="smaller max_bytes"):
        Segment.create(8 * MIB, SEED)


def test_other_errors_are_not_told_as_a_full_machine(segment: Segment, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of another kind is raised as it is."""

    def broken(*_arguments: int) -> None:
        raise OSError(errno.EBADF, "bad descriptor")

    monkeypatch.setattr(os, "posix_fallocate", broken)
    with pytest.raises(OSError, match="bad descriptor"):
        segment.take(0, MIB)


def test_without_memfd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no memfd_create, the file is made in the temporary directory, without a name."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    fd = anonymous_file("shoal-test", 3 * 4096)
    try:
        found = os.fstat(fd)
        assert (found.st_size, found.st_nlink, found.st_mode & 0o077) == (3 * 4096, 0, 0)
    finally:
        os.close(fd)

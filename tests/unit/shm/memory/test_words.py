"""Words of a mapping: where they are, that they are seen by others, and what becomes of them when it is unmapped."""

from __future__ import annotations

import mmap
import os

import pytest

from shoal.shm.memory import words as memory_words
from shoal.shm.memory.words import barrier, publish_barrier, register_reader, unmap, words_of


def test_a_word_is_eight_bytes_little_endian() -> None:
    """Word i is bytes 8 i to 8 i + 7, the lowest first, by whichever of the two it is written."""
    mapping = mmap.mmap(-1, mmap.PAGESIZE)
    words = words_of(mapping)
    assert len(words) == mmap.PAGESIZE // 8
    words[3] = 0x0102030405060708
    assert mapping[24:32] == bytes([8, 7, 6, 5, 4, 3, 2, 1])
    mapping[32:40] = (2**64 - 1).to_bytes(8, "little")
    assert words[4] == 2**64 - 1
    for value in (-1, 2**64):
        with pytest.raises(ValueError, match="format"):
            words[5] = value
    with pytest.raises(IndexError):
        words[len(words)]
    unmap(mapping, words)


def test_another_process_sees_a_word_whole() -> None:
    """What a child sees while this process stores is always one of the values stored, and the last one in the end."""
    mapping = mmap.mmap(-1, mmap.PAGESIZE)
    words = words_of(mapping)
    low, high, last = 0, 2**64 - 1, 0x5555555555555555
    pid = os.fork()
    if pid == 0:
        try:
            register_reader()
            code = 1
            for _ in range(10**8):
                found = words[0]
                if found == last:
                    code = 0
                    break
                if found not in (low, high):
                    break
        finally:
            os._exit(code)
    for _ in range(20_000):
        words[0] = high
        words[0] = low
    words[0] = last
    publish_barrier()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    unmap(mapping, words)


@pytest.mark.parametrize("has_membarrier", [True, False])
def test_barriers_return(monkeypatch: pytest.MonkeyPatch, has_membarrier: bool) -> None:
    """With membarrier(2) and without: both barriers return, on machines that order stores and on others."""
    if not has_membarrier:
        monkeypatch.setattr(memory_words, "_registered", False)
    for ordered in (True, False):
        monkeypatch.setattr(memory_words, "STORES_ARE_ORDERED", ordered)
        register_reader()
        barrier()
        publish_barrier()


def test_unmapped_words_cannot_be_read() -> None:
    """After unmap every use of the words or the mapping is ValueError; a part that is still copied keeps its memory."""
    mapping = mmap.mmap(-1, mmap.PAGESIZE)
    words = words_of(mapping)
    copied = memoryview(mapping)[0:8]
    unmap(mapping, words)
    with pytest.raises(ValueError, match="released"):
        words[0]
    assert bytes(copied) == bytes(8)
    copied.release()
    mapping.close()
    with pytest.raises(ValueError, match="closed"):
        mapping[0:8]

"""Reading, writing and polling descriptors that do not block: the same in C as by the system's own functions."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

from shoal.shm.host import pipe_io
from shoal.shm.host.waiting import Lookout
from tests.processes.interrupted.handling import Interrupted, handling

MIB = 1 << 20
DEADLINE_S = 20.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe whose ends do not block."""
    ends = os.pipe()
    for fd in ends:
        os.set_blocking(fd, False)
    yield ends
    for fd in ends:
        with contextlib.suppress(OSError):  # the test has closed it
            os.close(fd)


def test_reads_what_is_there(pipe: tuple[int, int]) -> None:
    """As much as was asked for at most, in order; BlockingIOError where there is nothing, b"" at the end."""
    read_fd, write_fd = pipe
    with pytest.raises(BlockingIOError):
        pipe_io.read(read_fd, 10)
    assert pipe_io.write(write_fd, b"abcdef") == 6
    assert [pipe_io.read(read_fd, n_bytes) for n_bytes in (2, 1, 100)] == [b"ab", b"c", b"def"]
    os.close(write_fd)
    assert pipe_io.read(read_fd, 10) == b""


def test_large_reads(pipe: tuple[int, int]) -> None:
    """A read of more than the stack has room for; the bytes are those that were written."""
    read_fd, write_fd = pipe
    data = bytes(range(251)) * 240  # 60,240 bytes fit into every pipe
    assert pipe_io.write(write_fd, data) == len(data)
    assert pipe_io.read(read_fd, MIB) == data
    assert pipe_io.write(write_fd, data) == len(data)
    assert pipe_io.read(read_fd, len(data) - 1) == data[:-1]


def test_a_full_pipe_takes_a_part_then_nothing(pipe: tuple[int, int]) -> None:
    """Nothing is written twice or lost when the pipe is full."""
    read_fd, write_fd = pipe
    data = os.urandom(3 * MIB)
    written = pipe_io.write(write_fd, data)
    assert 0 < written < len(data)
    with contextlib.suppress(BlockingIOError):  # so plain Python says it
        assert pipe_io.write(write_fd, data[written:]) == 0
    read = b""
    while len(read) < written:
        read += pipe_io.read(read_fd, MIB)
    assert read == data[:written]


def test_errors_are_those_of_the_system(pipe: tuple[int, int]) -> None:
    """No reader is BrokenPipeError; no descriptor is OSError."""
    read_fd, write_fd = pipe
    os.close(read_fd)
    with pytest.raises(BrokenPipeError):
        pipe_io.write(write_fd, b"x")
    os.close(write_fd)
    for call in (lambda: pipe_io.write(write_fd, b"x"), lambda: pipe_io.read(read_fd, 1)):
        with pytest.raises(OSError, match="Bad file descriptor"):
            call()


def test_polls_every_ready_descriptor() -> None:
    """Descriptors with their events, however many are ready; an empty list after the time."""
    with select.epoll() as epoll:
        poll = pipe_io.poll_of(epoll)
        assert poll(0) == []
        before_s = time.monotonic()
        assert poll(0.0015) == []
        assert time.monotonic() - before_s >= 0.001
        pipes = [os.pipe() for _ in range(100)]
        try:
            for read_fd, write_fd in pipes:
                epoll.register(read_fd, select.EPOLLIN)
                os.write(write_fd, b"x")
            seen: set[int] = set()
            while len(seen) < len(pipes):
                for fd, events in poll(DEADLINE_S):
                    assert events == select.EPOLLIN
                    seen.add(fd)
                    os.read(fd, 1)
            assert seen == {read_fd for read_fd, _ in pipes}
            read_fd, write_fd = pipes[0]
            os.dup2(read_fd, write_fd)  # no writer is left
            assert poll(DEADLINE_S) == [(read_fd, select.EPOLLHUP)]
        finally:
            for ends in pipes:
                for fd in ends:
                    os.close(fd)
    with pytest.raises((OSError, ValueError)):
        poll(0)


def _interrupt() -> NoReturn:
    raise Interrupted


@pytest.mark.parametrize("what", ["poll", "look", "look at a pipe"])
def test_a_signal_handler_runs_in_a_wait(pipe: tuple[int, int], what: str) -> None:
    """Ctrl-C ends a wait at once, and so does any handler that raises: also while looking."""
    with select.epoll() as epoll, handling(signal.SIGALRM, _interrupt):
        epoll.register(pipe[0], select.EPOLLIN)
        poll, lookout = pipe_io.poll_of(epoll), Lookout()
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        before_s = time.monotonic()
        waits: dict[str, Callable[[], object]] = {
            "poll": lambda: poll(DEADLINE_S),
            "look": lambda: lookout.look(poll, DEADLINE_S),
            "look at a pipe": lambda: lookout.look(poll, DEADLINE_S, 0.0, pipe[0], 100),
        }

        def wait() -> None:
            while time.monotonic() - before_s < DEADLINE_S:  # a busy machine makes it rest
                waits[what]()

        with pytest.raises(Interrupted):
            wait()


def test_looking_at_a_pipe(pipe: tuple[int, int]) -> None:
    """Data, and the end of the pipe, are found; nothing is None."""
    read_fd, write_fd = pipe
    poller = select.poll()
    poller.register(read_fd, select.POLLIN)

    def look() -> bytes | None:
        deadline_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline_s:  # a busy machine makes it rest
            found = Lookout().look(poller.poll, 0.05, 0.0, read_fd, 100)
            if found is not None:
                return found if type(found) is bytes else os.read(read_fd, 100)
        return None

    assert Lookout().look(poller.poll, 0.001, 0.0, read_fd, 100) is None
    os.write(write_fd, b"abc")
    assert look() == b"abc"
    os.close(write_fd)
    assert look() == b""

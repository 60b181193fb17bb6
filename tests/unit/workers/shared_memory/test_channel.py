"""``commit_through``: one commit, sent until it is answered, over pipes to coordinators that the test plays."""

from __future__ import annotations

import math
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import shoal
from shoal.shm.host.waiting import Lookout
from shoal.shm.wire.answer import COMMITTED, encode_answer
from shoal.shm.wire.frames import FrameBuffer, frame
from shoal.workers.shared_memory.channel import Channel, commit_through

REQUEST = frame(b"request")
SOON_S = 0.2


class Coordinators:
    """Attachments to one coordinator after the other; each gets a request and does what its function says."""

    def __init__(self, *lives: Callable[[int], object], at_work: bool = False) -> None:
        self._lives = iter(lives)
        self._at_work = at_work
        self._threads: list[threading.Thread] = []
        self._client_fds: list[int] = []
        self.requests: list[bytes] = []
        self.in_flight: list[bool] = []
        self.made: list[Any] = []

    def attach(self, channel: Channel, in_flight: bool, _give_up_s: float) -> Any:
        self.in_flight.append(in_flight)
        request_read, request_write = os.pipe()
        answer_read, answer_write = os.pipe()
        for fd in (request_write, answer_read):
            os.set_blocking(fd, False)
        poller = select.poll()
        poller.register(answer_read, select.POLLIN)
        life = next(self._lives)

        def serve() -> None:
            self.requests.append(os.read(request_read, 100))
            life(answer_write)
            os.close(request_read)
            os.close(answer_write)

        thread = threading.Thread(target=serve)
        thread.start()
        self._threads.append(thread)
        self._client_fds += (request_write, answer_read)
        attachment: Any = SimpleNamespace(
            request_fd=request_write,
            answer_fd=answer_read,
            poller=poller,
            buffer=FrameBuffer(),
            ready=[],
            lookout=Lookout(),
            in_use=False,
            lost=False,
            is_parents=False,
            why_closed="",
            coordinator_pid=4711,
            segment=SimpleNamespace(words=[1] * 512),
            slots=SimpleNamespace(died_at_work=lambda: self._at_work),
        )
        channel.attachment = attachment
        self.made.append(attachment)
        return attachment

    def end(self) -> None:
        for thread in self._threads:
            thread.join(30)
        for fd in self._client_fds:
            os.close(fd)


def answers(commit_id: int) -> Callable[[int], object]:
    return lambda fd: os.write(fd, encode_answer(commit_id, COMMITTED, 9, [1]))


def dies(_: int) -> None:
    """Close the pipes without an answer."""


def stops(_: int) -> None:
    time.sleep(3 * SOON_S)


@pytest.fixture
def channel() -> Channel:
    made = Channel()
    made.commit_id = 5
    return made


@pytest.fixture
def play() -> Iterator[Callable[..., Coordinators]]:
    played: list[Coordinators] = []

    def begin(*lives: Callable[[int], object], at_work: bool = False) -> Coordinators:
        played.append(Coordinators(*lives, at_work=at_work))
        return played[-1]

    yield begin
    for each in played:
        each.end()


def send(channel: Channel, coordinators: Coordinators, timeout_s: float = 30.0) -> Any:
    return commit_through(channel, REQUEST, coordinators.attach, timeout_s, time.monotonic() + timeout_s)


def test_a_database_closed_meanwhile(channel: Channel, play: Callable[..., Coordinators]) -> None:
    """A commit under way is answered though another thread has unmapped the segment."""
    coordinators = play(answers(5))
    words = memoryview(bytearray(4096)).cast("Q")
    attachment: Any = coordinators.attach(channel, False, math.inf)
    attachment.segment.words = words
    words.release()
    assert send(channel, coordinators) == (COMMITTED, 9, [1])


def test_an_answer(channel: Channel, play: Callable[..., Coordinators]) -> None:
    """Status, version and details of the answer; the channel keeps its attachment for the next commit."""
    coordinators = play(answers(5))
    assert send(channel, coordinators) == (COMMITTED, 9, [1])
    assert channel.attachment is coordinators.made[0]
    assert (channel.attachment.in_use, channel.attachment.lost) == (False, False)
    assert coordinators.in_flight == [False]


def test_an_answer_to_an_earlier_commit(channel: Channel, play: Callable[..., Coordinators]) -> None:
    """It is passed over: only that of the commit's own number counts."""
    coordinators = play(lambda fd: (answers(4)(fd), answers(5)(fd)))
    assert send(channel, coordinators) == (COMMITTED, 9, [1])


def test_a_coordinator_that_dies(channel: Channel, play: Callable[..., Coordinators]) -> None:
    """The same bytes go to the next one, which is told that a commit is in flight."""
    coordinators = play(dies, answers(5))
    assert send(channel, coordinators) == (COMMITTED, 9, [1])
    assert coordinators.requests == [REQUEST, REQUEST]
    assert coordinators.in_flight == [False, True]
    assert coordinators.made[0].lost


def test_deaths_before_its_turn(channel: Channel, play: Callable[..., Coordinators]) -> None:
    """Any number of coordinators may die as long as they were not at this commit."""
    coordinators = play(dies, dies, dies, dies, answers(5))
    assert send(channel, coordinators) == (COMMITTED, 9, [1])


def test_deaths_at_work(channel: Channel, play: Callable[..., Coordinators]) -> None:
    """After the second coordinator that died while it did this commit, it is not sent to a third."""
    coordinators = play(dies, dies, answers(5), at_work=True)
    with pytest.raises(shoal.CoordinatorLostError, match="2 coordinators died while they did this commit"):
        send(channel, coordinators)
    assert len(coordinators.requests) == 2
    assert channel.attachment is None


@pytest.mark.long
def test_no_answer(channel: Channel, play: Callable[..., Coordinators]) -> None:
    """After the timeout the error names the process, and the pipes are used no more: the answer may come late."""
    coordinators = play(stops)
    with pytest.raises(shoal.CoordinatorLostError, match="process 4711, does not answer"):
        send(channel, coordinators, SOON_S)
    assert channel.attachment is None
    assert coordinators.made[0].lost


def test_a_forked_child(channel: Channel, play: Callable[..., Coordinators]) -> None:
    """A commit that was forked with the process is its parent's: the child does not send it."""
    coordinators = play(dies)
    attach = coordinators.attach

    def forked(*arguments: Any) -> Any:
        made = attach(*arguments)
        made.is_parents = True
        return made

    with pytest.raises(shoal.InvalidOperationError, match="which is its parent's"):
        commit_through(channel, REQUEST, forked, 30.0, math.inf)


def test_a_database_that_was_closed(channel: Channel, play: Callable[..., Coordinators]) -> None:
    """Nothing is sent, and the pipes are closed here: the thread that closed the database saw them in use."""
    coordinators = play(dies)
    closed: list[bool] = []
    coordinators.attach(channel, False, 0.0)
    attachment: Any = channel.attachment
    attachment.why_closed = "the database is closed"
    attachment.close_pipes = lambda: closed.append(True)
    with pytest.raises(shoal.InvalidOperationError, match="the database is closed"):
        send(channel, coordinators)
    assert closed == [True]
    os.write(attachment.request_fd, b"end")

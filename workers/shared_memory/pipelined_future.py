"""The future of one pipelined commit. It reads answers when it is asked, because nothing else does meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures._base import FINISHED, RUNNING
from typing import Any, NamedTuple, NoReturn, Protocol


class Answers(Protocol):
    """What is asked of a pipeline."""

    def wait_for(self, future: PipelinedFuture, timeout_s: float | None, /) -> None:
        """Read answers until ``future`` has its own, or for ``timeout_s`` seconds."""
        ...

    def take_what_came(self) -> None:
        """Take in answers that have come."""
        ...

    def read_in_background(self) -> None:
        """Read answers in a thread until nothing is in flight."""
        ...


class _Waiters(list[Any]):
    """Where ``concurrent.futures.wait`` and ``as_completed`` note that they wait: they do not ask the future."""

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self._answers = answers

    def append(self, waiter: Any) -> None:
        super().append(waiter)
        self._answers.read_in_background()


class PipelinedFuture(Future[Any]):
    """The outcome of one commit. It cannot be cancelled, because the commit is sent."""

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self._answers = answers
        self._waiters = _Waiters(answers)
        self._state = RUNNING  # what ``set_running_or_notify_cancel`` does of a future that nobody else knows

    def __reduce__(self) -> NoReturn:
        raise TypeError("the future of a pipelined commit belongs to its process; hand on its result")

    def is_answered(self) -> bool:
        """Whether it has its outcome, as far as answers were read. Takes no lock: it is asked five times a commit."""
        return self._state == FINISHED

    def done(self) -> bool:
        """Whether the commit is done or has failed. Takes in the answers that have come, and does not wait."""
        if not self.is_answered():
            self._answers.take_what_came()
        return self.is_answered()

    def running(self) -> bool:
        """Whether the answer has not come yet."""
        return not self.done()

    def result(self, timeout: float | None = None) -> Any:
        """What the call returns, or raise what the commit failed with; TimeoutError after ``timeout`` seconds."""
        if not self.is_answered():
            self._answers.wait_for(self, timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the commit failed with, None if it did not; TimeoutError after ``timeout`` seconds."""
        if not self.is_answered():
            self._answers.wait_for(self, timeout)
        return super().exception(0)

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """Call ``fn`` with this future when the answer is there, in the thread that reads it."""
        super().add_done_callback(fn)
        if not self.is_answered():
            self._answers.read_in_background()


class Sent(NamedTuple):
    """A commit in flight."""

    commit_id: int
    message: bytes  # framed
    end: int  # bytes of this and all earlier messages of the pipeline
    future: PipelinedFuture
    convert: Callable[[Any], Any] | None

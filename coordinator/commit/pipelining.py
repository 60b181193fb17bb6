"""Commits that one client sends without waiting for the answers: decided in the order in which they were sent.

A *pipelined client* has up to ``depth`` commits in flight. Invariants, which keep each of them done once and in order
over the death of a coordinator:

- **Slots.** Commit ids of a client follow each other without gaps, and the oldest and the newest in flight are less
  than ``depth`` apart. So ``client id + commit id % depth`` is a client session of its own for each commit in flight
  (``coordinator.commit.apply``), which is in the log and in checkpoints as that of any client. A slot is used again
  only after the client has read the answer that stood in it.
- **Every outcome is in the log.** A commit that changes nothing (refused, or a delete of what is not there) leaves an
  empty commit with its answer as the outcome. So what a log holds of a pipeline is all of it up to some commit. After
  a death the client sends all that is unanswered again, in order: the first ones are answered from the sessions, the
  rest is decided for the first time. Without this, a refused commit would be decided again behind its successors.
- **Lack of room.** A commit refused with ``StoreFullError`` is not in the log, where there may be no room for that.
  Each commit says which answer its client read last. Those sent before the client knew of the refusal are refused, too,
  and those sent before it knew of these. So no commit behind a refused one is done while that one may come again. The
  client ends this: after such an answer it reads all others before it sends more.

SIGKILL between any two steps: see ``coordinator.commit.engine``; a commit here is one there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from shoal.coordinator.commit.batching import BatchKey
from shoal.shm.errors import StoreFullError
from shoal.shm.limits import MAX_BATCH
from shoal.shm.wire.answer import COMMITTED, REFUSED, decode_answer, encode_answer
from shoal.shm.wire.frames import LENGTH_BYTES, FrameError
from shoal.shm.wire.request import CommitSet
from shoal.shm.wire.wire_errors import error_parts

Request = tuple[int, CommitSet]  # client id of the session, and the commit

# The results of a session are those of the commit's operations. A pipelined commit has one operation at most; two
# results are status and details of the answer to a commit that changed nothing.
_STATUS_AND_DETAILS = 2
_FULL = StoreFullError.__name__


class Engine(Protocol):
    """What is asked of ``CommitEngine``."""

    def submit(self, client_id: int, request: CommitSet, /) -> bytes:
        """Do one commit; the answer."""
        ...

    def submit_batch(
        self, key: BatchKey, requests: list[Request], one: Callable[[int, CommitSet], bytes], /
    ) -> list[bytes]:
        """Do appends to one log as one commit, or each by ``one``; the answers."""
        ...

    def batch_key(self, request: CommitSet, /) -> BatchKey | None:
        """The key by which a commit may be batched."""
        ...

    def outcome(self, client_id: int, commit_id: int, /) -> tuple[int, list[object]] | None:
        """Version and results of a commit if it is the last one of its session."""
        ...

    def note(self, client_id: int, commit_id: int, results: list[object], /) -> None:
        """Log an outcome that changes nothing; StoreFullError leaves nothing of it."""
        ...


class Pipeline:
    """The commits of one attached client that sends up to ``depth`` of them without waiting."""

    __slots__ = ("_client_id", "_depth", "_engine", "_full_at")

    def __init__(self, engine: Engine, client_id: int, depth: int) -> None:
        self._engine = engine
        self._client_id = client_id
        self._depth = depth
        self._full_at = 0  # the last commit that was refused for lack of room and is not in the log; 0: none

    def submit(self, requests: list[CommitSet], begin: Callable[[int], None]) -> list[bytes]:
        """Do commits one after the other; their answers, which may be sent after ``finish_group``.

        ``begin`` is told the id of each before it is done, or that of the first of several done together.
        Appends to one log that follow each other become one commit. Raises FrameError for what no pipeline sends.
        """
        for request in requests:
            if request.control is not None or request.keys_read or request.ranges_read or len(request.operations) > 1:
                raise FrameError("not a commit of a pipeline")
        answers: list[bytes] = []
        keys = [self._engine.batch_key(request) for request in requests]
        start = 0
        while start < len(requests):
            key, end = keys[start], start + 1
            begin(requests[start].commit_id)
            if key is None or self._is_held_up(requests[start]):
                answers.append(self._submit_one(*self._in_slot(requests[start])))
            else:
                while end < min(len(requests), start + MAX_BATCH) and keys[end] == key:
                    end += 1
                batch = [self._in_slot(request) for request in requests[start:end]]
                answers += self._engine.submit_batch(key, batch, self._submit_one)
            start = end
        return answers

    def _in_slot(self, request: CommitSet) -> Request:
        return self._client_id + request.commit_id % self._depth, request

    def _is_held_up(self, request: CommitSet) -> bool:
        """Whether a commit was sent before its client knew that an earlier one was refused for lack of room."""
        return request.snapshot < self._full_at

    def _submit_one(self, client_id: int, request: CommitSet) -> bytes:
        engine, commit_id = self._engine, request.commit_id
        outcome = engine.outcome(client_id, commit_id)
        if outcome is not None and len(outcome[1]) == _STATUS_AND_DETAILS:  # sent again, and changed nothing then
            version, (status, details) = outcome
            return encode_answer(commit_id, _whole(status), version if status == COMMITTED else 0, details)
        if self._is_held_up(request):
            self._full_at = commit_id
            full = StoreFullError("an earlier commit of the pipeline found no room; make room, and commit both again")
            return encode_answer(commit_id, REFUSED, 0, error_parts(full))
        answer = engine.submit(client_id, request)
        if engine.outcome(client_id, commit_id) is not None:
            return answer
        _, status, _, details = decode_answer(answer[LENGTH_BYTES:])
        if status != REFUSED or details[0] != _FULL:
            try:
                engine.note(client_id, commit_id, [status, details])
            except StoreFullError as error:
                answer = encode_answer(commit_id, REFUSED, 0, error_parts(error))
            else:
                return answer
        self._full_at = commit_id
        return answer


def _whole(status: object) -> int:
    assert type(status) is int
    return status

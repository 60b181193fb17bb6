"""Checks of who is served first in a line, and of when what a process holds ends."""

from __future__ import annotations

from typing import Any

from shoal.primitives.rules.queues.records import TASK, ticket_of
from shoal.primitives.rules.queues.task_record import CLAIMED, decode_task
from shoal.primitives.rules.tags import Tag
from shoal.shm import holder_index
from shoal.shm.wire import answer as wire_answer
from shoal.shm.wire.frames import LENGTH_BYTES
from shoal.shm.wire.request import CommitSet
from tests.simulation.fleet.facts import PREFIX
from tests.simulation.fleet.replay import Commit, State
from tests.simulation.truth import Problem

_AT_ONCE_MS = 100  # a coordinator that works sees the end of a pipe long before
_CLOSING_MS = 20  # between the end of a database and that of its process


_QUEUED = PREFIX + bytes((Tag.QUEUE,))
_CLAIM = bytes((0, Tag.QUEUE))  # how the held key of a claim begins


class Lines:
    """Of those that wait in one line, who asked first is served first: seen where requests come in and are decided.

    Each request says when it was asked for first, and says the same under each coordinator.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        # By the number of the coordinator and line: when each client asked, by its id.
        self._waiting: dict[tuple[int, str, Any], dict[int, int]] = {}
        self._asked_us: dict[tuple[int, int], int] = {}  # by client and commit: what it said under any coordinator

    def waits(self, coordinator: int, client_id: int, request: CommitSet) -> None:
        """A request came and was not answered at once."""
        asked_us = _asked_us(request)
        if self._asked_us.setdefault((client_id, request.commit_id), asked_us) != asked_us:
            self.problems.append(("line", f"{client_id} has another place for its commit {request.commit_id}"))
        self._line(coordinator, request)[client_id] = asked_us

    def served(self, coordinator: int, client_id: int, request: CommitSet, answer: bytes, is_again: bool) -> None:
        """A request that might have waited is answered."""
        line, asked_us = self._line(coordinator, request), _asked_us(request)
        _, status, _, _ = wire_answer.decode_answer(answer[LENGTH_BYTES:])
        if status == wire_answer.COMMITTED and not is_again and any(other_us < asked_us for other_us in line.values()):
            self.problems.append(("line", f"{client_id}, asked at {asked_us} us, was served before some of {line}"))
        self.left(client_id)

    def left(self, client_id: int) -> None:
        """A client waits no longer."""
        for line in self._waiting.values():
            line.pop(client_id, None)

    def _line(self, coordinator: int, request: CommitSet) -> dict[int, int]:
        name, operands = request.operations[0]
        return self._waiting.setdefault((coordinator, name, operands[0]), {})


class Ends:
    """In a history in which no coordinator was hurt: what a process holds ends with it, at once, and not before.

    ``ended_ms``: when the process of each database ended. ``may_stop``: whether clients were stopped on the way.
    """

    def __init__(self, ended_ms: dict[int, int], may_stop: bool) -> None:
        self.problems: list[Problem] = []
        self._ended_ms = ended_ms
        self._may_stop = may_stop

    def see(self, commit: Commit, state: State) -> None:
        for key in state:
            if key.startswith(holder_index.PREFIX) and key not in commit.changed:
                holder, held_key = holder_index.decode_key(key)
                ended_ms = self._ended_ms.get(holder)
                if ended_ms is not None and commit.submitted_ms > ended_ms + _AT_ONCE_MS:
                    text = f"{holder} ended at {ended_ms} and still holds {held_key!r} at {commit.submitted_ms}"
                    self.problems.append(("ends at once", f"at {commit.version}: {text}"))
        if not commit.is_own or self._may_stop:
            return
        for key, (before, after) in commit.changed.items():
            if key.startswith(holder_index.PREFIX) and before is not None and after is None:
                holder, held_key = holder_index.decode_key(key)
                ended_ms = self._ended_ms.get(holder)
                if held_key.startswith(_CLAIM) and not _loses_a_task(commit, holder, ticket_of(held_key)):
                    continue  # the entry of a claim whose tasks the holder itself has ended
                if ended_ms is None or ended_ms - _CLOSING_MS > commit.logged_ms:
                    text = f"{holder} lives and has lost {held_key!r} at {commit.logged_ms}"
                    self.problems.append(("lives", f"at {commit.version}: {text}"))


def _asked_us(request: CommitSet) -> int:
    assert request.control is not None
    _, (_, _, asked_us) = request.control
    assert isinstance(asked_us, int)
    return asked_us


def _loses_a_task(commit: Commit, holder: int, ticket: int) -> bool:
    """Whether a task that was claimed so is not any more."""
    for key, (before, after) in commit.changed.items():
        if key.startswith(_QUEUED) and key[-17:-16] == TASK and before is not None:
            task = decode_task(before)
            if (task.status, task.holder, task.ticket) == (CLAIMED, holder, ticket):
                return after is None or decode_task(after).token != task.token
    return False

"""Faults in when commits become visible, and in who is told what."""

from __future__ import annotations

import time
from typing import Any

from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.memory.writer import Writer
from shoal.shm.memory.layout import W_PUBLISHED
from shoal.shm.wire import answer as wire_answer
from shoal.shm.wire.answer import COMMITTED
from shoal.shm.wire.request import CommitSet
from tests.mutants.registry import Patch, mutant

_HALF_DONE_S = 0.0005  # what others can do meanwhile


@mutant("publishing", "checkpointed", "transactions")
def publish_before_index(patch: Patch) -> None:
    """A group's new keys are published before they are in the ordered index: scans miss them until the next group."""

    late = "keys_of_the_group_before"

    def end_group(self: Writer, version: int) -> None:
        known = getattr(self, late, 0)
        fresh, self.new_keys = self.new_keys[known:], self.new_keys[:known]
        sound(self, version)
        self.new_keys = fresh
        setattr(self, late, len(fresh))

    sound = patch.set(Writer, "end_group", end_group)


@mutant("publishing", "visible_only_when_durable")
def publish_before_sync(patch: Patch) -> None:
    """Readers of a strict store see commits that are not on disk yet."""

    def finish_group(self: CommitEngine) -> None:
        if self.version != self.published:
            self._writer.end_group(self.version)
            self._writer.publish(self.version)
        sound(self)

    sound = patch.set(CommitEngine, "finish_group", finish_group)


@mutant("publishing", "visible_only_when_durable")
def publish_before_log(patch: Patch) -> None:
    """Every commit is published as it is applied, before the log has it."""

    def apply(self: Writer, version: int, *arguments: Any) -> None:
        sound(self, version, *arguments)
        self.end_group(version)
        self.publish(version)

    sound = patch.set(Writer, "apply", apply)


@mutant("publishing", "visible_only_when_durable", "transactions")
def publish_half_a_commit(patch: Patch) -> None:
    """A commit becomes visible with the first of its writes."""

    def then_publish(name: str) -> None:
        def write(self: Writer, version: int, *arguments: Any) -> None:
            sound(self, version, *arguments)
            if self._words[W_PUBLISHED] < version:
                self.publish(version)
                time.sleep(_HALF_DONE_S)

        sound = patch.set(Writer, name, write)

    for name in ("add", "overwrite", "delete"):
        then_publish(name)


@mutant("answers", "group_of_operations", "appends")
def exchange_answers(patch: Patch) -> None:
    """Of commits that were submitted together two clients are given each other's outcome."""

    def submit_together(self: CommitEngine, requests: list[tuple[int, CommitSet]]) -> list[bytes]:
        answers: list[bytes] = sound(self, requests)
        if len(answers) > 1:
            first, second = (wire_answer.decode_answer(answer[4:]) for answer in answers[:2])
            answers[0] = wire_answer.encode_answer(first[0], *second[1:])
            answers[1] = wire_answer.encode_answer(second[0], *first[1:])
        return answers

    sound = patch.set(CommitEngine, "submit_together", submit_together)


@mutant("answers", "conflict_with_clear", "lists")
def answer_refused_as_committed(patch: Patch) -> None:
    """A client whose commit was refused is told that it is done."""

    def submit(self: CommitEngine, client_id: int, request: CommitSet, *line: Any) -> bytes:
        answer: bytes = sound(self, client_id, request, *line)
        if not answer:  # it waits in line
            return answer
        commit_id, status, _, _ = wire_answer.decode_answer(answer[4:])
        if status == wire_answer.CONFLICT:
            return wire_answer.encode_answer(commit_id, COMMITTED, self.version)
        return answer

    sound = patch.set(CommitEngine, "submit", submit)

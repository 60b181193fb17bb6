"""What comes in during one turn of the commit loop."""

from __future__ import annotations

from shoal.coordinator.commit.pipelining import Pipeline
from shoal.coordinator.server.clients import Client
from shoal.shm.wire.frames import FrameError
from shoal.shm.wire.request import CommitSet


class Group:
    """Requests to submit together, the client of each, and answers ready so far."""

    __slots__ = ("answers", "asking", "requests")

    def __init__(self) -> None:
        self.requests: list[tuple[int, CommitSet]] = []
        self.asking: list[Client] = []
        self.answers: list[tuple[Client, bytes]] = []

    def submit_in_order(self, client: Client, pipeline: Pipeline, requests: list[CommitSet]) -> bool:
        """Submit what a pipelined client sent, at once and in order; False if it sent what no pipeline sends."""
        try:
            answers = pipeline.submit(requests, client.page.note_work)
        except FrameError:
            answers = None
        client.page.note_work(0)  # not after another error, which ends this coordinator at work
        if answers:
            self.answers.append((client, b"".join(answers)))
        return answers is not None

"""What comes in during one turn of the commit loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from shoal.coordinator.commit.pipelining import Pipeline
from shoal.coordinator.commit.turns import Turns, Waiting
from shoal.coordinator.server.clients import Client
from shoal.shm.wire.frames import FrameError
from shoal.shm.wire.request import CommitSet

# Decides requests, each with the id of its client; the answers in the same order.
Submit = Callable[[list[tuple[int, CommitSet]]], list[bytes]]


class Group:
    """Requests to submit together, the client of each, and answers ready so far."""

    __slots__ = ("answers", "asking", "requests")

    def __init__(self) -> None:
        self.requests: list[tuple[int, CommitSet]] = []
        self.asking: list[Client] = []
        self.answers: list[tuple[Client, bytes]] = []

    def submit_in_turn(
        self,
        turns: Turns[Client],
        submit: Submit,
        version: Callable[[], int],
        now_s: float,
    ) -> None:
        """Have ``submit`` decide the requests but those that wait for their turn, and those whose turn has come."""
        going = deque(turns.over(now_s)) if turns else deque()
        if any(request.operations for _, request in self.requests):
            self._take_turns(turns, going, now_s)
        if self.requests:
            self._decide(submit, self.asking, self.requests)
        while going:
            client, request = going.popleft()
            key, before = turns.key_of(request), version()
            assert key is not None
            self._decide(submit, [client], [(client.client_id, request)])
            going.extend(turns.decided(key, client, version() != before, now_s))

    def _decide(self, submit: Submit, asking: list[Client], requests: list[tuple[int, CommitSet]]) -> None:
        for client in asking:
            client.page.note_work(1)
        self.answers += zip(asking, submit(requests), strict=True)
        for client in asking:
            client.page.note_work(0)

    def _take_turns(self, turns: Turns[Client], going: deque[Waiting[Client]], now_s: float) -> None:
        """Leave to ``turns`` what waits for its turn, and add to ``going`` what need not wait."""
        asking, requests = self.asking, self.requests
        self.asking, self.requests = [], []
        for client, (client_id, request) in zip(asking, requests, strict=True):
            key = turns.key_of(request)
            if key is None:
                self.asking.append(client)
                self.requests.append((client_id, request))
            elif not turns.waits(key, client, request, now_s):
                going.append((client, request))

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

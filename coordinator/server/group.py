"""What comes in during one turn of the commit loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from shoal.coordinator.commit.pipelining import Pipeline
from shoal.coordinator.commit.turns import Turns, Waiting
from shoal.coordinator.server.clients import Client
from shoal.shm.wire.frames import FrameError
from shoal.shm.wire.request import CommitSet

# Decides requests, each with the id of its client; the answers in the same order.
Decide = Callable[[list[tuple[int, CommitSet]]], list[bytes]]
# What a client sent that is no single commit: its requests, answers ready so far, and whether to go on with it.
Other = tuple[Client, list[CommitSet], list[bytes], bool]


class Versioned(Protocol):
    """What has the version of the last commit."""

    @property
    def version(self) -> int:
        """The version of the last commit."""
        ...


class Group:
    """Requests to submit together, the client of each, answers ready so far; and what else is to be done."""

    __slots__ = ("_in_turn", "answers", "asking", "has_turns", "left", "others", "requests")

    def __init__(self, in_turn: frozenset[str] = frozenset()) -> None:
        self._in_turn = in_turn
        self.requests: list[tuple[int, CommitSet]] = []
        self.asking: list[Client] = []
        self.has_turns = False  # some of the requests may have to wait for their turn
        self.answers: list[tuple[Client, bytes]] = []
        self.others: list[Other] = []  # done when all pipes have been read
        self.left: list[Other] = []  # done when what is submitted together is decided

    def add(self, client: Client, request: CommitSet) -> None:
        """Take in the only request that a client sent."""
        self.requests.append((client.client_id, request))
        self.asking.append(client)
        for name, _ in request.operations:
            if name in self._in_turn:
                self.has_turns = True

    def apart(self, clients: dict[int, Client], is_free: Callable[[Client, CommitSet], bool]) -> list[Other]:
        """Those of ``others`` that are done by themselves; a request that may wait and ``is_free`` to go is taken in.

        Many of them, as claims from one queue, are then one commit. What a client asked that has gone meanwhile is not
        taken in: it would hold what nobody releases.
        """
        apart = []
        for other in self.others:
            client, requests, answers, is_sound = other
            if answers or not is_sound or len(requests) != 1 or clients.get(client.request_fd) is not client:
                apart.append(other)
            elif is_free(client, requests[0]):
                self.add(client, requests[0])
            else:
                apart.append(other)
        return apart

    def still_asking(self, clients: dict[int, Client]) -> list[Client]:
        """The clients that are ``asking``, without those that have gone meanwhile: of them nothing is kept."""
        return [client for client in self.asking if clients.get(client.request_fd) is client]

    def submit(self, decide: Decide) -> None:
        """Have ``decide`` decide all requests: none has to take its turn, and nobody waits for one."""
        self._decide(decide, self.asking, self.requests)

    def submit_in_turn(
        self,
        turns: Turns[Client],
        decide: Decide,
        engine: Versioned,
        now_s: float,
    ) -> None:
        """Have ``decide`` decide the requests but those that wait for their turn, and those whose turn has come."""
        going = turns.over(now_s)
        self._take_turns(turns, going, now_s)
        if self.requests:
            self._decide(decide, self.asking, self.requests)
        for key, client, request in going:  # with those whose turn comes meanwhile
            before = engine.version
            self._decide(decide, [client], [(client.client_id, request)])
            going += turns.decided(key, client, engine.version != before, now_s)

    def _decide(self, decide: Decide, asking: list[Client], requests: list[tuple[int, CommitSet]]) -> None:
        for client in asking:
            client.page.note_work(1)
        told = decide(requests)
        assert len(told) == len(asking)
        for i, client in enumerate(asking):
            client.page.note_work(0)
            if told[i]:
                self.answers.append((client, told[i]))
            else:
                self.left.append((client, [requests[i][1]], [], True))

    def _take_turns(self, turns: Turns[Client], going: list[Waiting[Client]], now_s: float) -> None:
        """Leave to ``turns`` what waits for its turn, and add to ``going`` what need not wait."""
        asking, requests = self.asking, self.requests
        self.asking, self.requests = [], []
        for i, client in enumerate(asking):
            request = requests[i][1]
            key = turns.key_of(request)
            if key is None:
                self.asking.append(client)
                self.requests.append(requests[i])
            elif not turns.waits(key, client, request, now_s):
                going.append((key, client, request))

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

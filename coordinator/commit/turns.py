"""Turns at a contended key: who was told the newest state sends again before anybody else is heard.

Some operations are computed from a state that the client knows, and write nothing if it is not the newest
(``OperationTable.in_turn``). The client is then told the newest state, computes anew and sends again. When several
clients do that on one key, most requests are in vain, and a slow client may lose for seconds.

So the client that was told the newest state has the turn at the key. The requests of others on the key wait meanwhile,
in the order in which they came. When the client has written, the next one is decided: its client is told the newest
state, and has the turn.

A turn ends after ``TURN_S`` at the latest: the client may be computing, stopped or dead. A client that writes in a loop
keeps its turn for that long, as each of its changes then takes one request and not two; but it must send again within
``RETURN_S``.

A request that waits is one that was not decided yet: nothing of it exists, and a client that dies takes it along.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Generic, Protocol, TypeVar

from shoal.shm.limits import RETURN_S, TURN_S
from shoal.shm.wire.request import CommitSet


class Contender(Protocol):
    """What is noted of a client here."""

    wrote_s: float | None  # when it wrote (monotonic), until it sends again
    in_loop: bool  # whether it sent again within RETURN_S of its last write
    waits: bool  # whether a request of it waits


Member = TypeVar("Member", bound=Contender)
Waiting = tuple[bytes, Member, CommitSet]  # the key, who asks, the request


class _Turn(Generic[Member]):
    """The turn at one key."""

    __slots__ = ("back_s", "holder", "until_s", "waiting")

    def __init__(self, holder: Member, now_s: float) -> None:
        self.waiting: deque[Waiting[Member]] = deque()
        self.begin(holder, now_s)

    def begin(self, holder: Member, now_s: float) -> None:
        """From now on it is the turn of ``holder``, which was told the newest state."""
        self.holder: Member | None = holder  # None: it is gone
        self.until_s = now_s + TURN_S
        self.back_s = self.until_s  # when the turn ends if the holder has not sent again


class Turns(Generic[Member]):
    """The turns of one store, ``by_key``. Without contention there are none."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self.by_key: dict[bytes, _Turn[Member]] = {}

    def due_s(self) -> float:
        """When ``over`` has something to do (monotonic); infinity if nothing waits."""
        return min((turn.back_s for turn in self.by_key.values() if turn.waiting), default=math.inf)

    def key_of(self, request: CommitSet) -> bytes | None:
        """The key at which a request takes its turn; None for one that never waits."""
        operations = request.operations
        if len(operations) != 1:
            return None
        name, arguments = operations[0]
        if name not in self._names or request.writes or request.clears:
            return None
        key = arguments[0]
        return key if type(key) is bytes else None

    def waits(self, key: bytes, client: Member, request: CommitSet, now_s: float) -> bool:
        """Whether a request waits because another client has the turn at ``key``; it is kept then."""
        if client.wrote_s is not None:
            client.in_loop = now_s - client.wrote_s <= RETURN_S
            client.wrote_s = None
        turn = self.by_key.get(key)
        if turn is None or turn.holder is client or client.waits:  # else one that sends without end fills the memory
            return False
        turn.waiting.append((key, client, request))
        client.waits = True
        return True

    def over(self, now_s: float) -> list[Waiting[Member]]:
        """The requests that are decided now because the turn that they waited for is over."""
        if not self.by_key:
            return []
        due = [(key, turn) for key, turn in self.by_key.items() if turn.back_s <= now_s]
        return [waiting for key, turn in due for waiting in self._next(key, turn, now_s)]

    def decided(self, key: bytes, client: Member, wrote: bool, now_s: float) -> list[Waiting[Member]]:
        """A request was decided: it ``wrote``, or its client was told the newest state. The request that is next."""
        turn = self.by_key.get(key)
        if not wrote:
            if turn is None:
                self.by_key[key] = _Turn(client, now_s)
            elif turn.holder is client:
                turn.back_s = now_s + TURN_S
            return []
        client.wrote_s = now_s
        if turn is None or turn.holder is not client:
            return []
        if client.in_loop and now_s < turn.until_s:
            turn.back_s = now_s + RETURN_S
            return []
        return self._next(key, turn, now_s)

    def waiting(self) -> list[Member]:
        """The clients whose requests wait."""
        return [client for turn in self.by_key.values() for _, client, _ in turn.waiting]

    def forget(self, client: Member) -> None:
        """A client is gone: its requests are not decided any more, and its turn is over."""
        for turn in self.by_key.values():
            turn.waiting = deque(waiting for waiting in turn.waiting if waiting[1] is not client)
            if turn.holder is client:
                turn.holder, turn.back_s = None, -math.inf

    def _next(self, key: bytes, turn: _Turn[Member], now_s: float) -> list[Waiting[Member]]:
        """End a turn. It is that of the client whose request waits longest, if there is one."""
        if not turn.waiting:
            del self.by_key[key]
            return []
        waiting = turn.waiting.popleft()
        client = waiting[1]
        client.waits = False
        turn.begin(client, now_s)
        return [waiting]

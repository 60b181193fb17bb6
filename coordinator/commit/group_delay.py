"""The group-commit delay: which clients a group of commits waits for before it is synced (``strict`` only).

A client that commits in a loop has its next commit ready some 50 us after an answer; a sync takes longer. Without a
delay, half of the clients are in one group and half in the next, for ever, and each waits for two syncs. PostgreSQL
waits by its settings (``commit_delay``, ``commit_siblings``). Here each client is judged by whether waiting for it was
of use, with a saturating counter, as branch prediction does (J. E. Smith, ISCA 1981). A client that thinks between its
commits is not waited for.

With the delay, 2, 4 and 8 processes that append to one log did 1.5, 1.4 and 1.3 times as much.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from shoal.shm.limits import MAX_GROUP_DELAY_S

_RECENT_GROUPS = 2  # a client that was answered while a group was synced is in the next one, or in the one after that
_TRIAL_EVERY = 17  # every 17th group waits for the other clients, too; odd, as some clients take turns
_TRUST = 3  # the most that ``comes_back`` counts to


class GroupMember(Protocol):
    """What is noted of a client here."""

    last_group: int  # the number of the last group it was in
    was_back: bool  # whether it had been in one of the two groups before that
    comes_back: int  # how often of late it came when it was waited for


Member = TypeVar("Member", bound=GroupMember)


class GroupDelay(Generic[Member]):
    """Which clients were in the last groups, and for which of them it is worth waiting."""

    def __init__(self) -> None:
        self._number = 0  # of this group
        self._recent: tuple[set[Member], set[Member]] = (set(), set())  # the clients of the two groups before
        self.delay_s = 0.0  # the longest wait of the next group

    def begin(self, asking: list[Member]) -> set[Member]:
        """The clients to wait for, beside those that are ``asking``."""
        self._number += 1
        number, trial = self._number, self._number % _TRIAL_EVERY == 0
        for client in asking:
            client.was_back = client.last_group >= number - _RECENT_GROUPS
            client.last_group = number
        return {
            client
            for client in self._recent[0] | self._recent[1]
            if client.last_group != number and (client.comes_back or (trial and client.was_back))
        }

    def end(self, asking: list[Member], missing: set[Member]) -> None:
        """The group is complete: the clients ``asking`` now. Those ``missing`` were waited for and did not come."""
        for client in asking:
            if client.last_group != self._number:  # it came while it was waited for
                client.comes_back = min(client.comes_back + 1, _TRUST)
                client.last_group = self._number
        for client in missing:
            client.comes_back = max(client.comes_back - 1, 0)
        self._recent = (set(asking), self._recent[0])

    def forget(self, client: Member) -> None:
        """A client is gone."""
        for group in self._recent:
            group.discard(client)

    def finished(self, took_s: float) -> None:
        """A group took ``took_s`` to be synced and answered: the next may wait as long, which is what that can save."""
        self.delay_s = min(took_s, MAX_GROUP_DELAY_S)

"""Whom a group of commits waits for before it is synced: those who are about to commit again.

Who commits in a loop has the next commit ready some 50 us after an answer; a sync takes longer. Without waiting, half
of the clients are in one group and half in the next, for ever, and each waits for two syncs. PostgreSQL waits by its
settings (``commit_delay``, ``commit_siblings``); here each client is judged by whether waiting for it was of use, with
a saturating counter, as branch prediction does (J. E. Smith, ISCA 1981). Who thinks between commits is not waited for.

In strict, 2, 4 and 8 processes that append to one log did 1.5, 1.4 and 1.3 times as much.
"""

from __future__ import annotations

from shoal.coordinator.server.clients import Client
from shoal.shm import limits
from shoal.shm.wire.request import CommitSet

_RECENT_GROUPS = 2  # who was answered while a group was being synced is in the next, or in the one after it
_TRIAL_EVERY = 17  # groups, odd as some take turns: then those are waited for, too, for whom it was of no use
_TRUST = 3


class Group:
    """What comes in during one turn: commits to be submitted together, who is asking for each, and answers."""

    __slots__ = ("answers", "asking", "requests")

    def __init__(self) -> None:
        self.requests: list[tuple[int, CommitSet]] = []
        self.asking: list[Client] = []
        self.answers: list[tuple[Client, bytes]] = []


class GroupDelay:
    """Who was in the last groups, and for whom it is worth waiting."""

    def __init__(self) -> None:
        self._number = 0  # of this group
        self._recent: tuple[set[Client], set[Client]] = (set(), set())  # who was in the two groups before
        self.patience_s = 0.0

    def begin(self, asking: list[Client]) -> set[Client]:
        """Whom to wait for, beside those who are ``asking``."""
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

    def end(self, asking: list[Client], missing: set[Client]) -> None:
        """The group is complete: all who are ``asking`` now, without those ``missing``, who did not come in time."""
        for client in asking:
            if client.last_group != self._number:  # it came while it was waited for
                client.comes_back = min(client.comes_back + 1, _TRUST)
                client.last_group = self._number
        for client in missing:
            client.comes_back = max(client.comes_back - 1, 0)
        self._recent = (set(asking), self._recent[0])

    def forget(self, client: Client) -> None:
        """It is gone."""
        for group in self._recent:
            group.discard(client)

    def finished(self, took_s: float) -> None:
        """To sync a group and answer it ``took_s``: the next may wait as long, as that is what waiting can save."""
        self.patience_s = min(took_s, limits.MAX_GROUP_DELAY_S)

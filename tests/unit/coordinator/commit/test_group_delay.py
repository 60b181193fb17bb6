"""Whom a group of commits waits for before it is synced."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from shoal.coordinator.commit.group_delay import GroupDelay
from shoal.coordinator.server.clients import Client
from shoal.shm import limits
from shoal.shm.memory.snapshots import SnapshotPage, map_page, new_page


@pytest.fixture
def clients() -> Iterator[list[Client]]:
    """Four clients that never say anything."""
    slots = [new_page() for _ in range(4)]
    yield [Client(i + 1, os.getpid(), -1, -1, SnapshotPage(map_page(fd))) for i, fd in enumerate(slots)]
    for fd in slots:
        os.close(fd)


def group(delay: GroupDelay[Client], asking: list[Client], coming: list[Client]) -> set[Client]:
    """One group: ``asking`` are there, ``coming`` come while it waits, if it waits for them. Whom it waited for."""
    expected = delay.begin(asking)
    came = [client for client in coming if client in expected]
    delay.end([*asking, *came], expected.difference(came))
    return expected


def loops(delay: GroupDelay[Client], clients: list[Client], groups: int) -> list[int]:
    """Sizes of ``groups`` groups of clients that commit again at once; they begin as two halves that take turns."""
    sizes = []
    last = clients[:2]
    for turn in range(groups):
        # Who was not in the last group came while it was synced; of one that had all of them, somebody is first.
        asking = [client for client in clients if client not in last] or [clients[turn % 4]]
        coming = [client for client in clients if client not in asking]
        waited_for = group(delay, asking, coming)
        last = [client for client in clients if client in asking or client in waited_for]
        sizes.append(len(last))
    return sizes


def test_those_who_commit_in_a_loop_are_in_one_group_before_long(clients: list[Client]) -> None:
    """Two halves that take turns become one group that waits for all of itself, and stay so."""
    sizes = loops(GroupDelay(), clients, 200)
    assert sizes[0] == 2
    assert sizes[100:] == [4] * 100


def test_who_thinks_between_commits_is_not_waited_for(clients: list[Client]) -> None:
    """Clients that never come in time cost a wait at a few groups, and none at all if they come seldom."""
    delay: GroupDelay[Client] = GroupDelay()
    halves = [clients[:2], clients[2:]]
    waits = sum(bool(group(delay, halves[turn % 2], [])) for turn in range(160))
    assert 0 < waits <= 10
    seldom: GroupDelay[Client] = GroupDelay()
    assert not any(group(seldom, [clients[turn % 4]], []) for turn in range(160))


def test_who_stops_coming_is_soon_no_longer_waited_for(clients: list[Client]) -> None:
    """One of a group that commits in a loop goes away: one or two groups wait in vain, and no more."""
    delay: GroupDelay[Client] = GroupDelay()
    loops(delay, clients, 200)
    gone = clients[3]
    waits = [gone in group(delay, [clients[turn % 3]], clients[:3]) for turn in range(64)]
    assert waits[0]
    assert sum(waits) <= 2


def test_nobody_waits_for_who_has_gone(clients: list[Client]) -> None:
    """A client that detached is not waited for, and nothing of it is kept."""
    delay: GroupDelay[Client] = GroupDelay()
    loops(delay, clients, 200)
    delay.forget(clients[3])
    assert group(delay, clients[:1], clients[1:3]) == set(clients[1:3])


def test_a_lone_client_never_waits(clients: list[Client]) -> None:
    """Nobody to wait for: a group of one is synced at once, whatever its number."""
    delay: GroupDelay[Client] = GroupDelay()
    assert not any(group(delay, clients[:1], clients) for _ in range(64))


def test_no_longer_than_a_sync_takes_and_never_long() -> None:
    """Waiting is bounded by what it can save, and by a limit when the disk is slow."""
    delay: GroupDelay[Client] = GroupDelay()
    assert delay.delay_s == 0.0
    delay.finished(0.0002)
    assert delay.delay_s == 0.0002
    delay.finished(5.0)
    assert delay.delay_s == limits.MAX_GROUP_DELAY_S

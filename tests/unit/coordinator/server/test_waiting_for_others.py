"""Who is heard while a group waits for clients that are about to commit."""

from __future__ import annotations

import select
from types import SimpleNamespace
from typing import Any

import pytest

from shoal.coordinator.commit.group_delay import GroupDelay
from shoal.coordinator.server.group import Group
from shoal.coordinator.server.loop import Server

ASKING, FRESH, PROCESS = 5, 6, 7


class _Client:
    last_group, was_back, comes_back = -2, False, 0

    def __init__(self, request_fd: int) -> None:
        self.request_fd = request_fd


@pytest.mark.plain
@pytest.mark.parametrize(
    ("events", "heard"),
    [
        ([(FRESH, select.EPOLLIN)], [FRESH]),
        ([(ASKING, select.EPOLLIN), (FRESH, select.EPOLLIN)], [FRESH]),
        ([(ASKING, select.EPOLLIN | select.EPOLLHUP), (FRESH, select.EPOLLIN)], []),
        ([(FRESH, select.EPOLLIN), (PROCESS, select.EPOLLIN)], []),
    ],
    ids=["a request", "one beside a pipelined client", "one beside the end of a pipe", "one beside that of a process"],
)
def test_an_end_is_seen_before_who_asks_after_it(events: list[tuple[int, int]], heard: list[int]) -> None:
    """What a process held is free for whoever has waited for its end: its end and that request come together."""
    clients, read = {fd: _Client(fd) for fd in (ASKING, FRESH)}, list[int]()
    group: Any = Group()
    group.asking.append(clients[ASKING])
    delay = SimpleNamespace(begin=lambda _: set(clients.values()), end=lambda *_: None, delay_s=1.0)
    looks = iter([events, []])
    server: Any = SimpleNamespace(
        _clients=clients,
        _monotonic_s=lambda: 0.0,
        _poll=None,
        _lookout=SimpleNamespace(look=lambda *_: next(looks)),
        _read=lambda client, _: read.append(next(fd for fd, each in clients.items() if each is client)),
    )
    Server._wait_for_others(server, delay, group)  # type: ignore[arg-type]
    assert read == heard


@pytest.mark.plain
def test_who_goes_in_the_turn_of_its_commit_is_not_kept() -> None:
    """A process is killed right after it has sent a commit, and both are seen in one turn: nothing of it is kept."""
    group: Any = Group()
    delay = GroupDelay[Any]()
    there, _ = clients = [_Client(ASKING), _Client(FRESH)]
    group.asking += clients
    server: Any = SimpleNamespace(_clients={ASKING: there}, _monotonic_s=lambda: 0.0)
    Server._wait_for_others(server, delay, group)
    assert delay._recent[0] == {there}

"""Who is heard while a group waits for clients that are about to commit."""

from __future__ import annotations

import select
from types import SimpleNamespace
from typing import Any

import pytest

from shoal.coordinator.server.loop import Server

ASKING, FRESH, PROCESS = 5, 6, 7


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
    clients, group, read = {ASKING: object(), FRESH: object()}, SimpleNamespace(asking=[]), list[int]()
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

"""What a commit changes beside the segment: the conflict window and the client sessions.

Invariants:
- Only ``apply_commit`` changes both, in the order of commit versions. The engine calls it when a commit stands in the
  log; recovery calls it when it replays the commit. So after a SIGKILL the next coordinator has the same of both.
- A client session is the last commit of one client and what that client was told. A client that was cut off sends the
  commit again with the same commit id; it is answered from the session and not done twice.
- Sessions are in the log and in checkpoints. The window is in the log alone: a commit that only a
  checkpoint holds is not in the window, and the floor of the window is above it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.coordinator.log.format import Outcome
from shoal.shm.limits import DEFAULT_LIMITS, Limits
from shoal.shm.wire.request import FlatWrites


class ClientSessions(dict[int, tuple[int, int, list[Any]]]):
    """By client id: commit id, version and results of its last commit; the client that committed longest ago is first.

    Beyond ``limits.client_sessions`` the first is forgotten.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__()
        self.most = limits.client_sessions


def apply_commit(
    window: ConflictWindow,
    sessions: ClientSessions,
    version: int,
    clears: list[tuple[bytes, bytes]],
    writes: FlatWrites,
    outcomes: Iterable[Outcome],
) -> None:
    """Note what the commit at ``version`` cleared and wrote in ``window``, what clients are told in ``sessions``."""
    if clears:
        for lower, upper in clears:
            window.add_clear(version, lower, upper)
    if len(writes) == 3:
        window.add_write(version, writes[0])
    elif writes:
        window.add_writes(version, writes[::3])
    for client_id, commit_id, results in outcomes:
        if client_id in sessions:
            del sessions[client_id]  # it becomes the last one
        sessions[client_id] = (commit_id, version, results)
        if len(sessions) > sessions.most:
            del sessions[next(iter(sessions))]

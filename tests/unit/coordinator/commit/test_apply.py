"""The one effect of a commit on window and client sessions."""

from __future__ import annotations

from shoal.coordinator.commit.apply import ClientSessions, apply_commit
from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.shm.limits import Limits


def test_window_and_sessions() -> None:
    """Every written key, every range tombstone and every client's outcome, at the version of the commit."""
    window, sessions = ConflictWindow(0), ClientSessions()
    apply_commit(window, sessions, 3, [(b"r", b"s")], [b"k", b"v", 0, b"l", None, 0], [(7, 1, ["a"]), (8, 4, [])])
    assert [window.written_since(key, 2) for key in (b"k", b"l", b"r1", b"other")] == [3, 3, 3, 0]
    assert [window.written_since(key, 3) for key in (b"k", b"l", b"r1")] == [0, 0, 0]
    assert dict(sessions) == {7: (1, 3, ["a"]), 8: (4, 3, [])}


def test_the_longest_gone_is_forgotten_first() -> None:
    """No more sessions than the limit; a client that commits again is the newest."""
    window, sessions = ConflictWindow(0), ClientSessions(Limits(client_sessions=2))
    for version, client in enumerate([1, 2, 1, 3], 1):
        apply_commit(window, sessions, version, [], [], [(client, version, [])])
    assert list(sessions) == [1, 3]
    apply_commit(window, sessions, 5, [], [], [(4, 1, []), (5, 1, []), (6, 1, [])])
    assert list(sessions) == [5, 6]

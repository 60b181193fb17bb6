"""Identifiers rise, whoever makes them and whenever."""

from __future__ import annotations

import os
import time

import pytest

from shoal.primitives.identifiers import new_id


def test_a_signal_handler_makes_one_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler may run in the middle, and make some: it does not wait for ever, and each one is above those before."""
    made: list[str] = []
    random_bytes = os.urandom

    def interrupted(count: int) -> bytes:
        monkeypatch.undo()
        made.extend(new_id() for _ in range(3))
        return random_bytes(count)

    for _ in range(50):
        time.sleep(0.0015)  # the next one begins with random bits
        monkeypatch.setattr(os, "urandom", interrupted)
        made.append(new_id())
    assert len(made) == 200
    assert made == sorted(set(made))

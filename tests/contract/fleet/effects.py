"""What tests of effects share."""

from __future__ import annotations

from typing import Any

import pytest

import shoal


class InterruptedAtCommit:
    """A transaction that is interrupted when its commit is done."""

    def __init__(self, transaction: Any) -> None:
        self._transaction = transaction

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transaction, name)

    def commit(self) -> None:
        """Commit, and have the caller not know it."""
        self._transaction.commit()
        raise KeyboardInterrupt


class Calls:
    """A function that counts its calls, and returns or raises what it is told."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.count = 0

    def __call__(self, *_: Any) -> Any:
        self.count += 1
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def in_doubt(db: shoal.Database, run: str, key: str) -> None:
    """Leave an effect in doubt, as an interruption does."""
    with pytest.raises(KeyboardInterrupt):
        db.once(run, key, Calls(KeyboardInterrupt()))

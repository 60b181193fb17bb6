"""What tests of effects share."""

from __future__ import annotations

from typing import Any

import pytest

import shoal


class InterruptedAtCommit:
    """A transaction that is interrupted when its commit is done, if it has put something, as an intent."""

    def __init__(self, transaction: Any) -> None:
        self._transaction = transaction
        self._has_put = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transaction, name)

    def put(self, *arguments: Any) -> None:
        """Write a key at commit."""
        self._has_put = True
        self._transaction.put(*arguments)

    def commit(self) -> int:
        """Commit, and have the caller not know it."""
        version: int = self._transaction.commit()
        if self._has_put:
            raise KeyboardInterrupt
        return version


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

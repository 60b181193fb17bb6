"""What the smallest engine's database holds: the line of those that wait is a list, and nobody has to renew."""

from __future__ import annotations

import time
from typing import Any

from shoal.shm.errors import ShoalError


class ToyHolding:
    def __init__(self, store: Any) -> None:
        self.store, self.holder = store, 1
        self.held = dict[int, Any]()  # by ticket: what undoes it
        self.line = list[tuple[bytes, int]]()  # key and ticket of those that wait, in the order of arrival

    def acquire(self, ticket: int, operation: Any, undo: Any, ranges: Any, ttl_s: float, give_up_s: float) -> Any:
        key = operation[1][0]
        with self.store.changed:
            self.line.append((key, ticket))
            try:
                while True:
                    until_s = give_up_s
                    try:
                        if next(each for each in self.line if each[0] == key)[1] == ticket:
                            result = self.store.auto_commit.perform(*operation)
                            self.held[ticket] = undo
                            return result
                    except ShoalError as error:
                        if not error.passes or time.monotonic() >= give_up_s:
                            raise
                        if error.passes_in_ms is not None:
                            until_s = min(give_up_s, time.monotonic() + error.passes_in_ms / 1000)
                    if time.monotonic() >= give_up_s:
                        return self.store.auto_commit.perform(*operation)
                    self.store.changed.wait(min(until_s - time.monotonic(), 1e6))
            finally:
                self.line.remove((key, ticket))
                self.store.changed.notify_all()

    def release(self, ticket: int, undo: Any) -> None:
        if not self.store.closed:
            self.store.auto_commit.perform(*undo)
            self.forget(ticket)

    def forget(self, ticket: int) -> None:
        self.held.pop(ticket, None)

    def see_ends(self) -> None:
        pass

    def ages_ms(self, holders: list[int]) -> list[int | None]:
        return [0 for _ in holders]

    def end(self) -> None:
        """The database is closed."""
        for ticket, undo in list(self.held.items()):
            self.release(ticket, undo)

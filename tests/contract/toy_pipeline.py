"""The pipeline of the smallest engine: what the port asks of one, without anything in flight."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from shoal.shm.errors import InvalidOperationError


class ToyPipeline:
    """Every call commits at once and gives a future that is done."""

    def __init__(self, store: Any) -> None:
        if store.closed:
            raise InvalidOperationError("the store is closed")
        self.store, self.ended = store, False
        self.failure: BaseException | None = None

    def put(self, key: bytes, value: bytes, expires_ms: int = 0) -> Future[None]:
        return self._done(lambda: self.store.auto_commit.put(key, value, expires_ms))

    def perform(self, name: str, arguments: list[Any], convert: Callable[[Any], Any] | None = None) -> Future[Any]:
        change = convert or (lambda result: result)
        return self._done(lambda: change(self.store.auto_commit.perform(name, arguments)))

    def finish(self) -> BaseException | None:
        self.ended = True
        return self.failure

    def _done(self, call: Callable[[], Any]) -> Future[Any]:
        if self.ended or self.store.closed:
            raise InvalidOperationError("the pipeline has ended, or its store is closed")
        future: Future[Any] = Future()
        try:
            future.set_result(call())
        except Exception as error:
            self.failure = self.failure or error
            future.set_exception(error)
        return future

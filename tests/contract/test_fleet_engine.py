"""What ``shoal.primitives.engine`` promises beyond the five primitives: past versions and pipelines."""

from __future__ import annotations

from typing import Any

import pytest

import shoal
from shoal.primitives.rules import registry
from shoal.shm import codec
from shoal.shm.operation import Past
from tests.contract.conftest import contents


@pytest.fixture(scope="session")
def toy_db(toy_fleet_db: shoal.Database) -> shoal.Database:
    """``any_db`` takes it."""
    return toy_fleet_db


class TestPast:
    def test_a_past_version_reads_as_it_was(self, store: Any, prefix: bytes) -> None:
        """What was changed, deleted or cleared since is there; what was written since is not. It only reads."""
        engine = store.auto_commit
        for name in (b"changed", b"cleared", b"deleted"):
            engine.put(prefix + name, b"then")
        then = store.begin(read_only=True)  # it keeps this version
        engine.put(prefix + b"changed", b"now")
        engine.put(prefix + b"new", b"now")
        engine.delete(prefix + b"deleted")
        engine.clear(prefix + b"cleared", prefix + b"cleared\0")
        transaction = store.begin()
        for past in (store.begin(past=Past(then.version, None)), transaction.at_version(then.version)):
            assert (past.read_only, past.version) == (True, then.version)
            assert contents(past, prefix) == dict.fromkeys((b"changed", b"cleared", b"deleted"), b"then")
            assert past.find(prefix + b"new") is None
            with pytest.raises(shoal.InvalidOperationError):
                past.put(prefix + b"new", b"then")
            past.abandon()
        assert contents(transaction, prefix) == {b"changed": b"now", b"new": b"now"}
        for ended in (transaction, then):
            ended.abandon()

    def test_a_version_that_is_not_there_yet(self, store: Any) -> None:
        """It is refused, and the transaction that asked for it goes on."""
        transaction = store.begin()
        for begin in (lambda version: store.begin(past=Past(version, None)), transaction.at_version):
            with pytest.raises(ValueError, match="version is"):
                begin(store.stats().commit_version + 1_000_000)
        assert not transaction.has_ended
        transaction.abandon()


class TestPipeline:
    def test_calls_are_commits_in_order(self, store: Any, prefix: bytes) -> None:
        """Each sees those before it, and each future has its own result, converted if that was asked for."""
        pipeline = store.pipeline(4)
        key = prefix + b"n"
        futures = [pipeline.perform(registry.INCREMENT, [key, 1]) for _ in range(20)]
        put = pipeline.put(key, codec.encode(7))
        futures.append(pipeline.perform(registry.INCREMENT, [key, 1], lambda total: [total]))
        assert pipeline.finish() is None
        assert [future.result() for future in futures] == [*range(1, 21), [8]]
        assert put.result() is None
        assert contents(store.auto_commit, prefix) == {b"n": codec.encode(8)}

    def test_a_failed_call(self, store: Any, prefix: bytes) -> None:
        """It is its future's error, and the first one is told at the end; later calls are done."""
        pipeline = store.pipeline(4)
        pipeline.put(prefix + b"n", codec.encode("text"))
        failed = pipeline.perform(registry.INCREMENT, [prefix + b"n", 1])
        also = pipeline.perform(registry.INCREMENT, [prefix + b"n", 1])
        last = pipeline.put(prefix + b"m", b"\x01")
        assert pipeline.finish() is failed.exception()
        assert isinstance(failed.exception(), TypeError)
        assert isinstance(also.exception(), TypeError)
        assert last.result() is None
        assert pipeline.finish() is failed.exception()

    def test_after_the_end(self, store: Any, prefix: bytes) -> None:
        """Nothing is sent after ``finish``."""
        pipeline = store.pipeline(4)
        assert pipeline.finish() is None
        with pytest.raises(shoal.InvalidOperationError):
            pipeline.put(prefix + b"k", b"\x01")
        assert contents(store.auto_commit, prefix) == {}

"""The benchmark: every operation on every peer, proofs that refuse lost work, and servers that leave nothing."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.repository import ROOT

for needed in ("lmdb", "redis", "tabulate"):
    pytest.importorskip(needed)


from shoal.bench import harness  # noqa: E402
from shoal.bench.harness import Plan, entered, run_section, run_trial  # noqa: E402
from shoal.bench.operations import OPERATIONS  # noqa: E402
from shoal.bench.peers import DURABILITIES, PEERS, BenchError, Session, disk_cache, redis_server  # noqa: E402
from shoal.bench.peers.shoal_store import ShoalSession, ShoalStore  # noqa: E402
from shoal.bench.reports.tables import section_text  # noqa: E402
from tests.support.present import present  # noqa: E402
from tests.support.slow import slow  # noqa: E402

each_peer = pytest.mark.parametrize("peer", [*PEERS[:2], *slow(*PEERS[2:])], ids=lambda peer: peer.name)
needs_redis = pytest.mark.skipif(redis_server.program() is None, reason="redis-server is not installed")
PRIMITIVES = ("append", "cas", "trace", "cross")
COUNTERS = ("rmw", "think")


class Claims(Session):
    """A store that says what it is told to."""

    def __init__(self, length: int = 0, version: int = 0, traces: int = 0) -> None:
        self._length, self._version, self._traces = length, version, traces

    def get(self, key: str) -> int:
        return 0

    def log_length(self, run: str) -> int:
        return self._length

    def version(self, run: str, name: str) -> int:
        return self._version

    def trace_count(self, run: str, tag: str) -> int:
        return self._traces


@pytest.mark.parametrize("name", [*COUNTERS, "hot", *PRIMITIVES])
def test_work_that_is_lost_is_noticed(name: str) -> None:
    """An operation's check refuses a store that holds less than was acknowledged."""
    operation = OPERATIONS[name]()
    operation.check(Claims(), operation.targets(), 0)
    with pytest.raises(BenchError, match=r"1 .* acknowledged"):
        operation.check(Claims(), operation.targets(), 1)


@pytest.mark.long
@pytest.mark.parametrize("name", [*slow("put"), "pipelined"])
def test_a_put_that_is_lost_is_noticed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that was put and is unchanged is one too many, among thousands that are not."""
    operation = OPERATIONS[name]()
    lost = operation.targets()[5]
    put = ShoalSession.put

    def put_or_lose(session: ShoalSession, key: str, value: object) -> None:
        if key != lost:
            put(session, key, value)

    def one_at_a_time(session: ShoalSession, pairs: list[tuple[str, object]]) -> None:
        for key, value in pairs:
            put_or_lose(session, key, value)

    monkeypatch.setattr(ShoalSession, "pipelined", one_at_a_time)
    monkeypatch.setattr(ShoalSession, "put", put_or_lose)
    monkeypatch.setattr(random, "Random", lambda seed: SimpleNamespace(choices=lambda targets, k: targets[:k]))
    with entered(ShoalStore, operation, "buffered", tmp_path) as entrant:
        run_trial(entrant, operation, 1, 0.1, 1)
        with pytest.raises(BenchError, match="acknowledged, and 1 keys are unchanged"):
            harness.check(entrant, operation)


def test_a_transaction_in_halves_is_noticed() -> None:
    """Cross refuses a run whose primitives do not say the same."""
    with pytest.raises(BenchError, match="run-000 has 2 events"):
        OPERATIONS["cross"]().check(Claims(length=2, version=2, traces=1), ["run-000"], 2)


@each_peer
def test_a_peer_keeps_what_it_acknowledges(peer: Any, tmp_path: Path) -> None:
    """What a peer can do it does so that the operation's check agrees, for several workers."""
    able = [name for name in (*COUNTERS, "hot", *PRIMITIVES) if peer.lacks(name, "buffered") is None]
    if not able:
        pytest.skip(str(peer.lacks("rmw", "buffered")))
    store = peer(tmp_path, "buffered")
    try:
        store.start({**OPERATIONS["rmw"]().items(), **OPERATIONS["hot"]().items()})
        session = store.connect()
        for name in able:
            operation = OPERATIONS[name]()
            operation.prepare(session, operation.targets())
            # One store for all, so each primitive has runs of its own.
            targets = [f"{name}-{run}" if name in PRIMITIVES else run for run in operation.targets()]
            steps = [operation.step(session, targets, worker, seed=worker) for worker in range(2)]
            for step in steps * 5:
                step()
            operation.check(session, targets, 20 if name == "think" else 10)  # rmw has added to the same counters
        session.close()
    finally:
        store.stop()


@each_peer
def test_pipelined_puts_are_there_after_close(peer: Any, tmp_path: Path) -> None:
    """A session that is closed has every put acknowledged, also those that were under way."""
    if reason := peer.lacks("pipelined", "buffered"):
        pytest.skip(reason)
    store = peer(tmp_path, "buffered")
    try:
        store.start({"a": 0, "b": 0})
        session = store.connect()
        session.pipelined([("a", 1), ("b", 2)])
        session.pipelined([("a", 3)])
        session.close()
        reader = store.connect()
        assert (reader.get("a"), reader.get("b")) == (3, 2)
        reader.close()
    finally:
        store.stop()


@pytest.mark.long
def test_a_worker_whose_pipelined_commit_fails_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that only the end of a pipeline knows is not lost: no figure is made of such a round."""

    def close(session: ShoalSession) -> None:
        session._database.close()
        raise OSError("the last commit failed")

    operation = OPERATIONS["pipelined"]()
    with entered(ShoalStore, operation, "buffered", tmp_path) as entrant:
        monkeypatch.setattr(ShoalSession, "close", close)
        with pytest.raises(BenchError, match="the last commit failed"):
            run_trial(entrant, operation, 1, 0.01, 1)


def test_a_step_that_does_not_end_in_time_is_seen() -> None:
    """A step under way when the window ends is not counted, but its time is: a worker without a turn is not hidden."""
    now_s = time.monotonic()
    tally = harness._count(lambda: time.sleep(0.1), 1, now_s, now_s + 0.05)
    assert (tally.counted, tally.total) == (0, 1)
    assert len(tally.times_s) == 1
    assert tally.times_s[0] >= 0.1


@needs_redis
@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_stopped_redis_is_gone(durability: str, tmp_path: Path) -> None:
    """The server listens on no port, syncs as asked, and ends with stop."""
    peer = redis_server.RedisServer(tmp_path, durability)
    try:
        peer.start({"a": 1})
        pid = present(peer._process).pid
        client = peer._client()
        configured = client.config_get("port", "appendonly", "appendfsync", "save")
        client.close()
    finally:
        peer.stop()
    assert configured == {
        "port": "0",
        "save": "",
        "appendonly": "yes",
        "appendfsync": {"buffered": "everysec", "strict": "always"}[durability],
    }
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_redis_that_is_not_installed_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are measured, and the table says why one is not."""
    monkeypatch.setattr(redis_server, "program", lambda: None)
    monkeypatch.setattr("shoal.bench.harness.PEERS", PEERS[1:2] + PEERS[3:4])
    monkeypatch.setattr("shoal.bench.reports.document.SUBJECT", PEERS[1])
    operation = OPERATIONS["append"]()
    plan = Plan((operation,), ("buffered",), (1,), rounds=1, seconds_s=0.01)
    text = section_text(run_section(operation, "buffered", plan, tmp_path, lambda: None))
    assert "Redis: not measured: redis-server is not installed." in text
    assert "LMDB" in text


def test_a_diskcache_that_is_not_installed_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an optional peer: nothing fails without it."""
    monkeypatch.setattr(disk_cache, "version", lambda: None)
    for durability in DURABILITIES:
        assert disk_cache.DiskCache.lacks("put", durability) == "diskcache is not installed"


@pytest.mark.slow
def test_the_command_prints_a_table_for_each_operation(tmp_path: Path) -> None:
    """``python -m bench`` measures the primitives at both durabilities and leaves nothing where it worked."""
    command = [sys.executable, "-m", "bench", "--only", ",".join(PRIMITIVES), "--processes", "1,2", "--rounds", "1"]
    command += ["--seconds", "0.05", "--directory", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for name in PRIMITIVES:
        for durability in DURABILITIES:
            assert any(
                line.startswith(f"{name}: ") and line.endswith(f"({durability})") for line in done.stdout.splitlines()
            )
    assert list(tmp_path.iterdir()) == []

"""PostgreSQL as a peer of the benchmark: a server that leaves nothing, and a table that says why it is not measured."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from tests.support.present import present

for needed in ("lmdb", "redis", "tabulate"):
    pytest.importorskip(needed)

from shoal.bench.harness import entered, run_trial  # noqa: E402
from shoal.bench.operations import OPERATIONS  # noqa: E402
from shoal.bench.peers import DURABILITIES, postgres_server  # noqa: E402
from shoal.bench.peers.postgres_server import PostgresServer  # noqa: E402

needs_postgres = pytest.mark.skipif(
    PostgresServer.lacks("queue", "buffered") is not None, reason="there is no PostgreSQL that can be run here"
)


@pytest.mark.long
@needs_postgres
@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_stopped_server_is_gone(durability: str, tmp_path: Path) -> None:
    """Also root can run it. It listens on no port, commits as asked, and ends with stop."""
    peer = PostgresServer(tmp_path, durability)
    try:
        peer.start({})
        pid = present(peer._process).pid
        connection = peer._connection()
        shown = [connection.execute(f"SHOW {name}").fetchone()[0] for name in ("listen_addresses", "fsync")]
        synchronous = connection.execute("SHOW synchronous_commit").fetchone()[0]
        connection.close()
    finally:
        peer.stop()
    assert (shown, synchronous) == (["", "on"], {"buffered": "off", "strict": "on"}[durability])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.long
@needs_postgres
def test_several_processes_do_each_task_once(tmp_path: Path) -> None:
    """A claim that finds only tasks that others have locked looks again; leaving checks that no task is lost."""
    operation = OPERATIONS["queue"]()
    with entered(PostgresServer, operation, "buffered", tmp_path) as entrant:
        trial = run_trial(entrant, operation, 4, 0.2, 0)
        session = entrant.peer.connect()
        operation.check(session, entrant.targets, entrant.operations, entrant.by_seed)
        session.close()
    assert trial.rate_per_s > 0
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without server, without driver, and for a root that may not enter a user namespace."""
    for program, driver, is_root, can_enter, expected in (
        (None, object(), False, True, postgres_server._NOT_INSTALLED),
        ("/bin/true", None, False, True, postgres_server._NOT_INSTALLED),
        ("/bin/true", object(), True, False, postgres_server._NO_NAMESPACE),
        ("/bin/true", object(), True, True, None),
        ("/bin/true", object(), False, False, None),
    ):
        monkeypatch.setattr(postgres_server, "program", lambda name, found=program: found)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, found=driver: found)
        monkeypatch.setattr(os, "geteuid", lambda found=is_root: 0 if found else 1000)
        monkeypatch.setattr(postgres_server, "_has_user_namespaces", lambda found=can_enter: found)
        assert PostgresServer.lacks("queue", "buffered") == expected
    assert PostgresServer.lacks("put", "buffered") == "the operation is not written for it"

"""A signal handler raises while a pool is killed, as the second of two Ctrl-C that come at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.workers.pool import pool_state
from shoal.workers.pool.supervisor import Supervisor
from tests.processes.pool.pool_processes import wait_for
from tests.support.workers import pool_functions as functions

pytestmark = pytest.mark.uncompiled


@pytest.mark.parametrize(
    ("owner", "name"),
    [(pool_state, "release_left_locked"), (Supervisor, "kill_worker"), (Supervisor, "wake")],
    ids=["begin", "workers", "wake"],
)
def test_ctrl_c_again_while_a_pool_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    """All tasks are settled and all workers dead when ``kill`` raises it, whatever step it has interrupted."""
    pool = shoal.WorkerPool(tmp_path / "store", 2, durability="memory", linger=0.1)
    futures = [pool.submit(functions.sleep_then, 600) for _ in range(4)]
    wait_for(lambda: all(future.running() for future in futures[:2]))
    original = getattr(owner, name)
    came: list[int] = []

    def interrupted(*arguments: Any) -> None:
        if not came:
            came.append(1)
            raise KeyboardInterrupt
        original(*arguments)

    monkeypatch.setattr(owner, name, interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.kill()
        assert all(future.done() for future in futures)
        assert not any(supervisor.thread.is_alive() for supervisor in pool._state.supervisors)
    finally:
        pool.kill()

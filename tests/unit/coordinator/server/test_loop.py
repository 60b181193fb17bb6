"""The commit loop: whom it hears."""

from __future__ import annotations

import threading
from pathlib import Path

import shoal

OPEN_S = 20.0


def test_others_are_heard_beside_a_client_that_never_pauses(tmp_path: Path) -> None:
    """A loop that reads the pipe of its only client while it looks still takes in who comes meanwhile."""
    path, done, puts = tmp_path / "store", threading.Event(), list[int]()

    with shoal.open(path, durability="memory") as db:

        def never_pause() -> None:
            kv = shoal.KVStore(db)
            while not done.is_set():
                kv.put("busy", "key", len(puts))
                puts.append(1)

        thread = threading.Thread(target=never_pause)
        thread.start()
        try:
            with shoal.open(path, timeout=OPEN_S) as other:
                before = len(puts)
                shoal.KVStore(other).put("r", "key", "heard")
                assert shoal.KVStore(db).get("r", "key") == "heard"
                assert before > 0
        finally:
            done.set()
            thread.join()

"""The inside of a worker process: take a task, run it, send back what came of it.

A worker ends when it is told to, and at once when the pool's process is gone: it holds the reading end of a pipe whose
only writing end is the pool's. Ctrl-C is the pool's business; a worker goes on until the pool says otherwise.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

from shoal.shm.errors import InvalidOperationError

READY = b"ready"

_current: Any = None


def current_database() -> Any:
    """The worker's own attachment to the pool's store, in a function that a ``WorkerPool`` runs.

    Raises ``InvalidOperationError`` outside a worker.
    """
    if _current is None:
        raise InvalidOperationError(
            "current_database() was called outside a worker; call it in a function that a WorkerPool runs, "
            "or use shoal.open"
        )
    return _current


def work(tasks: Connection, life: Connection, inherited: list[Connection], database: bytes) -> None:
    """Main function of a worker process. ``inherited`` are ends a forked child must not keep open."""
    global _current
    for connection in inherited:
        connection.close()
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_the_pool, args=(life,), name="shoal-life", daemon=True).start()
    try:
        _current = pickle.loads(database)
        tasks.send_bytes(READY)
    except BaseException as error:
        tasks.send_bytes(_pickled(False, error))
        return
    while True:
        try:
            raw = tasks.recv_bytes()
        except EOFError:
            break
        if not raw:
            break
        tasks.send_bytes(_run(raw))
    _current.close()


def _end_with_the_pool(life: Connection) -> None:
    try:
        life.recv_bytes()
    except EOFError:
        os._exit(1)


def _run(raw: bytes) -> bytes:
    try:
        function, arguments, keywords = pickle.loads(raw)
        return _pickled(True, function(*arguments, **keywords))
    except BaseException as error:
        error.add_note("in a worker:\n" + "".join(traceback.format_exception(error)))
        return _pickled(False, error)


def _pickled(succeeded: bool, outcome: Any) -> bytes:
    try:
        return pickle.dumps((succeeded, outcome))
    except Exception as error:
        what = "result" if succeeded else "exception"
        text = f"the task's {what} of type {type(outcome).__name__} cannot be sent to the pool: {error}"
        return pickle.dumps((False, TypeError(text)))

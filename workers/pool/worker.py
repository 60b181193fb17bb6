"""The inside of a worker process: receive a task, run it in the main thread, send its outcome.

- A worker ends when the pool tells it to, and at once when the pool's process is gone (``pool/life.py``). It also ends
  when the pool's end of its channel is closed: after ``exec`` the process lives, but the pool is gone.
- The pool handles Ctrl-C: a worker ignores it and goes on until the pool ends it. The worker drops the signal handlers,
  the wake-up descriptor and the blocked signals of the pool's process: they would act on that process's pipes.
- Only the worker itself answers. A task or an initializer may fork, and both processes return from it: the child then
  ends in silence.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import multiprocessing
import os
import pickle
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

from shoal.shm.errors import InvalidOperationError
from shoal.shm.host import descriptors
from shoal.shm.host.shortage import is_shortage
from shoal.workers.pool import channel, helper_processes, life, outcome

_DYING_S = 0.5

_current: Any = None
_recipe = b""  # what ``_current`` was unpickled from


def current_database() -> Any:
    """The worker's own attachment to the pool's store, in a function that a ``WorkerPool`` runs.

    It stays open between tasks. If a task has closed it, as ``with shoal.current_database() as db`` does, this attaches
    anew: the tasks that run here later are not to blame for that.

    Raises ``InvalidOperationError`` outside a worker, and when it attaches anew, what ``shoal.open`` raises.
    """
    global _current
    if _current is None:
        raise InvalidOperationError(
            "current_database() was called outside a worker; call it in a function that a WorkerPool runs, "
            "or use shoal.open"
        )
    if _current._store.connection.is_closed:
        _current = pickle.loads(_recipe)
    return _current


current_database.__module__ = "shoal"  # in tracebacks and pickles, as users name it


def work(
    tasks: socket.socket,
    pool: Connection,
    pipe: Connection,
    database: bytes,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
) -> None:
    """Main function of a worker process. ``pool`` and ``pipe`` tell the death of the pool's process."""
    forget_signals()
    helper_processes.let_go_of_fork_server()
    tasks.setblocking(True)
    try:
        if _watch_the_pool(tasks, pool, pipe) and _begin(tasks, database, initializer, initargs):
            _serve(tasks)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the pool has no use for this worker any more
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.ENOTSOCK):
            raise
        sys.exit(
            f"worker {os.getpid()} of the pool ends: a task or the initializer has closed descriptors of the worker "
            f"({error.strerror}); have it close only what it has opened"
        )


def _keep_standard() -> None:
    """Take 0 to 2 where they are free. If 0 was, ``multiprocessing`` has put its sentinel of the parent there."""
    parent: Any = multiprocessing.parent_process()
    if parent is not None:
        parent._sentinel = descriptors.above_standard(parent._sentinel)
    descriptors.keep_standard()


def _watch_the_pool(tasks: socket.socket, pool: Connection, pipe: Connection) -> bool:
    """Have this process end with the pool; False, and the pool is told why, if no thread or descriptor is left."""
    arguments = pool, tasks.fileno(), os.getppid()
    try:
        _keep_standard()
        threading.Thread(target=_end_with_the_pool, args=arguments, name="shoal-life", daemon=True).start()
    except Exception as error:
        if not is_shortage(error):
            raise
        shortage = OSError(errno.EAGAIN, f"a worker cannot begin: {error}")
        channel.send_message(tasks, *outcome.pack_exception(shortage, channel.NOT_ATTACHED))
        return False
    life.have_kernel_kill_this_process(pipe)
    return True


def _begin(
    tasks: socket.socket, database: bytes, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
) -> bool:
    """Attach to the store and run the user's initializer; False, and the pool is told why, if that fails."""
    global _current, _recipe
    _recipe = database
    try:
        _current = pickle.loads(database)
    except BaseException as error:
        channel.send_message(tasks, *outcome.pack_exception(error, channel.NOT_ATTACHED))
        return False
    try:
        if initializer is not None:
            with OneReturns():
                initializer(*initargs)
    except BaseException as error:
        logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)
        channel.send_message(tasks, *outcome.pack_exception(error, channel.NOT_INITIALIZED))
        return False
    channel.send_message(tasks, channel.READY)
    return True


def _serve(tasks: socket.socket) -> None:
    """Do tasks until there are no more."""
    while True:
        kind, body = channel.receive_message(tasks)
        if kind == channel.END:
            break
        answer = _perform(body)
        del body
        channel.send_message(tasks, *answer)
        del answer  # a large result is not kept until the next task comes
    _current.close()


def forget_signals() -> None:
    """Drop the signal handling that this process has inherited; ignore Ctrl-C."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    # A function, not SIG_IGN: programs that a task starts would inherit SIG_IGN, and outlive Ctrl-C.
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _end_with_the_pool(pool: Connection, tasks: int, parent: int) -> None:
    poller = select.poll()
    poller.register(pool.fileno(), select.POLLIN)
    poller.register(tasks, 0)  # hung up: the pool's process may have replaced its program with exec
    poller.poll()
    poller.unregister(tasks)
    # A process that dies closes its descriptors a moment before its death can be seen. If the pool's process is dead
    # and the parent lives, the parent is the process that forks workers, and has no more to do.
    if poller.poll(_DYING_S * 1000) and os.getppid() == parent:
        with contextlib.suppress(ProcessLookupError):
            os.kill(parent, signal.SIGTERM)
    os._exit(1)


class OneReturns:
    """Whatever forks inside, only this process goes on behind it.

    A class: ``contextlib`` sets the traceback of an exception, which a frozen dataclass refuses.
    """

    def __enter__(self) -> None:
        self._pid = os.getpid()

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        if os.getpid() != self._pid:
            _end_forked_child(error)


def _perform(raw: bytearray) -> tuple[bytes, Any]:
    """Run a task; kind and body of the message for its outcome."""
    try:
        with OneReturns():
            function, arguments, keywords = ForkingPickler.loads(raw)
            result = function(*arguments, **keywords)
    except BaseException as error:
        outcome.drop_first_line(error)  # this function's own
        with OneReturns():
            return outcome.pack_exception(error)
    with OneReturns():
        return outcome.pack_result(result)


def _end_forked_child(error: BaseException | None) -> None:
    """End a process that a task has forked, after it has returned from the task."""
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        traceback.print_exception(error)
        code = 1
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    finally:
        os._exit(code)

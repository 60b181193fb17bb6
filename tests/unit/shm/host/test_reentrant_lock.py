"""The lock of threads that signal handlers may interrupt."""

from __future__ import annotations

import contextlib
import gc
import random
import signal
import threading

import pytest

from shoal.shm.host.unpatched import ReentrantLock, threads_lock
from tests.processes.interrupted.handling import Interrupted, handling

TIMES = 2_000


@pytest.mark.long
@pytest.mark.parametrize("make", [ReentrantLock, threads_lock])
def test_exceptions_of_a_handler_leave_it_free(request: pytest.FixtureRequest, make: type) -> None:
    """Whenever a handler raises, the ``with`` block gives the lock back, also where it is taken twice."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng, lock = random.Random(seed), make()

    def take(times: int) -> None:
        while True:
            with lock:
                for _ in range(times):
                    with lock:
                        pass

    def interrupt() -> None:
        raise Interrupted

    gc.collect()  # or finalisers of other tests would run below, and be interrupted
    gc.disable()
    request.addfinalizer(gc.enable)
    with handling(signal.SIGALRM, interrupt):
        for number in range(TIMES):
            with contextlib.suppress(Interrupted):
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 2e-4))
                take(number % 2)
            assert not lock._is_owned()


def test_it_is_a_lock() -> None:
    """While a thread has it, and takes it again, another one does not get it."""
    lock = ReentrantLock()
    tried: list[bool] = []
    with lock, lock:
        other = threading.Thread(target=lambda: tried.append(lock.acquire(blocking=False)))
        other.start()
        other.join()
    assert tried == [False]
    assert lock.acquire(blocking=False)
    lock.release()


def test_a_patched_threading_gives_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a program has replaced the locks of ``threading``, its threads may not block in another kind of lock."""
    patched = object()
    monkeypatch.setattr(threading, "RLock", lambda: patched)
    assert threads_lock() is patched

"""``uninterrupted``: the result, the error, and what a fork does to a call under way."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from typing import Any

import pytest

from shoal.workers.uninterrupted import uninterrupted


def test_the_result_comes_back() -> None:
    """The call runs in another thread, and its result is returned."""
    assert uninterrupted(threading.get_ident) != threading.get_ident()
    assert uninterrupted(lambda: None) is None


def test_the_error_comes_back() -> None:
    """What the call raises is raised, also what is no Exception."""
    for error in (KeyError("key"), SystemExit(3), KeyboardInterrupt()):

        def fail(error: Any = error) -> None:
            raise error

        with pytest.raises(type(error)) as raised:
            uninterrupted(fail)
        assert raised.value is error


def test_a_signal_does_not_stop_the_call() -> None:
    """A handler that raises ends the wait, not the call: it runs to its end."""
    ended = threading.Event()

    def call() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.1)
        ended.set()

    def handler(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(InterruptedError):
            uninterrupted(call)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ended.wait(30)


def test_a_fork_during_the_call() -> None:
    """In the child, where the thread does not exist, the call is made again; the parent's ends as usual."""
    forked = threading.Event()
    calls: list[int] = []

    def call() -> int:
        calls.append(os.getpid())
        if len(calls) == 1:
            assert forked.wait(30)
        return os.getpid()

    # The thread that waits is the one that forks: a signal handler does it in the middle of the wait.
    children: list[int] = []

    def fork(*_: object) -> None:
        children.append(os.fork())
        forked.set()

    before = signal.signal(signal.SIGUSR1, fork)
    try:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        pid = uninterrupted(call)
        if children == [0]:  # the child: whatever happens, it must not go on with the tests
            os._exit(0 if pid == os.getpid() and len(calls) == 2 else 1)
    finally:
        if children == [0]:
            os._exit(2)
        signal.signal(signal.SIGUSR1, before)
    assert pid == os.getpid()
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0


def test_no_collection_meanwhile() -> None:
    """The collector, which would run finalisers of the program there, rests while a call runs, and no longer."""
    begins, ends = threading.Event(), threading.Event()

    def call() -> bool:
        begins.set()
        ends.wait(30)
        return gc.isenabled()

    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(uninterrupted(call)))
    thread.start()
    assert begins.wait(30)
    assert uninterrupted(gc.isenabled) is False
    pid = os.fork()
    if not pid:
        os._exit(0 if gc.isenabled() else 1)  # the call is a thread of the parent
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not gc.isenabled()
    ends.set()
    thread.join()
    assert found == [False]
    _wait_until_enabled()


@pytest.mark.long
def test_a_fork_while_the_collector_is_put_to_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child of another thread has its collector: the fork waits until it is noted that it was enabled."""
    disable, is_disabled = gc.disable, threading.Event()

    def disable_slowly() -> None:
        disable()
        is_disabled.set()
        time.sleep(0.2)

    monkeypatch.setattr(gc, "disable", disable_slowly)
    thread = threading.Thread(target=uninterrupted, args=(lambda: None,))
    thread.start()
    assert is_disabled.wait(30)
    pid = os.fork()
    if not pid:
        os._exit(0 if gc.isenabled() else 1)
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    _wait_until_enabled()


def test_a_call_that_begins_while_another_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the first call does not enable the collector in the second one."""
    begins, ends = threading.Event(), threading.Event()

    def call() -> None:
        begins.set()
        assert ends.wait(30)

    first = threading.Thread(target=uninterrupted, args=(call,))
    first.start()
    assert begins.wait(30)
    disable = gc.disable

    def disable_slowly() -> None:
        disable()
        ends.set()
        first.join()
        time.sleep(0.2)  # the thread of its call ends after it

    monkeypatch.setattr(gc, "disable", disable_slowly)
    assert uninterrupted(gc.isenabled) is False
    _wait_until_enabled()


def test_a_program_without_collections() -> None:
    """Where the program has disabled the collector it stays so."""
    gc.disable()
    try:
        assert uninterrupted(gc.isenabled) is False
        time.sleep(0.05)
        assert not gc.isenabled()
    finally:
        gc.enable()


def _wait_until_enabled() -> None:
    until_s = time.monotonic() + 30
    while not gc.isenabled():
        assert time.monotonic() < until_s
        time.sleep(0.001)

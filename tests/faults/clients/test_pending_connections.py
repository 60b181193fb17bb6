"""Who knocks at the door and cannot be taken in: a visitor's own trouble is its own, the coordinator's ends it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shoal.coordinator.server.control_socket import ControlSocket
from shoal.shm.errors import ConfigurationError
from shoal.shm.wire import handshake

HELLO = handshake.Hello(handshake.PROTOCOL_VERSION, 77, os.getpid(), None, None)


def _knock(directory: Path, admit: Callable[[handshake.Hello, int], Any], leave: bool = False) -> socket.socket:
    """A visitor's end, after the coordinator has heard and answered it."""
    control = ControlSocket(directory, admit)
    visitor = socket.socket(socket.AF_UNIX)
    visitor.settimeout(10.0)
    try:
        visitor.connect(str(directory / "control.sock"))
        visitor.sendall(handshake.encode_hello(HELLO))
        if leave:
            visitor.close()
        for fd in control.accept():
            control.receive(fd)
    except OSError:
        visitor.close()
        raise
    finally:
        control.close()
    return visitor


def _fails(number: int) -> Callable[..., Any]:
    def fail(*_arguments: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC])
def test_no_room_for_another(tmp_path: Path, number: int) -> None:
    """It is told so, with the reason; those inside go on."""
    with (
        _knock(tmp_path, _fails(number)) as visitor,
        pytest.raises(ConfigurationError, match="cannot take in another") as told,
    ):
        handshake.receive_welcome(visitor)
    assert os.strerror(number) in str(told.value)


@pytest.mark.parametrize("number", [errno.EBADF, errno.EIO])
def test_what_is_no_visitors_fault(tmp_path: Path, number: int) -> None:
    """Any other error while a visitor is taken in is the coordinator's: it is not passed over."""
    with pytest.raises(OSError, match=os.strerror(number)):
        _knock(tmp_path, _fails(number))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EPIPE, errno.ETOOMANYREFS])
def test_a_welcome_that_does_not_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Its descriptors are closed, and the visitor finds the door shut."""
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(4)]
    monkeypatch.setattr(handshake, "send_welcome", _fails(number))
    with _knock(tmp_path, lambda *_: handshake.Welcome("memory", 1, b"", *fds)) as visitor, pytest.raises(EOFError):
        handshake.receive_welcome(visitor)
    for fd in fds:
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.fstat(fd)


@pytest.mark.parametrize("refused", [True, False])
def test_a_visitor_that_has_left(tmp_path: Path, refused: bool) -> None:
    """Whether it would have been taken in or not, nothing comes of it."""

    def admit(_hello: handshake.Hello, _pid: int) -> Any:
        if refused:
            raise ConfigurationError("no")
        return handshake.Welcome("memory", 1, b"", *(os.open("/dev/null", os.O_RDONLY) for _ in range(4)))

    _knock(tmp_path, admit, leave=True)

"""Connections that cannot be admitted: an error of the connection is its own, one of the coordinator ends it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shoal.coordinator.control_socket import ControlSocket
from shoal.shm.errors import ConfigurationError
from shoal.shm.wire import handshake

HELLO = handshake.Hello(handshake.PROTOCOL_VERSION, 77, os.getpid(), None, None)


def _greet(directory: Path, admit: Callable[[handshake.Hello, int], Any], leave: bool = False) -> socket.socket:
    """A client's end of a connection, after the coordinator has read its greeting and answered it."""
    control = ControlSocket(directory, admit)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10.0)
    try:
        connection.connect(str(directory / "control.sock"))
        connection.sendall(handshake.encode_hello(HELLO))
        if leave:
            connection.close()
        for fd in control.accept():
            control.receive(fd)
    except OSError:
        connection.close()
        raise
    finally:
        control.close()
    return connection


def _fails(number: int) -> Callable[..., Any]:
    def fail(*_arguments: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC])
def test_no_room_for_another(tmp_path: Path, number: int) -> None:
    """The client is told so, with the reason."""
    with (
        _greet(tmp_path, _fails(number)) as connection,
        pytest.raises(ConfigurationError, match="cannot take in another") as told,
    ):
        handshake.receive_welcome(connection)
    assert os.strerror(number) in str(told.value)


@pytest.mark.parametrize("number", [errno.EBADF, errno.EIO])
def test_errors_of_the_coordinator(tmp_path: Path, number: int) -> None:
    """Any other error while a client is admitted is the coordinator's: it is raised."""
    with pytest.raises(OSError, match=os.strerror(number)):
        _greet(tmp_path, _fails(number))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EPIPE, errno.ETOOMANYREFS])
def test_a_welcome_that_does_not_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Its descriptors are closed, and the client finds the connection closed."""
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(4)]
    monkeypatch.setattr(handshake, "send_welcome", _fails(number))
    with _greet(tmp_path, lambda *_: handshake.Welcome("memory", 1, b"", *fds)) as connection, pytest.raises(EOFError):
        handshake.receive_welcome(connection)
    for fd in fds:
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.fstat(fd)


@pytest.mark.parametrize("refused", [True, False])
def test_a_client_that_has_left(tmp_path: Path, refused: bool) -> None:
    """Whether it would have been admitted or not, nothing is left of it."""

    def admit(_hello: handshake.Hello, _pid: int) -> Any:
        if refused:
            raise ConfigurationError("no")
        return handshake.Welcome("memory", 1, b"", *(os.open("/dev/null", os.O_RDONLY) for _ in range(4)))

    _greet(tmp_path, admit, leave=True)

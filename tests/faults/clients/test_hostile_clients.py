"""Clients that flood, stall, lie and pin for ever: they are disconnected or bounded, and other clients go on."""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.shm import limits
from shoal.shm.wire import answer as wire_answer
from shoal.shm.wire import handshake
from shoal.shm.wire import request as wire_request
from shoal.shm.wire.answer import COMMITTED, REFUSED
from shoal.shm.wire.frames import MAX_FRAME_BYTES, frame
from tests.fuzz.targets.watch import MIB, Watch, answers, close, descriptors, private_kib, request
from tests.support.present import present
from tests.support.raw_client import attach, send_and_hear

KEY = shoal.Namespace()._run_prefix("r") + b"\1"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[shoal.Database]:
    with shoal.open(tmp_path_factory.mktemp("hostile") / "store", linger=0.2, max_bytes=64 * MIB) as db:
        yield db


@pytest.fixture
def watch(served: shoal.Database) -> Watch:
    return Watch(served)


class TestFloods:
    """More than anybody should send."""

    @pytest.mark.slow
    def test_a_gigabyte(self, watch: Watch) -> None:
        """A client that goes on sending, whole frames of the largest size, is dropped with the first that is none."""
        welcome = attach(watch.db)
        junk = bytes(MIB)
        sent = 0
        with pytest.raises(BrokenPipeError):  # noqa: PT012
            os.write(welcome.request_fd, struct.pack("<I", MAX_FRAME_BYTES))
            while sent < 1024 * MIB:
                sent += os.write(welcome.request_fd, junk)
                if sent % (16 * MIB) == 0:
                    watch.commit(1)
        # What was read before it was dropped, and what the pipe took meanwhile.
        assert sent <= MAX_FRAME_BYTES + 4 * MIB
        close(welcome)
        watch.unharmed()
        # Pieces, joined, and the message cut out of them; a little more than the frame, three times.
        assert private_kib(watch.pid, "VmHWM") * 1024 < 4 * MAX_FRAME_BYTES + 64 * MIB

    @pytest.mark.parametrize("announced", [MAX_FRAME_BYTES + 1, 2**30, 2**32 - 1])
    def test_a_frame_that_is_announced_too_large(self, watch: Watch, announced: Any) -> None:
        """Is not waited for."""
        assert send_and_hear(watch.db, struct.pack("<I", announced) + b"x") == b""
        watch.unharmed()

    @pytest.mark.parametrize("one", [b"\x90", b"\x80"], ids=["lists", "maps"])
    def test_a_message_that_grows(self, watch: Watch, one: bytes) -> None:
        """A byte may stand for an object of 64: the coordinator does not take 300 MiB for 4."""
        Path(f"/proc/{watch.pid}/clear_refs").write_text("5")  # the most it had until now
        before_kib = private_kib(watch.pid, "VmHWM")
        count = 4 * MIB
        mutations = b"\x94\xdd" + struct.pack(">I", count) + one * count + b"\xc0\xc0\xc0"
        message = memoryview(frame(wire_request.encode_request(1, 0, 0, b"", mutations)))
        welcome = attach(watch.db)
        with contextlib.suppress(BrokenPipeError):
            while message:
                message = message[os.write(welcome.request_fd, message) :]
        assert os.read(welcome.answer_fd, 100) == b""
        close(welcome)
        assert private_kib(watch.pid, "VmHWM") - before_kib < 150 * 1024
        watch.unharmed()

    def test_a_greeting_without_an_end(self, watch: Watch) -> None:
        """A pending connection is read no further than the length of a greeting."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"{watch.db.path}/control.sock")
            connection.settimeout(20)
            connection.sendall(struct.pack("<I", 64 * MIB))
            sent = 0
            with pytest.raises(ConnectionError):  # noqa: PT012 (reset, or a broken pipe: the kernel's choice)
                while sent < 64 * MIB:
                    sent += connection.send(bytes(4096))
            assert sent < 4 * MIB  # what the socket holds
        watch.unharmed()

    def test_a_greeting_byte_by_byte(self, watch: Watch) -> None:
        """A slow connection is admitted once its greeting is whole."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"{watch.db.path}/control.sock")
            connection.settimeout(20)
            for byte in handshake.encode_hello(handshake.Hello(handshake.PROTOCOL_VERSION, 5, os.getpid(), None, None)):
                connection.sendall(bytes((byte,)))
                watch.commit(1)
            close(handshake.receive_welcome(connection))
        watch.unharmed()

    def test_hundreds_of_connections(self, watch: Watch) -> None:
        """Who says nothing takes nobody's place: a client still gets in, and the coordinator holds no more than 128."""
        pending = []
        try:
            for _ in range(300):
                connection = socket.socket(socket.AF_UNIX)
                connection.setblocking(False)
                with contextlib.suppress(BlockingIOError):  # more are waiting than the kernel keeps
                    connection.connect(f"{watch.db.path}/control.sock")
                pending.append(connection)
                if len(pending) % 20 == 0:
                    watch.commit(1)
            with shoal.open(watch.db.path) as another:
                assert shoal.KVStore(another).get("honest", "n") == watch.commits
                assert descriptors(watch.pid) <= watch.descriptors + 128 + 8
        finally:
            for connection in pending:
                connection.close()
        watch.unharmed()

    @pytest.mark.slow
    def test_half_a_greeting(self, watch: Watch) -> None:
        """Who stops in the middle of it, and stays, is shown out after some seconds."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"{watch.db.path}/control.sock")
            connection.settimeout(20)
            connection.sendall(
                handshake.encode_hello(handshake.Hello(handshake.PROTOCOL_VERSION, 5, os.getpid(), None, None))[:-3]
            )
            watch.commit(100)
            assert connection.recv(100) == b""
        watch.unharmed()

    def test_answers_nobody_reads(self, watch: Watch) -> None:
        """A client that asks and never listens is dropped when what waits for it is a megabyte."""
        welcome = attach(watch.db)
        entries = [["e", b"\xc0"]] * 500  # an answer of 20 KB
        ask = request([[], None, [["event_append", [KEY[:-1] + b"\2\0", "xxh3", entries]]], None])
        os.set_blocking(welcome.request_fd, False)
        sent = 0
        with pytest.raises(BrokenPipeError):  # noqa: PT012
            for _ in range(2000):
                with contextlib.suppress(BlockingIOError):
                    sent += os.write(welcome.request_fd, ask) // len(ask)  # the same commit: it is told again
                watch.commit(1)
        assert sent * len(entries) * 36 > limits.MAX_CLIENT_BACKLOG_BYTES
        close(welcome)
        watch.unharmed()
        assert shoal.EventLog(watch.db).len("r") == len(entries)
        shoal.RunIndex(watch.db).delete_run("r")

    def test_come_and_go(self, watch: Watch) -> None:
        """Clients that each leave in the middle of something leave nothing behind."""
        junk = [b"", b"\1", frame(b"x" * 100)[:50], frame(b"\0" * 30), struct.pack("<I", 2**31), request([[], None])]
        for i in range(48):
            welcome = attach(watch.db)
            with contextlib.suppress(BrokenPipeError):
                os.write(welcome.request_fd, junk[i % len(junk)] or b"\2")
            close(welcome)
            if i % 20 == 0:
                watch.commit(1)
        watch.unharmed()


class TestLies:
    """Whole requests that say what is not so."""

    def test_a_snapshot_of_the_future(self, watch: Watch) -> None:
        """A client that claims to have read a future version harms nobody: its commit is done, others are checked."""
        reads = wire_request.encode_reads([KEY + b"x"], [(KEY, KEY + b"\xff")])
        for snapshot in (watch.db.info().commit_version + 1000, 2**63, 2**64 - 1):
            raw = send_and_hear(watch.db, request([[KEY + b"x", b"\1", 0], None, None, None], reads, snapshot))
            assert wire_answer.decode_answer(raw[4:])[1] == COMMITTED
        watch.unharmed()
        # What it did not read has not become invisible to those who did.
        with pytest.raises(shoal.ConflictError), watch.db.transaction("r") as txn:  # noqa: PT012
            txn.kv.get("x")
            send_and_hear(watch.db, request([[KEY + b"x", b"\2", 0], None, None, None], reads, 2**64 - 1))
            txn.kv.put("y", 1)

    def test_operations_on_keys_of_another_primitive(self, watch: Watch) -> None:
        """An operation on a key of another primitive is refused; the segment is sound and every key as it was."""
        cells, log = shoal.StateCell(watch.db), shoal.EventLog(watch.db)
        cells.set("own", "cell", 1)
        log.append("own", "type", 1)
        prefix = KEY[:-3] + b"\3own"
        for operation in (
            ["increment", [prefix + b"\3cell", 1]],
            ["increment", [prefix + b"\2\0", 1]],
            ["cell_set", [prefix + b"\2\0", b"x"]],
            ["cell_delete", [prefix + b"\2\0"]],
            ["event_append", [prefix + b"\3cell", "xxh3", [["e", b"\1"]]]],
            ["event_append", [prefix + b"\2\1" + bytes(8), "xxh3", [["e", b"\1"]]]],
            ["cell_cas", [prefix + b"\2\0", "name", 1, b"x"]],
            ["cell_swap", [prefix + b"\2\0", "name", 1, b"x"]],
        ):
            raw = send_and_hear(watch.db, request([[], None, [operation], None]))
            assert wire_answer.decode_answer(raw[4:])[1] == REFUSED, operation
        assert present(cells.read("own", "cell")).value == 1
        assert log.verify_chain("own").is_valid
        watch.unharmed()

    def test_the_client_id_of_another(self, watch: Watch) -> None:
        """Two that say they are the same client are each answered; when one goes, the other is still known."""
        first, second = attach(watch.db), attach(watch.db)  # both as client 77
        for i in range(5):
            for n, welcome in enumerate((first, second)):
                commit_id = 2 * i + n + 1
                os.write(
                    welcome.request_fd, request([[KEY + b"twin", b"\1", 0], None, None, None], commit_id=commit_id)
                )
                assert answers(welcome, 1)[0][:2] == (commit_id, COMMITTED)
        close(first)
        watch.commit()
        os.write(second.request_fd, request([[KEY + b"twin", b"\2", 0], None, None, None], commit_id=99))
        version = answers(second, 1)[0][2]
        os.write(second.request_fd, request([[KEY + b"twin", b"\3", 0], None, None, None], commit_id=99))
        assert answers(second, 1)[0][2] == version, "the same commit again is told what it was told"
        close(second)
        watch.unharmed()


class TestPins:
    """A page of snapshot slots is the one thing a client may write."""

    @pytest.mark.long
    def test_a_page_of_garbage(self, tmp_path: Path) -> None:
        """Every slot at version 1, in the future, or nonsense holds up reclaiming for its grace, not for ever."""
        with shoal.open(tmp_path / "store", durability="memory", linger=0.2, max_bytes=8 * MIB) as db:
            watch = Watch(db)
            pages = []
            for fill in ([1] * 4095, [2**64 - 1] * 4095, [1, 2**63, 0] * 1365, list(range(1, 4096))):
                welcome = attach(db)
                page = mmap.mmap(welcome.slots_fd, 4096 * 8)
                page[:] = struct.pack("<4096Q", 2**64 - 1, *fill)  # how many are in use, and which
                pages.append((welcome, page))
            kv, full = shoal.KVStore(db), 0
            for i in range(900):  # more than the store holds
                try:
                    kv.put("r", "same key", os.urandom(10_000))
                except shoal.StoreFullError:
                    full += 1
                    assert full < 600, "what is pinned is never let go"
                    time.sleep(0.01)
                if i % 100 == 0:
                    watch.commit(1)
            assert kv.get("r", "same key") is not None
            for welcome, page in pages:
                page.close()
                close(welcome)
            watch.unharmed()

    def test_a_page_cannot_be_cut_or_grown(self, watch: Watch) -> None:
        """So that the coordinator's mapping never faults."""
        welcome = attach(watch.db)
        for size in (0, 4096, 1 << 30):
            with pytest.raises(PermissionError):
                os.ftruncate(welcome.slots_fd, size)
        close(welcome)
        watch.unharmed()


def _few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))


@pytest.mark.slow
def test_descriptors_exhausted(tmp_path: Path) -> None:
    """With every descriptor taken, clients inside go on; a new one is told why it is not admitted."""
    store = tmp_path / "store"
    command = [sys.executable, "-m", "shoal", "serve", str(store), "--max-bytes", str(64 * MIB)]
    server = subprocess.Popen(command, preexec_fn=_few_descriptors, stdout=subprocess.PIPE, text=True)
    clients = []
    try:
        assert server.stdout is not None
        server.stdout.readline()
        with shoal.open(store) as db:
            watch = Watch(db)
            assert watch.pid == server.pid
            with pytest.raises(shoal.ConfigurationError, match="200 descriptors"):  # noqa: PT012
                for _ in range(200):
                    clients.append(attach(db))
            assert 20 < len(clients) < 60
            silent = [socket.socket(socket.AF_UNIX) for _ in range(100)]
            for connection in silent:
                connection.connect(f"{db.path}/control.sock")
            for i in range(40):  # ten log files
                shoal.KVStore(db).put("r", f"k{i % 4}", os.urandom(MIB))
                watch.commit(1)
            with pytest.raises(shoal.ConfigurationError, match="raise `ulimit -n`"):
                shoal.open(store, timeout=5)
            for connection in silent:
                connection.close()
            for client in clients:
                close(client)
            clients.clear()
            watch.commit()
            with shoal.open(store) as another:
                assert shoal.KVStore(another).get("honest", "n") == watch.commits
            assert db.check() == []
    finally:
        for client in clients:
            close(client)
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0
        present(server.stdout).close()

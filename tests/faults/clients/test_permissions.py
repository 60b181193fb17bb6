"""Only a store's own user has access: modes of every file, and what another user's process is refused."""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.cli.main import main as command
from shoal.coordinator.control_socket import ControlSocket
from shoal.shm.files import store_directory, store_files
from shoal.shm.files.notes import append_note
from shoal.shm.wire import handshake

NOBODY = 65534
OPEN_UMASK = 0
as_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root: only root can become another user")


@pytest.fixture
def open_umask() -> Iterator[None]:
    """A umask that hides nothing: modes are shoal's own doing."""
    before = os.umask(OPEN_UMASK)
    yield
    os.umask(before)


def modes(directory: Path) -> dict[str, str]:
    """The mode of a directory and of everything in it."""
    found = {path.name: path for path in directory.iterdir()} | {".": directory}
    return {name: oct(stat.S_IMODE(path.lstat().st_mode)) for name, path in found.items()}


def assert_private(directory: Path) -> None:
    found = modes(directory)
    assert found.pop(".") == "0o700"
    assert found
    assert {name: mode for name, mode in found.items() if mode != "0o600"} == {}


class TestModes:
    """0700 for directories, 0600 for files, whatever the umask."""

    @pytest.mark.parametrize("durability", ["memory", "strict"])
    def test_a_store(self, tmp_path: Path, durability: str, open_umask: None) -> None:
        """While it is served: socket, locks, log, epoch, store.json; and what is left of it."""
        store = tmp_path / "deep" / "store"
        with shoal.open(store, durability=durability, linger=0.1) as db:
            shoal.KVStore(db).put("r", "k", "v" * 10_000)
            expected = {"store.json", "epoch", "control.sock", "coordinator.lock", "start.lock"}
            assert modes(store).keys() >= expected
            assert any(name.startswith("wal-") for name in modes(store)) == (durability != "memory")
            assert_private(store)
            db.backup(tmp_path / "backup")
        assert_private(tmp_path / "backup")
        assert_private(store)

    def test_a_checkpoint_and_notes(self, store: Path, open_umask: None) -> None:
        """What the coordinator's helper writes, and what is written when something goes wrong."""
        with shoal.open(store, linger=0.1) as db:
            shoal.KVStore(db).put("r", "k", 1)
        append_note(store, "something went wrong")
        shoal.open(store, linger=0.1).close()
        assert "coordinator.log" in modes(store)
        assert_private(store)

    def test_an_export(self, tmp_path: Path, open_umask: None) -> None:
        """A file made for an export, and one that was there with another mode."""
        with shoal.open(tmp_path / "store", durability="memory", linger=0.1) as db:
            shoal.KVStore(db).put("r", "k", 1)
            there = tmp_path / "there"
            there.write_text("old")
            there.chmod(0o666)
            for path in (tmp_path / "new", there):
                assert command(["export", str(db.path), str(path)]) == 0
                assert oct(stat.S_IMODE(path.stat().st_mode)) == "0o600"
        assert {path.name for path in tmp_path.iterdir()} == {"store", "new", "there"}

    def test_temporary_files(
        self, store: Path, tmp_path: Path, open_umask: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that is to replace another is private from its first byte on."""
        seen = {}
        rename = os.replace

        def replace(source: Any, target: Any) -> None:
            seen[Path(target).name] = oct(stat.S_IMODE(os.lstat(source).st_mode))
            rename(source, target)

        monkeypatch.setattr(os, "replace", replace)
        store_directory.make_directory(store)
        store_files.write_meta(store, store_files.StoreMeta("buffered", 8 << 20))
        with shoal.open(store, durability="memory", linger=0.1) as db:
            db.backup(tmp_path / "backup")
            assert command(["export", str(db.path), str(tmp_path / "out")]) == 0
        assert {"store.json", "out"} <= seen.keys()
        assert any(name.startswith("checkpoint-") for name in seen)
        assert set(seen.values()) == {"0o600"}

    def test_memory_without_a_name(self, memory_db: shoal.Database) -> None:
        """The segment and a page of slots: the descriptors the coordinator holds name memory of mode 0600."""
        pid = memory_db.info().coordinator_pid
        found = []
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(entry)
                mode = entry.stat().st_mode
            except FileNotFoundError:
                continue
            if "memfd:" in target:
                found.append((target, oct(stat.S_IMODE(mode))))
        assert found
        assert {mode for _, mode in found} <= {"0o600", "0o400"}


def as_nobody(code: str, *arguments: str) -> list[str]:
    """What a process of another user says, a line for each thing it tried."""
    ours, theirs = os.pipe()
    pid = os.fork()  # Python itself may lie where another user cannot read it
    if pid == 0:
        said = "the child ended early"
        try:
            said = _attempts_as_nobody(code, list(arguments))
        finally:
            os.write(theirs, said.encode())
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as lines:
        found = lines.read().splitlines()
    os.waitpid(pid, 0)
    return found


def _attempts_as_nobody(code: str, arguments: list[str]) -> str:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    os.chdir("/")
    said = []

    def attempt(what: str, call: Callable[[], object]) -> None:
        try:
            found = call()
        except (OSError, shoal.ShoalError) as error:
            said.append(f"{what} refused {type(error).__name__}")
        else:
            said.append(f"{what} DONE {found!r:.80}")

    known = {"json": json, "mmap": mmap, "os": os, "shoal": shoal, "socket": socket}
    exec(code, {"attempt": attempt, "arguments": arguments, **known})
    return "\n".join(said)


@as_root
class TestAnotherUser:
    """A process of another user on the same machine."""

    @pytest.fixture
    def reachable(self) -> Iterator[Path]:
        """A directory that the other user may enter, so that the store's own modes keep it out."""
        with tempfile.TemporaryDirectory() as path:
            Path(path).chmod(0o755)
            yield Path(path)

    def test_is_refused_everything(self, reachable: Path) -> None:
        """The directory, each file in it, the socket, the coordinator's memory and descriptors, and a signal."""
        store = reachable / "store"
        with shoal.open(store, linger=0.2) as db:
            shoal.KVStore(db).put("r", "k", "secret")
            pid = db.info().coordinator_pid
            fds = [entry.name for entry in Path(f"/proc/{pid}/fd").iterdir()]
            said = as_nobody(
                "store, pid = arguments[0], int(arguments[1])\n"
                "names, fds = json.loads(arguments[2]), json.loads(arguments[3])\n"
                "attempt('look outside', lambda: os.listdir(os.path.dirname(store)))\n"
                "attempt('list', lambda: os.listdir(store))\n"
                "attempt('add', lambda: open(store + '/mine', 'w'))\n"
                "for name in names:\n"
                "    for how in ('rb', 'r+b'):\n"
                "        attempt(f'{how} {name}', lambda: open(store + '/' + name, how))\n"
                "attempt('connect', lambda: socket.socket(socket.AF_UNIX).connect(store + '/control.sock'))\n"
                "attempt('list descriptors', lambda: os.listdir(f'/proc/{pid}/fd'))\n"
                "for fd in fds:\n"
                "    attempt(f'descriptor {fd}', lambda: os.open(f'/proc/{pid}/fd/{fd}', os.O_RDONLY))\n"
                "attempt('memory', lambda: open(f'/proc/{pid}/mem', 'rb'))\n"
                "attempt('mappings', lambda: os.listdir(f'/proc/{pid}/map_files'))\n"
                "attempt('signal', lambda: os.kill(pid, 9))\n",
                *(str(store), str(pid), json.dumps(os.listdir(store)), json.dumps(fds)),
            )
            assert said.pop(0).startswith("look outside DONE")
            assert len(said) > 20
            assert [line for line in said if " refused " not in line] == []
            assert shoal.KVStore(db).get("r", "k") == "secret"
            assert db.info().coordinator_pid == pid

    def test_open_says_whose_store_it_is(self, reachable: Path) -> None:
        """``shoal.open`` raises ConfigurationError there, and starts nothing."""
        store = reachable / "store"
        with shoal.open(store, durability="memory", linger=0.2) as db:
            pid = db.info().coordinator_pid
            said = as_nobody("attempt('open', lambda: shoal.open(arguments[0], timeout=2))\n", str(store))
            assert said == ["open refused ConfigurationError"]
            assert db.info().coordinator_pid == pid

    def test_is_shown_out_even_if_the_modes_are_opened(self, reachable: Path) -> None:
        """Should somebody open the directory and the socket to all, the kernel still says who is on the other end."""
        store = reachable / "store"
        with shoal.open(store, durability="memory", linger=0.2) as db:
            store.chmod(0o777)
            (store / "control.sock").chmod(0o666)
            said = as_nobody(
                "s = socket.socket(socket.AF_UNIX); s.settimeout(20)\n"
                "s.connect(arguments[0] + '/control.sock')\n"
                "def knock():\n"
                "    try:\n        s.sendall(bytes.fromhex(arguments[1]))\n"
                "        return socket.recv_fds(s, 4096, 4)[:2]\n"
                "    except (BrokenPipeError, ConnectionResetError):\n        return (b'', [])\n"
                "attempt('knock', knock)\n",
                str(store),
                handshake.encode_hello(handshake.Hello(handshake.PROTOCOL_VERSION, 5, 1, None, None)).hex(),
            )
            assert said == ["knock DONE (b'', [])"]
            assert db.info().clients == 1

    def test_an_inherited_descriptor_only_reads(self, memory_db: shoal.Database) -> None:
        """A process that is given a read-only descriptor on purpose can read through it, and still not write."""
        fd = _segment_fd(memory_db)
        try:
            said = as_nobody(
                "fd = int(arguments[0])\n"
                "attempt('reopen', lambda: os.open(f'/proc/self/fd/{fd}', os.O_RDWR))\n"
                "attempt('map', lambda: mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE))\n"
                "attempt('truncate', lambda: os.ftruncate(fd, 0))\n"
                "attempt('chmod', lambda: os.fchmod(fd, 0o666))\n",
                str(fd),
            )
        finally:
            os.close(fd)
        assert [line for line in said if " refused " not in line] == []

    def test_a_process_that_has_given_up_its_rights(self, reachable: Path) -> None:
        """It reads and commits; when the coordinator is gone it is told whose the store is, and goes on reading."""
        with shoal.open(reachable / "store", linger=0.2) as db:
            kv = shoal.KVStore(db)
            kv.put("r", "k", 1)
            os.seteuid(NOBODY)
            try:
                kv.put("r", "k", 2)
                died = os.pidfd_open(db.info().coordinator_pid)
                os.seteuid(0)
                signal.pidfd_send_signal(died, signal.SIGKILL)
                select.select([died], [], [], 30)
                os.close(died)
                os.seteuid(NOBODY)
                for _ in range(2):
                    with pytest.raises(shoal.ConfigurationError, match="belongs to another user"):
                        kv.put("r", "k", 3)
                assert kv.get("r", "k") == 2
            finally:
                os.seteuid(0)
            kv.put("r", "k", 4)
            assert kv.get("r", "k") == 4


def _segment_fd(db: shoal.Database) -> int:
    from tests.support.raw_client import attach

    welcome = attach(db)
    for fd in welcome.descriptors[1:]:
        os.close(fd)
    return welcome.segment_fd


def test_the_door_is_never_open_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_umask: None) -> None:
    """Between its making and its chmod the socket stands in a directory of mode 0700: nobody else can reach it."""
    seen = []
    sound = os.chmod

    def chmod(path: Any, mode: Any, **options: Any) -> None:
        seen.append(modes(tmp_path / "store")["."])
        sound(path, mode, **options)

    store_directory.make_directory(tmp_path / "store")
    monkeypatch.setattr(os, "chmod", chmod)
    control = ControlSocket(tmp_path / "store", lambda hello, pid: pytest.fail("nobody knocked"))
    try:
        assert modes(tmp_path / "store")["control.sock"] == "0o600"
        assert seen == ["0o700"]
    finally:
        control.close()

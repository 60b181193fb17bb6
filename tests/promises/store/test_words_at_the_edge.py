"""What the user is told where a store cannot be opened, a commit has no room, or an argument names no store."""

import os
import pathlib
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.shm import limits
from shoal.shm.files import store_files
from shoal.shm.host import child_python, machine_memory
from tests.support.slow import slow

MIB = limits.MIB


class TestPaths:
    def test_where_the_current_directory_was_deleted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A relative path leads nowhere, of a store as of a backup; an absolute one works as everywhere."""
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        with shoal.open(tmp_path / "store", linger=0.1) as db:
            for call in (shoal.open, db.backup):
                with pytest.raises(shoal.ConfigurationError, match="current directory was deleted; change to another"):
                    call("relative")
            assert db.backup(tmp_path / "copy") == 0

    @pytest.mark.parametrize("options", [{}, {"read_only": True}], ids=repr)
    def test_links_in_a_circle(self, tmp_path: Path, options: dict[str, Any]) -> None:
        """The error is shoal's, with the path and a remedy, whichever way the store is opened."""
        (tmp_path / "link").symlink_to("link")
        for name in ("link", "link/store"):
            with pytest.raises(shoal.ConfigurationError, match=f"{name} cannot be a store .*; give another path"):
                shoal.open(tmp_path / name, **options)

    @pytest.mark.parametrize(
        ("path", "error", "text"),
        [
            ("", ValueError, "path is empty"),
            (b"", ValueError, "path is empty"),
            ("a\0b", ValueError, "NUL"),
            (None, TypeError, "path has type NoneType"),
            (5, TypeError, "path has type int"),
            (["a"], TypeError, "path has type list"),
            ("x" * 300, shoal.ConfigurationError, "File name too long"),
        ],
        ids=repr,
    )
    def test_what_names_no_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Any, error: type[Exception], text: str
    ) -> None:
        """open and WorkerPool say so at once and make nothing."""
        monkeypatch.chdir(tmp_path)
        for call in (lambda: shoal.open(path), lambda: shoal.WorkerPool(path, 1)):
            with pytest.raises(error, match=text):
                call()
        assert os.listdir(tmp_path) == []

    def test_a_backup_needs_a_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_db: shoal.Database
    ) -> None:
        """The same paths are refused as its destination; an empty one is not the current directory."""
        monkeypatch.chdir(tmp_path)
        no_paths: list[tuple[Any, type[Exception]]] = [("", ValueError), ("a\0b", ValueError), (5, TypeError)]
        for path, error in no_paths:
            with pytest.raises(error, match=r"^dest "):
                memory_db.backup(path)
        assert os.listdir(tmp_path) == []

    def test_a_file_is_no_store(self, tmp_path: Path) -> None:
        """Nor can one be made below a file."""
        (tmp_path / "file").write_text("mine")
        with pytest.raises(shoal.ConfigurationError, match="not a directory"):
            shoal.open(tmp_path / "file")
        assert (tmp_path / "file").read_text() == "mine"

    def test_paths_of_every_kind_name_the_same_store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """str, Path, bytes and any PathLike; ``~`` is a name like others."""
        monkeypatch.chdir(tmp_path)

        class Named:
            def __fspath__(self) -> str:
                return "~"

        with shoal.open("~", durability="memory") as db:
            shoal.KVStore(db).put("r", "k", 1)
            paths: list[Any] = [pathlib.Path("~"), b"~", Named(), str(tmp_path / "~")]
            for path in paths:
                with shoal.open(path) as other:
                    assert shoal.KVStore(other).get("r", "k") == 1
                    assert other.path == str(tmp_path / "~")

    def test_a_path_that_is_no_text(self, tmp_path: Path) -> None:
        """What the coordinator finds wrong there is said at once; the path is in it, with escapes."""
        store = os.fsencode(tmp_path) + b"/\xff"
        os.makedirs(store + b"/coordinator.lock")
        with pytest.raises(shoal.ConfigurationError, match=r"\\udcff/coordinator.lock is a directory"):
            shoal.open(store, timeout=60)  # type: ignore[arg-type]

    @pytest.mark.long
    def test_the_command_takes_no_empty_path(self, tmp_path: Path) -> None:
        """It would be the current directory."""
        for arguments in (["info", ""], ["backup", "s", ""], ["run", "m:f", "a", "--store", ""], ["serve", ""]):
            ended = subprocess.run(
                [sys.executable, "-m", "shoal", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
            )
            assert ended.returncode == 2
            assert re.fullmatch(r"shoal \w+: error: .*the path is empty.*\n", ended.stderr)
        assert os.listdir(tmp_path) == []


class TestInterpreter:
    @pytest.mark.parametrize("executable", [None, "", "/nonexistent/python", "/", "/bin/true", "/bin/false", "text"])
    def test_a_python_that_is_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executable: Any) -> None:
        """What cannot start a coordinator is named at once, not after the timeout."""
        if executable == "text":
            (tmp_path / "text").write_text("no program")
            (tmp_path / "text").chmod(0o700)
            executable = str(tmp_path / "text")
        monkeypatch.setattr(sys, "executable", executable)
        began_s = time.monotonic()
        with pytest.raises(shoal.ConfigurationError, match=re.escape(f"sys.executable {executable!r}")):
            shoal.open(tmp_path / "store", timeout=60)
        assert time.monotonic() - began_s < 30

    def test_a_frozen_program_is_not_run_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its sys.executable is itself."""
        monkeypatch.setattr(sys, "frozen", True, raising=False)
        with pytest.raises(shoal.ConfigurationError, match="frozen"):
            shoal.open(tmp_path / "store")

    @pytest.mark.long
    def test_one_that_never_ends(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A program that is no Python and goes on for ever is ended with the timeout."""
        (tmp_path / "forever").write_text("#!/bin/sh\nexec sleep 60\n")
        (tmp_path / "forever").chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "forever"))
        with pytest.raises(shoal.CoordinatorLostError):
            shoal.open(tmp_path / "store", timeout=1)

    def test_a_coordinator_that_cannot_import(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is missing in its environment is said at once."""
        (tmp_path / "msgpack.py").write_text("raise ImportError('no msgpack here')")
        environment = child_python.python_environment()
        environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{environment['PYTHONPATH']}"
        monkeypatch.setattr("shoal.workers.coordinator_start.python_environment", lambda: environment)
        with pytest.raises(shoal.ConfigurationError, match="ImportError: no msgpack here"):
            shoal.open(tmp_path / "store", timeout=60)

    @pytest.mark.parametrize("shift", ["", "x"])
    def test_where_the_reason_is_too_long(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: str) -> None:
        """The reason is cut, wherever a letter of several bytes stands, and what is left of it is said."""
        (tmp_path / "msgpack.py").write_text(f"raise ImportError('no msgpack here {shift}' + 'ä' * 3000)")
        environment = child_python.python_environment()
        environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{environment['PYTHONPATH']}"
        monkeypatch.setattr("shoal.workers.coordinator_start.python_environment", lambda: environment)
        with pytest.raises(shoal.ConfigurationError, match=r"ImportError: no msgpack here x?ä+$"):
            shoal.open(tmp_path / "store", timeout=60)

    def test_a_coordinator_with_a_fault_in_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An error nobody foresaw is reported as well, with where to read more."""
        (tmp_path / "sitecustomize.py").write_text(
            "import os, sys\nif 'shoal.coordinator_main' in sys.argv:\n    os.urandom = 1 .bit_length\n"
        )
        environment = child_python.python_environment()
        environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{environment['PYTHONPATH']}"
        monkeypatch.setattr("shoal.workers.coordinator_start.python_environment", lambda: environment)
        with pytest.raises(shoal.CoordinatorLostError, match="could not start: TypeError"):
            shoal.open(tmp_path / "store", timeout=60)


SURVIVE = """
import os, resource, signal, sys, shoal
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
with shoal.open(sys.argv[2]) as db:
    kv = shoal.KVStore(db)
    for number in range(2):
        kv.put("r", f"before/{number}", 1)
        os.kill(db.info().coordinator_pid, signal.SIGKILL)
        kv.put("r", f"after/{number}", 1)
    print(len(kv.list("r")))
"""

PROGRAM = """
import resource, sys, shoal
resource.setrlimit(getattr(resource, sys.argv[1]), (int(sys.argv[2]),) * 2)
max_bytes = int(sys.argv[4]) or None
try:
    with shoal.open(sys.argv[3], durability="memory", max_bytes=max_bytes) as db:
        value = bytes(8_000_000)
        for number in range(int(sys.argv[5])):
            with db.transaction("r") as txn:
                for part in range(6):
                    txn.kv.put(f"{number}/{part}", value)
    print("ok")
except shoal.ShoalError as error:
    print(type(error).__name__, error)
"""


def under_limit(tmp_path: Path, limit: str, most_bytes: int, max_bytes: int = 0, commits: int = 0) -> str:
    arguments = [limit, str(most_bytes), str(tmp_path / "store"), str(max_bytes), str(commits)]
    ended = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


class TestMemory:
    @pytest.mark.long
    @pytest.mark.parametrize(("limit", "most_bytes"), [("RLIMIT_AS", 400 * MIB), ("RLIMIT_FSIZE", 20 * MIB)])
    def test_limits_of_the_process(self, tmp_path: Path, limit: str, most_bytes: int) -> None:
        """A store of the default size opens under any of them; one that asks for more is told of max_bytes."""
        assert under_limit(tmp_path, limit, most_bytes) == "ok\n"
        told = under_limit(tmp_path / "other", limit, most_bytes, max_bytes=2048 * MIB)
        assert told.startswith("ConfigurationError")
        assert "max_bytes" in told

    @pytest.mark.parametrize("most_mib", [190, *slow(120, 150, 165, 180, 205, 220)])
    def test_a_coordinator_dies_under_a_limit(self, tmp_path: Path, most_mib: int) -> None:
        """A store of the default size leaves room for the next coordinator's memory beside the last one's."""
        arguments = [str(most_mib * MIB), str(tmp_path / "store")]
        ended = subprocess.run([sys.executable, "-c", SURVIVE, *arguments], capture_output=True, text=True, timeout=120)
        assert (ended.returncode, ended.stdout) == (0, "4\n"), ended.stderr

    @pytest.mark.long
    def test_a_client_with_a_lower_limit(self, tmp_path: Path) -> None:
        """Who may not map a store that another has opened is told of max_bytes, too."""
        with shoal.open(tmp_path / "store", durability="memory", max_bytes=4096 * MIB):
            told = under_limit(tmp_path, "RLIMIT_AS", 600 * MIB)
        assert told.startswith("ConfigurationError no 4,294,967,296 bytes")
        assert "max_bytes" in told

    @pytest.mark.long
    def test_a_commit_there_is_no_memory_for(self, tmp_path: Path) -> None:
        """A commit that the process cannot put together is StoreFullError, not MemoryError, and names max_bytes."""
        told = under_limit(tmp_path, "RLIMIT_AS", 280 * MIB, max_bytes=100 * MIB, commits=3)
        assert told.startswith("StoreFullError")
        assert "max_bytes" in told

    @pytest.mark.parametrize("max_bytes", [limits.MIN_STORE_BYTES + 1, 10_737_418, 12_345_679])
    def test_any_number_of_bytes(self, tmp_path: Path, max_bytes: Any) -> None:
        """max_bytes need not be whole pages or words."""
        with shoal.open(tmp_path / "store", durability="memory", max_bytes=max_bytes) as db:
            shoal.KVStore(db).put("r", "k", 1)
            assert db.check() == []

    def test_the_default_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """By the process's limits, less what it needs itself, from 8 MiB on."""
        monkeypatch.setattr(
            resource, "getrlimit", lambda limit: (400 * MIB, 400 * MIB) if limit == resource.RLIMIT_AS else (-1, -1)
        )
        assert store_files.default_max_bytes() == 100 * MIB
        monkeypatch.setattr(resource, "getrlimit", lambda limit: (4096, 4096))
        assert store_files.default_max_bytes() == limits.MIN_STORE_BYTES

    @pytest.mark.parametrize(
        ("groups", "mount", "files", "found"),
        [
            (
                "0::/a/b",
                "30 23 0:26 / {} rw - cgroup2 cgroup2 rw,nsdelegate",
                {"a/b/memory.max": "1000", "a/memory.max": "max"},
                {1000},
            ),
            (
                "0::/a/b",
                "30 23 0:26 / {} rw - cgroup2 cgroup2 rw",
                {"a/b/memory.max": "1000", "a/memory.max": "500"},
                {1000, 500},
            ),
            ("0::/", "30 23 0:26 / {} rw shared:4 - cgroup2 cgroup2 rw", {"memory.max": "700"}, {700}),
            ("0::/on/the/host", "30 23 0:26 / {} rw - cgroup2 cgroup2 rw", {"memory.max": "700"}, {700}),
            ("0::/on/the/host", "30 23 0:26 /on/the/host {} rw - cgroup2 cgroup2 rw", {"memory.max": "700"}, {700}),
            (
                "9:memory:/c\n3:cpu:/x\n0::/",
                "39 31 0:29 / {} rw - cgroup cgroup rw,memory",
                {"c/memory.limit_in_bytes": "900"},
                {900},
            ),
            ("9:cpu:/c", "39 31 0:29 / {} rw - cgroup cgroup rw,cpu", {"c/memory.limit_in_bytes": "900"}, set()),
        ],
    )
    def test_control_groups(self, tmp_path: Path, groups: str, mount: str, files: Any, found: Any) -> None:
        """Versions 1 and 2, the limit of a group around the process's, and a container's view of the host's paths."""
        top = tmp_path / "cgroup"
        top.mkdir()
        for name, text in files.items():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_text(text + "\n")
        (tmp_path / "groups").write_text(groups + "\n")
        (tmp_path / "mounts").write_text(f"22 1 8:1 / / rw - ext4 /dev/root rw\n{mount.format(top)}\n")
        assert set(machine_memory._control_group_limits(tmp_path / "groups", tmp_path / "mounts")) == found

    def test_a_machine_without_control_groups(self, tmp_path: Path) -> None:
        """Has no limits of theirs."""
        assert list(machine_memory._control_group_limits(tmp_path / "none", tmp_path / "none")) == []


class TestAdvice:
    @pytest.mark.parametrize(
        ("call", "advice"),
        [
            (lambda kv, db: kv.put("r", "k" * 2000, 1), "shorter one, or a hash"),
            (lambda kv, db: kv.put("r" * 200, "k", 1), "shorter one, or a hash"),
            (lambda kv, db: kv.list("r", "k" * 2000), "nothing begins with it"),
            (lambda kv, db: kv.put("r", "k", b"x" * (17 * MIB)), "split it, or store it elsewhere and its path here"),
            (lambda kv, db: kv.put("r", "k", _nested(300)), "flatter"),
            (lambda kv, db: _too_large_a_commit(db), "split the transaction"),
            (lambda kv, db: [db.snapshot("r") for _ in range(5000)], "close snapshots"),
            (lambda kv, db: (kv.put("r", "n", 2**64 - 1), kv.increment("r", "n")), "count in another key"),
            (
                lambda kv, db: (kv.put("r", "n", -(2**63)), kv.increment("r", "n", -1)),
                "the limit is -9,223,372,036,854,775,808",
            ),
        ],
        ids=range(9),
    )
    def test_it_fits_the_limit(self, memory_db: shoal.Database, call: Any, advice: str) -> None:
        """LimitExceededError says what helps with what is too large, also after the trip through a pipe."""
        with pytest.raises(shoal.LimitExceededError, match=re.escape(advice)):
            call(shoal.KVStore(memory_db), memory_db)


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def _too_large_a_commit(db: shoal.Database) -> None:
    with db.transaction("r") as txn:
        for number in range(6):
            txn.kv.put(f"k{number}", b"x" * (12 * MIB))

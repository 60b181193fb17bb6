"""Opening and closing a store, section 1 of the contract: modes, options, durability, and what stays afterwards."""

# ruff: noqa: PT012 (what raises is the end of the with block, whatever stands in it)

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import ConfigurationError, InvalidOperationError, KVStore
from tests.support.slow import slow

MIB = 1024 * 1024

MAKE_STORES_AND_BACKUPS = """
import os, pathlib, sys, shoal
directory, durability = pathlib.Path(sys.argv[1]), sys.argv[2]
for umask in sys.argv[3:]:
    (directory / umask).mkdir()
    store, copy = directory / umask / "store", directory / umask / "copy"
    os.umask(int(umask, 8))
    with shoal.open(store, durability=durability, linger=0.0) as db:
        kv = shoal.KVStore(db)
        for number in range(50):
            kv.put("r", f"k{number}", "v" * 100)
        db.backup(copy)
        for place in (store, copy):
            for path in (place, *place.iterdir()):
                print(path, oct(path.lstat().st_mode & 0o7777))
    os.umask(0o022)
"""


def modes(directory: Path) -> dict[str, str]:
    """The mode of every file of a directory."""
    return {entry.name: oct(stat.S_IMODE(entry.lstat().st_mode)) for entry in directory.iterdir()}


class TestModes:
    @pytest.mark.long
    @pytest.mark.parametrize("durability", [*slow("memory"), "buffered"])
    def test_directory_0700_and_files_0600(self, tmp_path: Path, durability: str) -> None:
        """Whatever the umask, a store and a backup are 0700 and every file in them 0600, while served and after."""
        umasks = ["000", "022", "777"]
        result = subprocess.run(
            [sys.executable, "-c", MAKE_STORES_AND_BACKUPS, tmp_path, durability, *umasks],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        lines = dict(line.rsplit(maxsplit=1) for line in result.stdout.splitlines())
        for place in [tmp_path / umask / name for umask in umasks for name in ("store", "copy")]:
            assert lines.pop(str(place)) == "0o700"
            inside = {path: mode for path, mode in lines.items() if Path(path).parent == place}
            assert inside
            assert {path: mode for path, mode in inside.items() if mode != "0o600"} == {}
            assert {name: mode for name, mode in modes(place).items() if mode != "0o600"} == {}
        assert len(lines) > 4 * len(umasks)

    def test_parents_are_made(self, tmp_path: Path) -> None:
        """A path whose parents are missing is made, and is 0700 itself."""
        path = tmp_path / "a" / "b" / "store"
        with shoal.open(path, durability="memory", linger=0.05):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700


class TestOptions:
    @pytest.mark.parametrize("max_bytes", [0, 1, 8 * MIB - 1, -1])
    def test_less_than_8_mib_is_refused(self, store: Path, max_bytes: Any) -> None:
        """max_bytes below 8 MiB is ConfigurationError naming value and bound, and nothing is made."""
        with pytest.raises(ConfigurationError, match=r"8,388,608") as caught:
            shoal.open(store, max_bytes=max_bytes)
        assert f"{max_bytes:,}" in str(caught.value)
        assert not store.exists()

    @pytest.mark.parametrize("max_bytes", [8.0 * MIB, "8388608", True])
    def test_max_bytes_of_another_type(self, store: Path, max_bytes: Any) -> None:
        """max_bytes that is no int is TypeError, and nothing is made."""
        with pytest.raises(TypeError, match="max_bytes"):
            shoal.open(store, max_bytes=max_bytes)
        assert not store.exists()

    def test_8_mib_is_enough(self, store: Path) -> None:
        """The smallest store works."""
        with shoal.open(store, max_bytes=8 * MIB, durability="memory", linger=0.05) as db:
            kv = KVStore(db)
            with db.transaction("r") as txn:
                for number in range(2000):
                    txn.kv.put(f"{number:05}", "x" * 100)
            assert kv.list("r") == [f"{number:05}" for number in range(2000)]
            assert 0 < db.info().bytes_used < 8 * MIB
            assert db.check() == []

    @pytest.mark.parametrize("durability", ["none", "", "STRICT", 1, True])
    def test_unknown_durability(self, store: Path, durability: Any) -> None:
        """Anything but the three is ConfigurationError naming it and them, and nothing is made."""
        with pytest.raises(ConfigurationError) as caught:
            shoal.open(store, durability=durability)
        for part in (repr(durability), "memory", "buffered", "strict"):
            assert part in str(caught.value)
        assert not store.exists()

    @pytest.mark.parametrize(
        ("name", "value", "error"),
        [
            ("timeout", "1", TypeError),
            ("timeout", -1, ValueError),
            ("timeout", float("nan"), ValueError),
            ("linger", None, TypeError),
            ("linger", -0.1, ValueError),
            ("linger", True, TypeError),
        ],
    )
    def test_bad_seconds(self, store: Path, name: str, value: Any, error: type[Exception]) -> None:
        """timeout and linger are refused by name before anything is made."""
        with pytest.raises(error, match=name):
            shoal.open(store, **{name: value})
        assert not store.exists()

    def test_zero_linger_is_served_while_open(self, store: Path) -> None:
        """linger counts from the last client's leaving: with 0 the store still opens and serves."""
        with shoal.open(store, durability="memory", linger=0, timeout=30) as db:
            KVStore(db).put("r", "k", 1)
            assert KVStore(db).get("r", "k") == 1

    def test_path_of_a_file(self, tmp_path: Path) -> None:
        """A path that is a file is refused and left as it is."""
        path = tmp_path / "file"
        path.write_text("mine")
        with pytest.raises(ConfigurationError, match="directory"):
            shoal.open(path, timeout=2)
        assert path.read_text() == "mine"

    @pytest.mark.parametrize("path", [5, None, 1.5])
    def test_path_of_another_type(self, path: Any) -> None:
        """A path that is none is TypeError."""
        with pytest.raises(TypeError):
            shoal.open(path)

    def test_str_and_path_and_relative(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A str, a Path and a relative path are the same store, also after a change of directory."""
        monkeypatch.chdir(tmp_path)
        with shoal.open("store", durability="memory", linger=0.1) as relative:
            monkeypatch.chdir("/")
            with shoal.open(tmp_path / "store") as absolute, shoal.open(str(tmp_path / "store")) as text:
                KVStore(relative).put("r", "k", 1)
                assert KVStore(absolute).get("r", "k") == 1
                assert KVStore(text).get("r", "k") == 1
                assert relative.info().path == absolute.info().path == str(tmp_path / "store")

    def test_a_very_long_path(self, tmp_path: Path) -> None:
        """A path longer than a socket address allows is served like any other."""
        path = tmp_path / ("d" * 120) / ("e" * 120)
        with shoal.open(path, durability="memory", linger=0.05) as db:
            KVStore(db).put("r", "k", 1)
            assert db.info().path == str(path)
            with shoal.open(path) as second:
                assert KVStore(second).get("r", "k") == 1


class TestDurability:
    def test_another_than_served_names_both(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """Naming another durability than the one served is ConfigurationError that names both."""
        store = memory_db.path
        for other in ("buffered", "strict"):
            with pytest.raises(ConfigurationError) as caught:
                shoal.open(store, durability=other)
            assert "'memory'" in str(caught.value)
            assert f"'{other}'" in str(caught.value)
        kv.put(run, "k", 1)
        with shoal.open(store, durability="memory") as same, shoal.open(store) as unnamed:
            assert same.info().durability == unnamed.info().durability == "memory"

    def test_default_is_buffered(self, db: shoal.Database) -> None:
        """A new store is buffered."""
        assert db.info().durability == "buffered"

    @pytest.mark.slow
    def test_none_takes_the_last_and_rest_takes_any(self, store: Path, wait_for_end: Callable[[int], None]) -> None:
        """At rest any may be named; without one it is the last it was served with, and the data stays."""
        served = []
        for named in ("strict", None, "buffered", None, "memory", None):
            with shoal.open(store, durability=named, linger=0.05) as db:
                info = db.info()
                served.append(info.durability)
                if named == "strict":
                    KVStore(db).put("r", "k", "kept")
                assert KVStore(db).get("r", "k") == "kept"
            wait_for_end(info.coordinator_pid)
        assert served == ["strict", "strict", "buffered", "buffered", "memory", "memory"]

    def test_max_bytes_of_another_size_names_both(self, store: Path) -> None:
        """Naming another max_bytes than the one served is ConfigurationError that names both."""
        with shoal.open(store, max_bytes=16 * MIB, durability="memory", linger=0.05):
            with pytest.raises(ConfigurationError) as caught:
                shoal.open(store, max_bytes=32 * MIB)
            assert f"{16 * MIB:,}" in str(caught.value)
            assert f"{32 * MIB:,}" in str(caught.value)


class TestClose:
    def test_twice(self, another: shoal.Database) -> None:
        """Closing twice does nothing."""
        db = another
        db.close()
        db.close()
        with db:
            pass

    def test_use_afterwards(self, another: shoal.Database, tmp_path: Path) -> None:
        """Every use of a closed database is InvalidOperationError, and does not open it again."""
        db = another
        kv = KVStore(db)
        kv.put("r", "k", 1)
        db.close()
        for call in (
            lambda: kv.get("r", "k"),
            lambda: kv.put("r", "k", 2),
            lambda: kv.list("r"),
            lambda: kv.delete("r", "k"),
            lambda: kv.increment("r", "n"),
            lambda: db.info(),
            lambda: db.check(),
            lambda: db.snapshot("r"),
            lambda: db.transact("r", lambda txn: None),
            lambda: db.transaction("r").__enter__(),
            lambda: db.backup(tmp_path / "copy"),
        ):
            with pytest.raises(InvalidOperationError, match="closed"):
                call()

    def test_in_the_middle_of_a_transaction(self, another: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """A transaction open while its database is closed cannot commit, and says why."""
        with pytest.raises(InvalidOperationError, match="closed"), another.transaction(run) as txn:
            txn.kv.put("k", 1)
            another.close()
        assert kv.list(run) == []

    @pytest.mark.long
    def test_coordinator_ends_after_its_last_client(self, store: Path, wait_for_end: Callable[[int], None]) -> None:
        """It stays while anyone is attached, then ends by itself and leaves no socket behind."""
        first = shoal.open(store, linger=0.05)
        second = shoal.open(store)
        pid = first.info().coordinator_pid
        first.close()
        KVStore(second).put("r", "k", 1)
        assert second.info().coordinator_pid == pid
        second.close()
        wait_for_end(pid)
        assert not (store / "control.sock").exists()

    @pytest.mark.long
    def test_reopened_store_has_what_was_committed(self, store: Path, wait_for_end: Callable[[int], None]) -> None:
        """What was acknowledged is there after the coordinator has ended, values, deletes and all."""
        with shoal.open(store, linger=0.05) as db:
            pid = db.info().coordinator_pid
            kv = KVStore(db)
            for number in range(100):
                kv.put("r", f"{number:02}", number)
            for number in range(0, 100, 3):
                kv.delete("r", f"{number:02}")
            expected = kv.list_with_values("r")
        wait_for_end(pid)
        with shoal.open(store, linger=0.05) as db:
            assert KVStore(db).list_with_values("r") == expected
            assert db.info().keys == len(expected)
            assert db.check() == []

    @pytest.mark.long
    def test_memory_store_begins_empty(self, store: Path, wait_for_end: Callable[[int], None]) -> None:
        """A memory store ends with its coordinator."""
        with shoal.open(store, durability="memory", linger=0.05) as db:
            pid = db.info().coordinator_pid
            KVStore(db).put("r", "k", 1)
        wait_for_end(pid)
        with shoal.open(store, linger=0.05) as db:
            assert db.info().keys == 0

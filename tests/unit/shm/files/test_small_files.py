"""The small files of a store directory: store.json, epoch, notes; the address of the socket; making the directory."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from shoal.shm.errors import ConfigurationError, CorruptionError, StoreFullError
from shoal.shm.files import storage, store_files
from shoal.shm.files.control_address import SOCKET_FILE, peer_pid, peer_uid, socket_address
from shoal.shm.files.epoch_file import EPOCH_FILE, EpochWord, check_epoch
from shoal.shm.files.notes import NOTES_FILE, append_note
from shoal.shm.files.store_directory import absolute_path, make_directory, remove_directories
from shoal.shm.files.store_files import StoreMeta, read_meta, write_meta
from shoal.shm.memory.layout import EPOCH_BITS

STORE_ID = bytes(range(16))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestStoreJson:
    def test_it_is_as_the_diagram_says(self, tmp_path: Path) -> None:
        """One JSON object with format, durability, max_bytes and, from format 2 on, the id in hex; mode 0600."""
        write_meta(tmp_path, StoreMeta("strict", 16 << 20, STORE_ID))
        path = tmp_path / store_files.META_FILE
        fields = json.loads(path.read_bytes())
        assert {"format": 3, "durability": "strict", "max_bytes": 16 << 20, "store_id": STORE_ID.hex()} == fields
        assert mode_of(path) == 0o600
        assert read_meta(tmp_path) == StoreMeta("strict", 16 << 20, STORE_ID)

    def test_format_1_has_no_id(self, tmp_path: Path) -> None:
        """Without an id it is format 1, and reads back so."""
        write_meta(tmp_path, StoreMeta("buffered", 16 << 20))
        assert read_meta(tmp_path) == StoreMeta("buffered", 16 << 20, None)

    def test_there_is_none(self, tmp_path: Path) -> None:
        """A directory without the file holds no store."""
        assert read_meta(tmp_path) is None

    @pytest.mark.parametrize(
        ("content", "error"),
        [
            (b"{", CorruptionError),
            (b"[]", CorruptionError),
            (b'{"format": true}', ConfigurationError),
            (b'{"format": 4}', ConfigurationError),
            (b'{"format": 1, "durability": "none", "max_bytes": 16777216}', CorruptionError),
            (b'{"format": 1, "durability": "strict", "max_bytes": 1}', CorruptionError),
            (b'{"format": 2, "durability": "strict", "max_bytes": 16777216, "store_id": "ab"}', CorruptionError),
        ],
    )
    def test_what_shoal_never_wrote(self, tmp_path: Path, content: bytes, error: type[Exception]) -> None:
        """Damage is CorruptionError, a format of another version ConfigurationError."""
        (tmp_path / store_files.META_FILE).write_bytes(content)
        with pytest.raises(error):
            read_meta(tmp_path)


class TestEpochFile:
    def test_a_raised_word_is_seen(self, tmp_path: Path) -> None:
        """What the writer stores, another mapping reads; the file is as long as the diagram says, and private."""
        written = EpochWord(tmp_path, writable=True)
        read = EpochWord(tmp_path, writable=False)
        written.words[0] = 5 << EPOCH_BITS | 7
        assert read.generation == 5
        path = tmp_path / EPOCH_FILE
        assert path.read_bytes() == (5 << EPOCH_BITS | 7).to_bytes(8, "little") + bytes(4088)
        assert mode_of(path) == 0o600
        for word in (read, written):
            word.close()
        with pytest.raises(ValueError, match="released"):
            _ = read.generation

    def test_a_full_disk_leaves_no_half_of_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without room for its page, or for the file itself, there is no file, and it can be made later."""

        def full(*_arguments: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        for place, name in ((os, "posix_fallocate"), (storage, "private_file")):
            with monkeypatch.context() as patch:
                patch.setattr(place, name, full)
                with pytest.raises(StoreFullError, match="epoch"):
                    EpochWord(tmp_path, writable=True)
            assert not any(tmp_path.iterdir())
        EpochWord(tmp_path, writable=True).close()

    def test_a_reader_makes_no_file(self, tmp_path: Path) -> None:
        """Only a coordinator makes it."""
        with pytest.raises(FileNotFoundError):
            EpochWord(tmp_path, writable=False)
        assert not any(tmp_path.iterdir())

    def test_a_short_file(self, tmp_path: Path) -> None:
        """A file that cannot be mapped whole is damage to a reader."""
        (tmp_path / EPOCH_FILE).write_bytes(b"short")
        with pytest.raises(CorruptionError):
            EpochWord(tmp_path, writable=False)

    def test_the_last_generation(self, tmp_path: Path) -> None:
        """A generation that cannot be raised is damage, before the file is touched."""
        check_epoch(tmp_path)
        (tmp_path / EPOCH_FILE).write_bytes(b"\xff" * 8)
        for opening in (lambda: check_epoch(tmp_path), lambda: EpochWord(tmp_path, writable=True)):
            with pytest.raises(CorruptionError):
                opening()
        assert (tmp_path / EPOCH_FILE).read_bytes() == b"\xff" * 8


class TestNotes:
    def test_a_note(self, tmp_path: Path) -> None:
        """A note is a time in UTC, a space and the text; the next one follows it. The file is private."""
        append_note(tmp_path, "first")
        append_note(tmp_path, "with \udcff surrogate")
        first, second = (tmp_path / NOTES_FILE).read_text().splitlines()
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00 first", first)
        assert second.endswith(r" with \udcff surrogate")
        assert mode_of(tmp_path / NOTES_FILE) == 0o600

    def test_one_that_cannot_be_written(self, tmp_path: Path) -> None:
        """It is dropped without an error."""
        append_note(tmp_path / "missing", "text")
        assert not any(tmp_path.iterdir())


class TestControlAddress:
    @pytest.mark.parametrize("levels", [0, 3])
    def test_a_path_of_any_length(self, tmp_path: Path, levels: int) -> None:
        """A socket is bound and reached at its address, however long the path of the directory is."""
        directory = tmp_path.joinpath(*["d" * 60] * levels)
        directory.mkdir(parents=True, exist_ok=True)
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
            with socket_address(directory) as address:
                listener.bind(address)
            listener.listen()
            assert stat.S_ISSOCK((directory / SOCKET_FILE).stat().st_mode)
            with socket_address(directory) as address:
                client.connect(address)
            server, _ = listener.accept()
            with server:
                assert peer_uid(server) == os.getuid()
                assert peer_pid(server) in (os.getpid(), 0)


class TestStoreDirectory:
    def test_it_and_those_above_are_made(self, tmp_path: Path) -> None:
        """All that was missing is made, the store's own with mode 0700, and removed again, unless it is used."""
        store = tmp_path / "a" / "b" / "store"
        made = make_directory(store)
        assert made == [store, store.parent, store.parent.parent]
        assert mode_of(store) == 0o700
        assert make_directory(store) == []
        (store.parent / "used").touch()
        remove_directories(made)
        assert not store.exists()
        assert store.parent.exists()

    def test_a_file_is_in_the_way(self, tmp_path: Path) -> None:
        """A file at the path, or above it, is ConfigurationError, and nothing was made."""
        (tmp_path / "file").touch()
        with pytest.raises((ConfigurationError, NotADirectoryError)):
            make_directory(tmp_path / "file" / "store")
        with pytest.raises(ConfigurationError, match="is not a directory"):
            make_directory(tmp_path / "file")
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    @pytest.mark.parametrize(("path", "error"), [(3, TypeError), ("", ValueError), ("a\0b", ValueError)])
    def test_what_names_no_directory(self, path: Any, error: type[Exception]) -> None:
        """Another type is TypeError, an empty path or one with NUL ValueError."""
        with pytest.raises(error):
            absolute_path(path)

    def test_paths_of_all_kinds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A str, bytes or a Path is made absolute; ``~`` is a name like any other; too long a name is refused."""
        monkeypatch.chdir(tmp_path)
        expected = os.path.join(os.getcwd(), "~")
        assert {absolute_path(path) for path in ("~", b"~", Path("~"))} == {expected}
        with pytest.raises(ConfigurationError):
            absolute_path("x" * 300)

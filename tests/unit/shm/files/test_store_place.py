"""The place of a store: moves and replacements are noticed, by clients and by the coordinator."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.shm.errors import StoreMovedError
from shoal.shm.files.store_files import StoreMeta, write_meta
from shoal.shm.files.store_place import StorePlace, WorkingPlace, lock_directory
from tests.support.present import present

STORE_ID, OTHER_ID = bytes(16), bytes(range(16))


def make_store(path: Path, store_id: bytes = STORE_ID) -> Path:
    path.mkdir()
    write_meta(path, StoreMeta("buffered", 16 << 20, store_id))
    return path


@pytest.fixture
def at_home() -> Iterator[None]:
    """The working directory is restored afterwards."""
    home = os.getcwd()
    yield
    os.chdir(home)


class TestStorePlace:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return make_store(tmp_path / "store")

    def test_the_same_store(self, path: Path) -> None:
        """As long as nothing changes, the check passes; what is written in the directory does not matter."""
        place = StorePlace(path, STORE_ID)
        (path / "file").touch()
        place.check()

    def test_moved_and_back(self, path: Path) -> None:
        """Away it is StoreMovedError, which says that no commit is in doubt; back at its path it is good again."""
        place = StorePlace(path, STORE_ID)
        path.rename(path.with_name("moved"))
        with pytest.raises(StoreMovedError) as moved:
            place.check()
        assert (moved.value.path, moved.value.in_doubt) == (str(path), False)
        path.with_name("moved").rename(path)
        place.check()

    def test_another_directory(self, path: Path) -> None:
        """A copy at the same path is another directory, though it has the same id."""
        place = StorePlace(path, STORE_ID)
        path.rename(path.with_name("moved"))
        make_store(path)
        with pytest.raises(StoreMovedError):
            place.check()

    def test_another_store_in_the_directory(self, path: Path) -> None:
        """A directory whose store was replaced is noticed by the id; a missing ``store.json`` alone says nothing."""
        place = StorePlace(path, STORE_ID)
        write_meta(path, StoreMeta("buffered", 16 << 20, OTHER_ID))
        with pytest.raises(StoreMovedError):
            place.check()
        (path / "store.json").unlink()
        place.check()  # the coordinator makes it again, and checks the id of every client itself


@pytest.mark.usefixtures("at_home")
class TestWorkingPlace:
    def test_renamed(self, tmp_path: Path) -> None:
        """A rename of the directory, or of one above it, is noticed; the working directory stays the store's."""
        store = tmp_path / "above" / "store"
        store.parent.mkdir()
        make_store(store)
        place = WorkingPlace(store)
        assert (place.was_moved(), place.is_here()) == (False, True)
        store.parent.rename(tmp_path / "moved")
        assert (place.was_moved(), place.is_here()) == (True, False)
        assert Path("store.json").exists()
        assert place.moved_error().path == str(store)

    def test_deleted(self, tmp_path: Path) -> None:
        """A deleted directory counts as moved."""
        store = tmp_path / "store"
        store.mkdir()
        place = WorkingPlace(store)
        store.rmdir()
        assert (place.was_moved(), place.is_here()) == (True, False)

    def test_a_path_longer_than_the_system_takes(self, tmp_path: Path) -> None:
        """A move is noticed, and nothing else is taken for one, if no system call can name the directory."""
        os.chdir(tmp_path)
        for _ in range(20):
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
        place = WorkingPlace(Path())
        assert not place.was_moved()
        (tmp_path / ("d" * 250)).rename(tmp_path / "moved")
        assert place.was_moved()

    def test_a_link_that_is_changed(self, tmp_path: Path) -> None:
        """The directory stays where it is, but the path leads elsewhere: ``is_here`` notices."""
        first, second = make_store(tmp_path / "first"), make_store(tmp_path / "second", OTHER_ID)
        link = tmp_path / "link"
        link.symlink_to(first)
        place = WorkingPlace(link)
        link.unlink()
        link.symlink_to(second)
        assert (place.was_moved(), place.is_here()) == (False, False)


def test_locks(tmp_path: Path) -> None:
    """Readers share the lock, a coordinator has it alone; closing the descriptor releases it."""
    readers = [lock_directory(tmp_path, shared=True) for _ in range(2)]
    assert None not in readers
    assert lock_directory(tmp_path, shared=False) is None
    for fd in readers:
        os.close(present(fd))
    coordinator = lock_directory(tmp_path, shared=False)
    assert coordinator is not None
    assert lock_directory(tmp_path, shared=True) is None
    os.close(coordinator)

"""Ways in which a store's directory is moved, deleted or replaced under those who have it open.

Each takes the store's path and returns where the store is afterwards, or None if it is gone.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import shoal
from tests.support.at_rest import ended

RUN = "run"


def renamed(store: Path) -> Path | None:
    target = store.with_name("elsewhere")
    store.rename(target)
    return target


def parent_renamed(store: Path) -> Path | None:
    target = store.parent.with_name("other-parent")
    store.parent.rename(target)
    return target / store.name


def grandparent_renamed(store: Path) -> Path | None:
    target = store.parent.parent.with_name("other-grandparent")
    store.parent.parent.rename(target)
    return target / store.parent.name / store.name


def deleted(store: Path) -> Path | None:
    shutil.rmtree(store)
    return None


def deleted_with_parent(store: Path) -> Path | None:
    shutil.rmtree(store.parent)
    return None


def replaced_by_file(store: Path) -> Path | None:
    target = renamed(store)
    store.write_text("a file")
    return target


def replaced_by_empty_directory(store: Path) -> Path | None:
    shutil.rmtree(store)
    store.mkdir()
    return None


def make_another(path: Path) -> None:
    with shoal.open(path, linger=0) as other:
        shoal.KVStore(other).put(RUN, "other", 1)
        pid = other.info().coordinator_pid
    ended(pid)


def replaced_by_store(store: Path) -> Path | None:
    target = renamed(store)
    make_another(store)
    return target


def deleted_and_made_anew(store: Path) -> Path | None:
    shutil.rmtree(store)
    make_another(store)
    return None


def replaced_by_copy(store: Path) -> Path | None:
    target = renamed(store)
    assert target is not None
    sockets = shutil.ignore_patterns("*.sock")
    shutil.copytree(target, store, ignore=sockets, copy_function=_copy_if_there)
    return target


def _copy_if_there(source: str, target: str) -> None:
    """A coordinator that notices the move meanwhile ends, and removes the log file that it had made ahead of need."""
    with contextlib.suppress(FileNotFoundError):
        shutil.copy2(source, target)


MOVES: list[Callable[[Path], Path | None]] = [
    renamed,
    parent_renamed,
    grandparent_renamed,
    deleted,
    deleted_with_parent,
    replaced_by_file,
    replaced_by_empty_directory,
    replaced_by_store,
    deleted_and_made_anew,
    replaced_by_copy,
]

# Client and coordinator cannot tell each of these from one of the others: a directory above it was renamed, nothing is
# at the path, or another directory is.
ALIKE = [parent_renamed, deleted_with_parent, replaced_by_empty_directory, replaced_by_store]

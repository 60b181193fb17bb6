"""Stores at rest to be read."""

from __future__ import annotations

import functools
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shoal
from tests.promises.read_only.contents import FOUND, contents, fill
from tests.support.at_rest import ended


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """A store with something of everything, closed or killed, and what was read of it; made once, not to be opened."""

    @functools.cache
    def make(how: str) -> tuple[Path, dict[str, Any]]:
        path = tmp_path_factory.mktemp(how) / "store"
        with shoal.open(path, linger=0) as db:
            fill(db)
            read = contents(db)
            pid = db.info().coordinator_pid
            if how == "killed":
                os.kill(pid, signal.SIGKILL)
        ended(pid)
        return path, read

    return make


@pytest.fixture(params=["closed", "killed"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, templates: Callable[[str], tuple[Path, dict[str, Any]]]
) -> Path:
    """A copy of such a store; ``FOUND`` has what was read of it while it was served."""
    template, read = templates(request.param)
    path = tmp_path / "store"
    shutil.copytree(template, path, ignore=lambda _, names: [name for name in names if name.endswith(".sock")])
    FOUND[path] = read
    return path

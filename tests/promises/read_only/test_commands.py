"""Commands that only read, and a read-only medium: nothing changes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shoal.cli.main import main as command
from shoal.shm.files import store_files
from shoal.shm.host.child_python import python_environment
from tests.promises.read_only.contents import FOUND, RUN, coordinators
from tests.support.at_rest import looks
from tests.support.slow import slow

pytestmark = pytest.mark.long

COMMANDS = [["info"], ["runs"], ["events", RUN], ["trace", RUN], ["check"], ["export"]]


def test_commands_change_nothing(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands that read a store at rest start nothing and write nothing."""
    before = looks(store)
    for name, *rest in COMMANDS:
        assert command([name, str(store), *rest]) == 0, name
        assert looks(store) == before, name
    said = capsys.readouterr().out
    assert "coordinator_pid   0" in said
    assert "sound" in said
    assert command(["backup", str(store), str(tmp_path / "copy")]) == 0
    assert looks(store) == before
    assert coordinators(store) == []


as_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root: only root can mount")


@contextlib.contextmanager
def _mounted_read_only(store: Path) -> Iterator[Callable[[str], str]]:
    """Runs Python, in a mount namespace in which the store lies on a read-only file system."""

    def run(code: str) -> str:
        script = (
            f"mount --bind {store} {store} && mount -o remount,ro,bind {store} && exec {sys.executable} -P -c '{code}'"
        )
        done = subprocess.run(
            ["unshare", "-m", "--propagation", "private", "sh", "-c", script],
            env=python_environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode and ("unshare" in done.stderr or "mount:" in done.stderr):
            pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield run


@as_root
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
@pytest.mark.parametrize("store", ["closed", *slow("killed")], indirect=True)
def test_read_only_medium(store: Path) -> None:
    """It is read and checked there; opened for writing, it says what is read-only and what to do."""
    before = looks(store)
    with _mounted_read_only(store) as run:
        keys = json.loads(
            run(
                "import json, shoal\n"
                f'with shoal.open("{store}", read_only=True) as db:\n'
                "    assert db.check() == []\n"
                f'    print(json.dumps(shoal.KVStore(db).list_with_values("{RUN}")))\n'
            )
        )
        assert [tuple(pair) for pair in keys] == FOUND[store]["keys"]
        said = run(
            "import shoal\n"
            f'try:\n    shoal.open("{store}")\n'
            "except shoal.ConfigurationError as error:\n    print(error)\n"
        )
        assert str(store) in said
        assert "read-only file system" in said
        assert "read_only=True" in said
        said = run(
            "import shoal\n"
            f'try:\n    shoal.open("{store}/new")\n'
            "except shoal.ConfigurationError as error:\n    print(error)\n"
        )
        assert f"{store}/new lies on a read-only file system" in said
        assert "read_only=True" not in said  # nothing is there to be read
        assert "give another path" in said
        commands = [[name, str(store), *rest] for name, *rest in COMMANDS]
        run(f"from shoal.cli.main import main\nfor each in {json.dumps(commands)}:\n    assert main(each) == 0, each")
        assert "read_only=True" in run(
            f'from shoal.cli.main import main; import sys; sys.stderr = sys.stdout; print(main(["serve", "{store}"]))'
        )
    assert looks(store) == before
    assert (store / store_files.META_FILE).exists()

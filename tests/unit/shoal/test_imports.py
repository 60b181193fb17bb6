"""What ``import shoal`` and a coordinator import: a program's first commit waits for both."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import shoal
from shoal.shm import arguments
from shoal.shm.host.child_python import python_command, python_environment

# What takes a millisecond or more to import, and what few programs use.
HEAVY = {"concurrent.futures", "hashlib", "logging", "multiprocessing", "platform", "secrets", "tempfile"}
CLIENTS_HEAVY = {*HEAVY, "argparse", "socket", "subprocess", "traceback"}
COORDINATORS_HEAVY = {*HEAVY, "filelock"}
if sys.version_info < (3, 14):  # from then on ``traceback`` imports them
    COORDINATORS_HEAVY |= {"dataclasses", "inspect"}


def _imported_by(code: str) -> set[str]:
    """The modules that a new Python has after ``code`` and had not before."""
    program = f"import sys\nbefore = set(sys.modules)\n{code}\nprint(*sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], env=python_environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def _own(modules: set[str]) -> set[str]:
    return {name for name in modules if name.partition(".")[0] == "shoal"}


@pytest.mark.long
def test_import_shoal() -> None:
    """It imports neither the pool nor pipelines, nor what they need, nor anything of the coordinator's floor."""
    imported = _imported_by("import shoal")
    assert not imported & CLIENTS_HEAVY
    own = _own(imported)
    assert not {name for name in own if name.startswith(("shoal.workers.pool", "shoal.coordinator", "shoal.cli"))}
    assert not {name for name in own if "pipeline" in name}
    assert len(own) <= 143
    assert len(imported) <= 209


@pytest.mark.long
def test_the_first_commit_imports_nothing_more(tmp_path: Path) -> None:
    """After ``import shoal`` a program may give up its rights or its descriptors: no module is to be found then."""
    program = f"""
import shoal
before = set(sys.modules)
with shoal.open({str(tmp_path / "store")!r}, durability="memory", linger=0) as db:
    shoal.KVStore(db).put("run", "key", 1)
    shoal.EventLog(db).append("run", "step", None)
    with db.transaction("run") as txn:
        txn.state.init("cell", 1)
        txn.traces.record(shoal.TraceType.Thought("so"))
        txn.runs.create_run(run_id="run")
    db.check()
"""
    assert not _own(_imported_by(program))


def test_a_coordinator() -> None:
    """It imports rules, and no view, facade or pool; what only clients need it has not either."""
    found = "import importlib.util\nface = importlib.util.find_spec('shoal')\n"
    program = f"{found}sys.modules['shoal'] = importlib.util.module_from_spec(face)\nimport shoal.coordinator_main"
    imported = _imported_by(program)
    assert not imported & COORDINATORS_HEAVY
    own = _own(imported)
    parts = ("shoal.workers", "shoal.primitives.views", "shoal.primitives.facades", "shoal.database", "shoal.cli")
    assert not {name for name in own if name.startswith(parts)}
    assert len(own) <= 146
    # The way a coordinator is started runs no __init__.py of the package.
    assert python_command("shoal.coordinator_main")[-1] == "shoal.coordinator_main"


@pytest.mark.long
def test_what_is_imported_later_is_there() -> None:
    """``dir``, ``from shoal import *`` and every name; another name is an ``AttributeError``."""
    assert set(shoal.__all__) <= set(dir(shoal))
    program = "from shoal import *\nimport shoal\nassert all(name in globals() for name in shoal.__all__)"
    assert {"shoal.worker_pool", "shoal.primitives.facades.pipeline"} <= _imported_by(program)
    with pytest.raises(AttributeError, match="'shoal' has no attribute 'Worker'"):
        shoal.Worker  # noqa: B018


@pytest.mark.long
def test_a_pipeline_is_named_as_users_name_it() -> None:
    """Also if nobody has asked the package for the class."""
    program = (
        "import shoal\nfrom shoal.primitives.facades.pipeline import Pipeline\nassert Pipeline.__module__ == 'shoal'"
    )
    assert "shoal.primitives.facades.pipeline" in _imported_by(program)
    assert pickle.loads(pickle.dumps(shoal.current_database)) is shoal.current_database


def test_the_flags_of_functions() -> None:
    """They are those of ``inspect``, which a coordinator does not import."""
    flags = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE
    assert flags == arguments._NOT_PLAIN

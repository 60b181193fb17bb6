"""What a watch yields: the changes of a run's keys, and of the runs of a namespace.

The engine tells which keys each commit changed and what they hold then (``AutoCommit.changes``). Here they get the
names and values that users know.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from shoal.primitives.engine import AutoCommit
from shoal.primitives.keys import after, decode_text, encode_prefix
from shoal.primitives.run_types import RunMetadata, decode_run
from shoal.primitives.views.kv import KVView
from shoal.primitives.views.run_records import RECORD
from shoal.primitives.views.runs import RunsView
from shoal.shm.arguments import check_count, check_wait
from shoal.shm.codec import stored
from shoal.shm.errors import shown


class Change(NamedTuple):
    """One key that one commit changed, as ``KVStore.watch`` yields it.

    - ``version`` (int): the commit version.
    - ``key`` (str): the key.
    - ``value``: what the commit wrote; None if it deleted the key, if the key expired or went with its run.

    >>> Change(7, "task/status", "done").key
    'task/status'
    """

    version: int
    key: str
    value: Any


class RunChange(NamedTuple):
    """One run whose record one commit changed, as ``RunIndex.follow`` yields it.

    - ``version`` (int): the commit version.
    - ``run_id`` (str): the run.
    - ``metadata`` (RunMetadata): what the run is since that commit; None if it was deleted.

    >>> RunChange(7, "run-1", None).run_id
    'run-1'
    """

    version: int
    run_id: str
    metadata: RunMetadata | None


def key_changes(
    view: KVView, engine: AutoCommit, prefix: str, since: int | None, timeout: float | None
) -> Iterator[Change]:
    """``KVStore.watch``. The arguments are checked, and ``since`` is settled, before the first change is asked for."""
    own = view._prefix
    lower = own + encode_prefix(prefix)
    changes = engine.changes(lower, after(lower), _since(engine, since), check_wait("timeout", timeout))

    def named() -> Iterator[Change]:
        for version, raw_key, raw in changes:
            key = decode_text(raw_key[len(own) :])
            yield Change(version, key, None if raw is None else stored(raw, f"key {key!r}"))

    return named()


def run_changes(view: RunsView, engine: AutoCommit, since: int | None, timeout: float | None) -> Iterator[RunChange]:
    """``RunIndex.follow``, likewise."""
    lower = view._namespace._runs_prefix() + RECORD
    changes = engine.changes(lower, after(lower), _since(engine, since), check_wait("timeout", timeout))

    def named() -> Iterator[RunChange]:
        for version, raw_key, raw in changes:
            run_id = decode_text(raw_key[len(lower) :])
            yield RunChange(version, run_id, None if raw is None else decode_run(run_id, raw))

    return named()


def _since(engine: AutoCommit, since: int | None) -> int | None:
    """A checked version. After one that is not there yet, the changes up to it would be left out without a word."""
    if since is None:
        return None
    version = check_count("since", since, 0, ", the version of a commit")
    newest = engine.published()
    if version > newest:
        raise ValueError(
            f"since is {shown(since)}, and the newest version is {newest}; a power cut took what came after it, or it "
            "is a version of another store; read what there is in a snapshot, and watch from its version on"
        )
    return version

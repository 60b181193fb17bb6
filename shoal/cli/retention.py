"""``shoal retention``: shows the retention policies of a store, and sets one."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable

from shoal.cli.show import plain
from shoal.cli.store_commands import GOOD, existing, must_be_store, natural, store_path
from shoal.database import Database
from shoal.database import open as open_database
from shoal.primitives.facades.run_index import RunIndex
from shoal.primitives.keys import Namespace
from shoal.primitives.run_types import RetentionPolicy
from shoal.primitives.views.fleet.retention import all_policies

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_FIELDS = tuple(field.name for field in dataclasses.fields(RetentionPolicy))

_RETENTION = """\
Show the retention policies of a store. With any of --events, --event-age, --trace-age, --archived-age and --task-age,
set the policy of a namespace, or with --run that of one run, in place of the one it has; with --clear, take it away.
The coordinator removes what is not kept, within a minute, while the store is served. An age is a number of seconds, or
one with a unit: 90, 30s, 15m, 12h, 7d.
"""


def add_retention_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    namespace: Callable[[str], Namespace],
    run_id: Callable[[str], str],
) -> None:
    """Add the command; ``namespace`` and ``run_id`` parse their arguments."""
    command = commands.add_parser("retention", help="show or set what is kept of runs", description=_RETENTION)
    command.add_argument("path", type=store_path, metavar="PATH")
    command.add_argument(
        "--namespace", type=namespace, metavar="TENANT/APP/AGENT", help="without it, default/default/default"
    )
    command.add_argument("--run", type=run_id, metavar="RUN", help="set the policy of this run alone")
    command.add_argument("--events", type=_events, metavar="N", help="keep the newest N events of each log")
    command.add_argument("--event-age", type=_age, metavar="AGE", help="keep events younger than that")
    command.add_argument("--trace-age", type=_age, metavar="AGE", help="keep traces younger than that")
    command.add_argument("--archived-age", type=_age, metavar="AGE", help="delete runs archived so long ago")
    command.add_argument("--task-age", type=_age, metavar="AGE", help="keep ended tasks younger than that")
    command.add_argument("--clear", action="store_true", help="take the policy away")
    command.set_defaults(command=lambda options: _retention(command, options))


def _retention(command: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    given = {name: getattr(options, name) for name in _FIELDS if getattr(options, name) is not None}
    if given and options.clear:
        field = next(iter(given)).replace("_", "-")
        command.error(f"--clear takes the policy away and --{field} sets one; give one of them")
    if given or options.clear:
        _set(options, None if options.clear else RetentionPolicy(**given))
        return GOOD
    with existing(options.path) as db:
        lines = _lines(db, options.namespace, options.run)
    for line in lines or ["no policy: everything is kept"]:
        print(line)
    return GOOD


def _set(options: argparse.Namespace, policy: RetentionPolicy | None) -> None:
    must_be_store(options.path)
    with open_database(options.path) as db:
        RunIndex(db, namespace=options.namespace or Namespace()).set_retention(policy, options.run)


def _lines(db: Database, only: Namespace | None, run_id: str | None) -> list[str]:
    lines = []
    snapshot = db._store.begin(read_only=True)
    try:
        for namespace, run, policy in all_policies(snapshot):
            if (only is None or namespace == only) and (run_id is None or run == run_id):
                where = "/".join(map(plain, (namespace.tenant, namespace.app, namespace.agent)))
                lines.append(f"{where}{'' if run is None else f' run {plain(run)}'}: {_shown(policy)}")
    finally:
        snapshot.abandon()
    return lines


def _shown(policy: RetentionPolicy) -> str:
    parts = []
    for name in _FIELDS:
        value = getattr(policy, name)
        if value is not None:
            parts.append(f"{name} {value:,}" if name == "events" else f"{name} {value:,g} s")
    return ", ".join(parts) or "everything is kept"


def _events(text: str) -> int:
    count = natural(text)
    try:
        RetentionPolicy(events=count)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is more than 2**63 - 1; leave it out to keep all events") from error
    return count


def _age(text: str) -> float:
    unit = _UNITS_S.get(text[-1:])
    try:
        seconds = float(text if unit is None else text[:-1]) * (unit or 1)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no age; give 0 seconds or more, or a unit: 90, 30s, 15m, 12h, 7d"
        )
    return seconds

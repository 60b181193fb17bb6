"""The commands for a store as a whole: ``serve``, ``info``, ``check``, ``backup`` and ``repair``."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path

from tqdm import tqdm

from shoal.cli.show import reclaimable
from shoal.command_line import one_line
from shoal.coordinator.log.salvage import Finding
from shoal.coordinator.recovery.survey import Survey, at_rest, bytes_to_read, is_store, survey_store
from shoal.coordinator.server import process
from shoal.database import Database
from shoal.database import open as open_database
from shoal.primitives.rules.retention.coordinator_table import COORDINATOR_TABLE
from shoal.shm.arguments import check_seconds
from shoal.shm.errors import NotFoundError
from shoal.shm.files.storage import NO_ROOM
from shoal.shm.files.store_directory import absolute_path
from shoal.shm.files.store_files import DURABILITIES, check_history
from shoal.shm.limits import MIN_STORE_BYTES
from shoal.transfer.repair import REPORT_FILE, Repair, summary

GOOD, FAILED = 0, 1
_SURVEYS = 5  # attempts on a store being served, whose files may be removed while they are read

_CHECK = """\
Verify a store and list every problem: file, byte, what was expected there and what was found. Nothing is changed.
All log files and the checkpoint are read. While a store at rest is checked, it cannot be opened. Of a store that is
being served, the memory is checked as well. Exit status: 0 sound, 1 problems were found.
"""
_REPAIR = f"""\
Save what can be read of a damaged store at rest to a new store, which must not exist or be an empty directory. The old
store is only read. The new store is the old one as it was at the newest version up to which nothing is missing. With
--all it holds everything that can be read, a state that never existed as a whole. What was lost is listed; the whole
list is in {REPORT_FILE} of the new store. Exit status: 0 the new store was made, or nothing is damaged and none was
made; 1 it could not be made.
"""


def add_store_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add these commands to a parser."""
    serve = commands.add_parser("serve", help="be the coordinator of a store, in the foreground")
    serve.add_argument("path", type=store_path, metavar="PATH")
    serve.add_argument(
        "--durability", choices=DURABILITIES, help="without it, that of the last serving, or else buffered"
    )
    serve.add_argument(
        "--max-bytes", type=positive, metavar="N", help=f"bound of its memory in bytes, from {MIN_STORE_BYTES}"
    )
    serve.add_argument(
        "--history", type=_seconds, metavar="SECONDS", help="for how long past versions can be read; 0 keeps none"
    )
    serve.set_defaults(command=_serve)

    info = commands.add_parser("info", help="show what a store holds and which process serves it")
    info.add_argument("path", type=store_path, metavar="PATH")
    info.set_defaults(command=_info)

    check = commands.add_parser("check", help="verify a whole store and list every problem", description=_CHECK)
    check.add_argument("path", type=store_path, metavar="PATH")
    check.set_defaults(command=_check)

    backup = commands.add_parser("backup", help="write a consistent copy while writers go on")
    backup.add_argument("path", type=store_path, metavar="PATH")
    backup.add_argument("dest", type=store_path, metavar="DEST")
    backup.set_defaults(command=_backup)

    repair = commands.add_parser("repair", help="save what can be read of a damaged store", description=_REPAIR)
    repair.add_argument("store", type=store_path, metavar="PATH")
    repair.add_argument("new_store", type=store_path, metavar="NEW_PATH")
    repair.add_argument("--all", action="store_true", help="save also what follows the first damage")
    repair.add_argument(
        "--max-bytes",
        type=positive,
        metavar="N",
        help="bound of the new store's memory in bytes, instead of the old one's",
    )
    repair.set_defaults(command=_repair)


def _serve(options: argparse.Namespace) -> int:
    def ready() -> None:
        print(f"serving {options.path} as process {os.getpid()}; stop with Ctrl-C", flush=True)

    served = (Path(absolute_path(options.path)), options.durability, options.max_bytes, None)
    process.serve(*served, ready, COORDINATOR_TABLE, history_ms=check_history(options.history))
    return GOOD


def _info(options: argparse.Namespace) -> int:
    with existing(options.path) as db:
        for name, value in vars(db.info()).items():
            print(f"{name:18}{value}")
        print(f"{'reclaimable':18}{reclaimable(db)}")
    return GOOD


def _check(options: argparse.Namespace) -> int:
    if not is_store(options.path):
        raise NotFoundError(_NO_STORE.format(options.path))
    with at_rest(options.path) as rests:
        survey = _surveyed(options.path) if rests else None
    if survey is None:
        problems = _problems_of_served(options.path)
    else:
        problems = [str(finding) for finding in survey.findings]
        if survey.unfinished is not None:
            end = survey.unfinished
            print(f"{end.file} ends at byte {end.offset} with a commit that was never finished; the next open cuts it")
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problem{'s' * (len(problems) > 1)}" if problems else "sound")
    return FAILED if problems else GOOD


def _problems_of_served(path: Path) -> list[str]:
    with existing(path) as db:
        problems = db.check()
        info = db.info()
        acknowledged = 0 if info.durability == "memory" else info.commit_version
        return problems + [str(finding) for finding in _findings_of_served(path, acknowledged)]


def _findings_of_served(path: Path, acknowledged: int) -> list[Finding]:
    """The damage in files that may change while they are read: after a checkpoint older files are removed."""
    for _ in range(_SURVEYS):
        before = set(os.listdir(path))
        with contextlib.suppress(FileNotFoundError):
            findings = _surveyed(path, acknowledged).findings
            if not findings or set(os.listdir(path)) == before:
                return findings
    return _surveyed(path, acknowledged).findings


def _surveyed(path: Path, acknowledged: int = 0) -> Survey:
    with tqdm(total=bytes_to_read(path), unit="B", unit_scale=True, desc="check", disable=None) as bar:
        return survey_store(path, acknowledged, bar.update)


def _backup(options: argparse.Namespace) -> int:
    with existing(options.path) as db:
        keys = db.backup(options.dest)
    print(f"{keys} keys written to {options.dest}")
    return GOOD


def _repair(options: argparse.Namespace) -> int:
    total = bytes_to_read(options.store) if is_store(options.store) else 0
    with tqdm(total=total, unit="B", unit_scale=True, desc="repair", disable=None) as bar:
        repair = Repair(options.store, options.new_store, options.all, options.max_bytes, bar.update)
    if repair.keys is None:
        print(f"{options.store} is sound at version {repair.version}: nothing to repair, {options.new_store} not made")
        return GOOD
    for line in summary(repair.report):
        print(line)
    print(f"{repair.keys} keys written to {options.new_store}; all of this is in {options.new_store / REPORT_FILE}")
    return GOOD


def existing(path: Path) -> Database:
    """Open an existing store to read it: commands that only read start no process and make no file."""
    must_be_store(path)
    return open_database(path, read_only=True)


def must_be_store(path: Path) -> None:
    """Raise ``NotFoundError`` where there is no store."""
    with contextlib.suppress(PermissionError):  # opening says what may not be read
        if not is_store(path):
            raise NotFoundError(_NO_STORE.format(path))


def store_path(text: str) -> Path:
    """Parse the argument that names a store."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("the path is empty; give a directory")
    return Path(text)


def positive(text: str) -> int:
    """Parse a whole number from 1."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """Parse a whole number from 0."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text} is not {least} or more")
    return number


def _seconds(text: str) -> float:
    try:
        return check_seconds("SECONDS", float(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0") from error


def complain(error: BaseException) -> None:
    """Print an error as one line to stderr. If stderr cannot be written, the exit status alone tells of it."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        remedy = "see that it is there and this user may use it, or give another path"
        if error.errno in NO_ROOM:
            remedy = "free space on its disk, or give a path on another one"
        text = f"{error.filename}: {error.strerror}; {remedy}"
    elif isinstance(error, OSError) and error.errno in NO_ROOM:  # of a stream, as stdout, which has no name
        text = f"{error.strerror}; free space on the disk that the output goes to, or send it elsewhere"
    with contextlib.suppress(OSError):
        print(f"shoal: {one_line(text)}", file=sys.stderr, flush=True)


_NO_STORE = "there is no store at {}; shoal.open or shoal run makes one"

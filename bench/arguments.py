"""The options of the command line. Nothing here needs a library of the extra: the help works without."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from shoal.command_line import OneLineParser

from .operations import OPERATIONS
from .peers import DURABILITIES
from .scenarios import SCENARIOS

PROCESSES, QUICK_PROCESSES = (1, 4, 8), (1, 8)
CLIENTS, QUICK_CLIENTS = (64, 256), (16,)
KEYS, QUICK_KEYS, LARGE_KEYS = 1_000_000, 50_000, 10_000_000
ROUNDS, QUICK_ROUNDS = 7, 3
SECONDS_S, QUICK_SECONDS_S = 2.0, 0.3
# On a busy machine a trial takes turns with the endless loops: its window must be many of the scheduler's turns long.
QUICK_BUSY_SECONDS_S = 1.0
BUSY_ONLY, BUSY_PROCESSES, BUSY_DURABILITY = ("put",), (1, 4), ("buffered",)
_LEAST_KEYS = 1_000


def parser() -> argparse.ArgumentParser:
    """All options."""
    found: argparse.ArgumentParser = OneLineParser(
        prog="shoal bench",
        description="Measure shoal beside LMDB, SQLite, Redis, PostgreSQL, a Manager dict and diskcache at equal "
        "durability, and how shoal alone grows, stalls and recovers.",
    )
    _add_what(found)
    _add_how_much(found)
    _add_reports(found)
    return found


def _add_what(found: argparse.ArgumentParser) -> None:
    names = (*OPERATIONS, *SCENARIOS)
    found.add_argument(
        "--only",
        type=_choice_of(names),
        metavar="NAME,...",
        help=f"operations of all stores: {', '.join(OPERATIONS)}; of shoal alone: {', '.join(SCENARIOS)}; default: all",
    )
    found.add_argument("--processes", type=_counts, metavar="N,...", help="default: 1,4,8; with --quick 1,8")
    found.add_argument(
        "--durability",
        type=_choice_of(DURABILITIES),
        metavar="DURABILITY,...",
        help=f"of the operations; default: {','.join(DURABILITIES)}",
    )
    found.add_argument(
        "--busy",
        type=_count,
        nargs="?",
        const=os.cpu_count() or 1,
        default=0,
        metavar="N",
        help="beside N endless loops (one for each processor if N is left out); put, 1 and 4 processes and buffered "
        "unless given otherwise",
    )


def _add_how_much(found: argparse.ArgumentParser) -> None:
    found.add_argument("--quick", action="store_true", help="short rounds, small stores: minutes, rougher figures")
    found.add_argument("--rounds", type=_count, metavar="N", help=f"default: {ROUNDS}; with --quick {QUICK_ROUNDS}")
    found.add_argument(
        "--seconds",
        type=_seconds,
        metavar="S",
        help=f"of a round; default: {SECONDS_S}; with --quick {QUICK_SECONDS_S}",
    )
    size = found.add_mutually_exclusive_group()
    size.add_argument(
        "--keys",
        type=_keys,
        metavar="N",
        help=f"in the largest store of shoal alone, from {_LEAST_KEYS:,} on; default: {KEYS:,}; with --quick "
        f"{QUICK_KEYS:,}",
    )
    size.add_argument(
        "--large", action="store_const", const=LARGE_KEYS, dest="keys", help=f"--keys {LARGE_KEYS}: 4 GB of memory"
    )
    found.add_argument(
        "--clients",
        type=_counts,
        metavar="N,...",
        help=f"attached at once, of shoal alone; default: {','.join(map(str, CLIENTS))}; with --quick "
        f"{','.join(map(str, QUICK_CLIENTS))}",
    )
    found.add_argument(
        "--directory",
        type=_existing_directory,
        default=Path(),
        metavar="DIR",
        help="a directory on the disk to measure; default: the current one",
    )


def _add_reports(found: argparse.ArgumentParser) -> None:
    found.add_argument("--json", type=_new_file, metavar="FILE", help="write all figures, round by round")
    instead = found.add_mutually_exclusive_group()
    instead.add_argument(
        "--read",
        type=_existing_file,
        nargs="+",
        metavar="FILE",
        help="measure nothing; report what --json has written: of an idle and a busy machine, compiled and plain",
    )
    instead.add_argument(
        "--compare",
        type=_existing_file,
        nargs=2,
        metavar=("OLD", "NEW"),
        help="measure nothing; compare shoal's rows in two files of --json; exit status 1 if one is slower than 0.95",
    )
    found.add_argument(
        "--plot", type=_new_directory, metavar="DIR", help="draw the figures into SVG files there; needs matplotlib"
    )
    found.add_argument(
        "--markdown", type=_new_file, metavar="FILE", help="put the tables, and the plots, into a page, as in docs/"
    )


def _choice_of(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(text.split(",")))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
        return names

    return parse


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_count(part) for part in text.split(",")))


def _keys(text: str) -> int:
    if _count(text) < _LEAST_KEYS:
        raise argparse.ArgumentTypeError(f"{text!r} is less than {_LEAST_KEYS:,}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds_s = float(text)
    except ValueError:
        seconds_s = 0.0
    if not 0 < seconds_s < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds_s


def _existing_directory(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {text}")
    return Path(text)


def _new_directory(text: str) -> Path:
    path = Path(text)
    if not path.absolute().parent.is_dir() or (path.exists() and not path.is_dir()):
        raise argparse.ArgumentTypeError(f"{text} is not a directory in an existing directory")
    return path


def _existing_file(text: str) -> Path:
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return Path(text)


def _new_file(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a file in an existing directory")
    return path

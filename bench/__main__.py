"""The command line. Exit status: 0 good, 1 the run failed, 2 bad usage or something is missing, 130 interrupted."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from shoal.command_line import BAD_USAGE, OneLineParser

from . import signals

GOOD, FAILED = 0, 1
_SIGNAL_EXIT = 128
_NEEDED = ("lmdb", "redis", "tabulate")
_PROCESSES = (1, 4, 8)
_QUICK_ROUNDS, _QUICK_SECONDS_S = 3, 0.3
_FULL_ROUNDS, _FULL_SECONDS_S = 7, 2.0
# On a busy machine a trial takes turns with the endless loops: its window must be many of the scheduler's turns long.
_QUICK_BUSY_SECONDS_S = 1.0
_BUSY_ONLY, _BUSY_PROCESSES, _BUSY_DURABILITY = ("put",), (1, 4), ("buffered",)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and return its exit status."""
    options = _parser().parse_args(arguments)
    missing = [name for name in _NEEDED if not _can_import(name)]
    if missing:
        return _complain(f"needs {' and '.join(missing)}; pip install '.[bench]' in a clone", BAD_USAGE)
    from shoal import ShoalError

    from .peers import BenchError
    from .work_directory import work_directory

    try:
        with signals.raised(), work_directory(options.directory) as directory:
            _run(options, directory)
    except signals.InterruptedRun as interrupted:
        return _SIGNAL_EXIT + interrupted.number
    except (BenchError, ShoalError, OSError) as error:
        return _complain(str(error), FAILED)
    return GOOD


def _run(options: argparse.Namespace, directory: Path) -> None:
    from tqdm import tqdm

    from . import machine, report
    from .harness import Figure, Plan, run_section
    from .operations import OPERATIONS
    from .peers import DURABILITIES

    quick_s = _QUICK_BUSY_SECONDS_S if options.busy else _QUICK_SECONDS_S
    plan = Plan(
        operations=tuple(OPERATIONS[name]() for name in options.only or (_BUSY_ONLY if options.busy else OPERATIONS)),
        durabilities=options.durability or (_BUSY_DURABILITY if options.busy else DURABILITIES),
        processes=options.processes or (_BUSY_PROCESSES if options.busy else _PROCESSES),
        rounds=options.rounds or (_QUICK_ROUNDS if options.quick else _FULL_ROUNDS),
        seconds_s=options.seconds or (quick_s if options.quick else _FULL_SECONDS_S),
        busy=options.busy,
    )
    facts = machine.describe(directory)
    print(report.machine_text(facts))
    print(f"\n{report.plan_text(plan)}", flush=True)
    figures: list[Figure] = []
    tqdm.monitor_interval = 0  # no monitor thread: the workers are forked
    with tqdm(total=plan.trials(), unit="trial", disable=None, leave=False) as bar:
        for operation, durability in plan.sections():
            bar.set_description(operation.name)
            section = run_section(operation, durability, plan, directory, bar.update)
            figures += section
            bar.clear()
            print(f"\n{report.section_text(operation, durability, section)}", flush=True)
    if options.json is not None:
        report.write_json(options.json, facts, plan, figures)


def _parser() -> argparse.ArgumentParser:
    from .operations import OPERATIONS
    from .peers import DURABILITIES

    parser: argparse.ArgumentParser = OneLineParser(
        prog="shoal bench",
        description="Measure shoal beside LMDB, SQLite, Redis and a Manager dict at equal durability.",
    )
    parser.add_argument("--quick", action="store_true", help="three short rounds: a few minutes, rougher figures")
    parser.add_argument(
        "--busy",
        type=_count,
        nargs="?",
        const=os.cpu_count() or 1,
        default=0,
        metavar="N",
        help="beside N endless loops (one for each processor if N is left out); put, 1 and 4 processes and buffered "
        "unless given otherwise",
    )
    parser.add_argument("--only", type=_choice_of(tuple(OPERATIONS)), metavar="OPERATION,...", help="default: all")
    parser.add_argument("--processes", type=_counts, metavar="N,...", help="default: 1,4,8")
    parser.add_argument(
        "--durability",
        type=_choice_of(DURABILITIES),
        metavar="DURABILITY,...",
        help=f"default: {','.join(DURABILITIES)}",
    )
    parser.add_argument(
        "--rounds", type=_count, metavar="N", help=f"default: {_FULL_ROUNDS}; with --quick {_QUICK_ROUNDS}"
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        metavar="S",
        help=f"of a round; default: {_FULL_SECONDS_S}; with --quick {_QUICK_SECONDS_S}",
    )
    parser.add_argument(
        "--directory",
        type=_existing_directory,
        default=Path(),
        metavar="DIR",
        help="a directory on the disk to measure; default: the current one",
    )
    parser.add_argument("--json", type=_new_file, metavar="FILE", help="write all figures, round by round")
    return parser


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


def _new_file(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a file in an existing directory")
    return path


def _can_import(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _complain(text: str, status: int) -> int:
    print(f"shoal bench: {' '.join(text.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())

"""The ``shoal`` command. Exit 0 good, 1 what was asked for failed or problems were found, 2 bad usage."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from shoal.coordinator import process
from shoal.database import Database
from shoal.database import open as open_database
from shoal.fleet import DONE, Fleet, Outcome, load_function
from shoal.shm.errors import ConfigurationError, NotFoundError, ShoalError
from shoal.shm.limits import MIN_STORE_BYTES
from shoal.shm.store_files import DURABILITIES, META_FILE
from shoal.worker_pool import WorkerPool

GOOD, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["bench"]:
        return _bench(arguments[1:])
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except ConfigurationError as error:
        _complain(error)
        return BAD_USAGE
    except (ShoalError, OSError, process.AlreadyServedError) as error:
        _complain(error)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="shoal", description="A shared-memory store for fleets of agent processes.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="durable parallel map: run a function over inputs, each once")
    run.add_argument("function", metavar="MODULE:FUNCTION")
    run.add_argument("inputs", nargs="+", metavar="INPUT")
    run.add_argument("--store", required=True, type=Path, metavar="PATH")
    run.add_argument("--workers", type=_positive, default=os.cpu_count() or 1, metavar="N")
    run.add_argument("--retries", type=_natural, default=1, metavar="N", help="runs again after a worker died (1)")
    run.add_argument("--results", action="store_true", help="print every input's outcome as a line of JSON")
    run.set_defaults(command=_run)

    serve = commands.add_parser("serve", help="be the coordinator of a store, in the foreground")
    serve.add_argument("path", type=Path, metavar="PATH")
    serve.add_argument("--durability", choices=DURABILITIES)
    serve.add_argument("--max-bytes", type=_positive, metavar="N", help=f"bound of its memory, from {MIN_STORE_BYTES}")
    serve.set_defaults(command=_serve)

    info = commands.add_parser("info", help="what a store holds and who serves it")
    info.add_argument("path", type=Path, metavar="PATH")
    info.set_defaults(command=_info)

    check = commands.add_parser("check", help="walk a whole store and list every problem")
    check.add_argument("path", type=Path, metavar="PATH")
    check.set_defaults(command=_check)

    backup = commands.add_parser("backup", help="write a consistent copy while writers go on")
    backup.add_argument("path", type=Path, metavar="PATH")
    backup.add_argument("dest", type=Path, metavar="DEST")
    backup.set_defaults(command=_backup)

    commands.add_parser("bench", help="measure against LMDB, SQLite and a Manager", add_help=False)
    return parser


def _run(options: argparse.Namespace) -> int:
    try:
        load_function(options.function)
    except ValueError as error:
        _complain(error)
        return BAD_USAGE
    with WorkerPool(options.store, options.workers, retries=options.retries) as pool:
        fleet = Fleet(pool.database, options.function)
        inputs = list(dict.fromkeys(options.inputs))
        to_do = fleet.to_do(inputs)
        failures: dict[str, Outcome] = {}
        with tqdm(total=len(to_do), unit="input", desc=options.function, disable=None) as bar:
            for outcome in fleet.run(pool, to_do):
                bar.update()
                if outcome.status != DONE:
                    failures[outcome.input] = outcome
                    bar.write(f"shoal: {' '.join(f'{outcome.input}: {outcome.error}'.split())}", file=sys.stderr)
        if options.results:
            for text in inputs:
                print(json.dumps(vars(failures.get(text) or fleet.outcome(text)), default=str))
    done = len(to_do) - len(failures)
    print(
        f"{len(inputs)} inputs: {len(inputs) - len(to_do)} done before, {done} done now, {len(failures)} failed",
        file=sys.stderr if options.results else sys.stdout,
    )
    return FAILED if failures else GOOD


def _serve(options: argparse.Namespace) -> int:
    def ready() -> None:
        print(f"serving {options.path} as process {os.getpid()}; stop with Ctrl-C", flush=True)

    process.serve(options.path.absolute(), options.durability, options.max_bytes, None, ready)
    return GOOD


def _info(options: argparse.Namespace) -> int:
    with _existing(options.path) as db:
        for name, value in vars(db.info()).items():
            print(f"{name:18}{value}")
    return GOOD


def _check(options: argparse.Namespace) -> int:
    with _existing(options.path) as db:
        problems = db.check()
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems" if problems else "sound")
    return FAILED if problems else GOOD


def _backup(options: argparse.Namespace) -> int:
    with _existing(options.path) as db:
        keys = db.backup(options.dest)
    print(f"{keys} keys written to {options.dest}")
    return GOOD


def _bench(arguments: list[str]) -> int:
    from shoal.bench.__main__ import main as bench_main  # here, because its libraries are an extra

    return bench_main(arguments)


def _existing(path: Path) -> Database:
    """Open a store that is there; a command that reads creates none."""
    if not (path / META_FILE).exists():
        raise NotFoundError(f"there is no store at {path}; shoal.open or shoal run makes one")
    return open_database(path)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def _natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is not 0 or more")
    return number


def _complain(error: BaseException) -> None:
    print(f"shoal: {' '.join(str(error).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

"""``shoal run``: the command line of a fleet."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

from tqdm import tqdm

from shoal.cli.store_commands import FAILED, GOOD, complain, natural, positive, store_path
from shoal.command_line import BAD_USAGE, one_line
from shoal.fleet import Fleet, load_function
from shoal.fleet_input import DONE, InputOutcome
from shoal.shm.arguments import check_positive_seconds
from shoal.transfer import json_lines
from shoal.worker_pool import WorkerPool

_RUN = """\
Call a function with each input in worker processes. Each result or error is stored the moment it is known, so the same
command run again does only what is not done: new inputs, and those that failed or were cut short. Exit status: 0 all
inputs are done, 1 an input failed, 2 bad usage.
"""


def add_run_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``shoal run`` to a parser."""
    run = commands.add_parser(
        "run", help="durable parallel map: run a function over inputs, each once", description=_RUN
    )
    run.add_argument("function", metavar="MODULE:FUNCTION", help="it is called with each input, a str")
    run.add_argument("inputs", nargs="+", metavar="INPUT", help="any text")
    run.add_argument(
        "--store", required=True, type=store_path, metavar="PATH", help="directory of the store; made if it is missing"
    )
    processors = os.cpu_count() or 1
    run.add_argument(
        "--workers", type=positive, default=processors, metavar="N", help=f"worker processes (default: {processors})"
    )
    run.add_argument(
        "--retries",
        type=natural,
        default=1,
        metavar="N",
        help="how often an input is run again after its worker died (default: 1)",
    )
    run.add_argument(
        "--ttl",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="after this time a worker that is stopped loses its input to another (default: 30)",
    )
    run.add_argument(
        "--results",
        action="store_true",
        help="print the outcome of every input as a line of JSON, values as in an export",
    )
    run.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    with _stdout_for_results() as results:
        return _run_with(options, results)


def _run_with(options: argparse.Namespace, results: TextIO) -> int:
    try:
        with contextlib.chdir("."):  # a module may change the directory while it is imported, also in each worker
            load_function(options.function)
    except ValueError as error:
        complain(error)
        return BAD_USAGE
    with WorkerPool(options.store, options.workers, retries=options.retries, ttl=options.ttl) as pool:
        fleet = Fleet(pool.database, options.function, options.ttl)
        inputs = list(dict.fromkeys(options.inputs))
        to_do = fleet.to_do(inputs)
        failures: dict[str, InputOutcome] = {}
        with tqdm(total=len(to_do), unit="input", desc=options.function, disable=None) as bar:

            def tell_waiting(inputs: dict[str, int | None]) -> None:
                _tell(f"shoal: {_waiting(inputs)}", bar.write)

            for outcome in fleet.run(pool, to_do, tell_waiting):
                bar.update()
                if outcome.status != DONE:
                    failures[outcome.input] = outcome
                    _tell(f"shoal: {one_line(f'{outcome.input}: {outcome.error}')}", bar.write)
        if options.results:
            for text in inputs:
                print(json_lines.dump_text(vars(failures.get(text) or fleet.outcome(text))), file=results)
    done = len(to_do) - len(failures)
    summary = f"{len(inputs)} inputs: {len(inputs) - len(to_do)} done before, {done} done now, {len(failures)} failed"
    if options.results:
        _tell(summary, print)
    else:
        print(summary, file=results)
    return FAILED if failures else GOOD


def _tell(text: str, write: Callable[..., None]) -> None:
    """Write a line to stderr. If stderr cannot be written, the run goes on: its outcomes are stored."""
    with contextlib.suppress(OSError):
        write(text, file=sys.stderr)


def _waiting(inputs: dict[str, int | None]) -> str:
    """What ``shoal run`` waits for when only inputs are left that other processes work on."""
    workers = sorted({pid for pid in inputs.values() if pid is not None})
    where = f", in process {', '.join(map(str, workers))}" if workers else ""
    return f"waiting for inputs that another shoal run works on, {len(inputs)} in all{where}; end it if it hangs"


@contextlib.contextmanager
def _stdout_for_results() -> Iterator[TextIO]:
    """Stdout for results alone. All else that is printed there, also by processes started here, goes to stderr.

    So ``shoal run ... > results`` writes only results, whatever tasks and the programs they start print.
    """
    if sys.stdout is None or not _is_descriptor(sys.stdout, 1):
        yield sys.stdout
        return
    sys.stdout.flush()
    results = open(os.dup(1), "w", encoding=sys.stdout.encoding, errors="backslashreplace")  # noqa: SIM115
    os.dup2(sys.stderr.fileno(), 1)
    try:
        yield results
        results.flush()
    finally:
        sys.stdout.flush()
        os.dup2(results.fileno(), 1)
        results.close()


def _is_descriptor(stream: TextIO, fd: int) -> bool:
    try:
        return stream.fileno() == fd
    except OSError:  # io.UnsupportedOperation: the stream was replaced by one without a descriptor
        return False


def _seconds(text: str) -> float:
    try:
        return check_positive_seconds("SECONDS", float(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error

"""The ``shoal`` command. Exit status: 0 good; 1 the command failed or found problems; 2 bad usage; 130 Ctrl-C."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, TextIO

from shoal import __version__
from shoal.cli.retention import add_retention_command
from shoal.cli.run_command import add_run_command
from shoal.cli.show import diff_lines, event_lines, run_lines, trace_lines
from shoal.cli.store_commands import FAILED, GOOD, add_store_commands, complain, existing, store_path
from shoal.command_line import BAD_USAGE, OneLineParser
from shoal.coordinator.server.process_start import AlreadyServedError
from shoal.database import open as open_database
from shoal.primitives.keys import Namespace, encode_text
from shoal.shm.errors import ConfigurationError, LimitExceededError, ShoalError
from shoal.transfer.export_file import export_store, whole_file
from shoal.transfer.import_check import ExportFormatError
from shoal.transfer.import_file import import_store, source

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if sys.stderr is None:  # it is closed; print and tqdm would take stdout, or fail
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
    if arguments[:1] == ["bench"]:
        return _bench(arguments[1:])
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a run's name may hold what the terminal cannot show
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as end:  # --help and --version have printed, or the usage is bad
        raise SystemExit(_flushed(end.code if isinstance(end.code, int) else GOOD)) from None
    return _flushed(_perform(options))


def _perform(options: argparse.Namespace) -> int:
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except ConfigurationError as error:
        complain(error)
        return BAD_USAGE
    except BrokenPipeError:
        _discard(sys.stdout)
        return FAILED
    except (ShoalError, OSError, ExportFormatError, AlreadyServedError) as error:
        complain(error)
        return FAILED
    except MemoryError:
        complain(
            MemoryError("there is no memory left; raise the limits of the process (ulimit -v) or of its container")
        )
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _flushed(status: int) -> int:
    """Flush stdout and stderr; ``status``, or ``FAILED`` if stdout does not take the rest."""
    try:
        if sys.stdout is not None:  # None if stdout is closed
            sys.stdout.flush()
    except OSError as error:
        if status == GOOD and not isinstance(error, BrokenPipeError):
            complain(error)
        _discard(sys.stdout)
        status = FAILED
    try:
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)
    return status


def _binary(stream: TextIO | None, name: str) -> BinaryIO:
    if stream is None:
        raise OSError(f"{name} is closed; give a FILE")
    return stream.buffer


def _discard(stream: TextIO) -> None:
    """Send what is still buffered to /dev/null.

    At its end the interpreter would report that it cannot be written, and exit with a status of its own.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = OneLineParser(
        prog="shoal",
        description="A shared-memory store for fleets of agent processes.",
        epilog="shoal COMMAND --help says more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"shoal {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    add_run_command(commands)
    add_store_commands(commands)
    add_retention_command(commands, _namespace, _run_id)
    _add_contents(commands)
    commands.add_parser("bench", help="measure beside LMDB, SQLite, Redis, a Manager dict and others", add_help=False)
    return parser


def _add_contents(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands that show what is in a store, and export and import it."""

    def listing(name: str, what: str, command: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=what)
        parser.add_argument("path", type=store_path, metavar="PATH")
        parser.set_defaults(command=command)
        return parser

    runs = listing("runs", "list the runs of a store", _runs)
    events = listing("events", "list the events of a run", _events)
    events.add_argument("run_id", type=_run_id, metavar="RUN")
    trace = listing("trace", "show a run's traces as trees, or the one below ROOT", _trace)
    trace.add_argument("run_id", type=_run_id, metavar="RUN")
    trace.add_argument("root_id", nargs="?", type=_name, metavar="ROOT")
    diff = listing("diff", "list what two runs differ in", _diff)
    for name in ("run_a", "run_b"):
        diff.add_argument(name, type=_run_id, metavar="RUN")

    default = "without it, default/default/default"
    for parser, otherwise in ((runs, "without it, all of them"), *((each, default) for each in (events, trace, diff))):
        parser.add_argument(
            "--namespace", type=_namespace, metavar="TENANT/APP/AGENT", help=f"show this namespace; {otherwise}"
        )
        parser.add_argument(
            "--json", action="store_true", help="print all fields, each item as a line of JSON, as in an export"
        )

    export = commands.add_parser("export", help="write all there is in a store as lines of JSON")
    export.add_argument("path", type=store_path, metavar="PATH")
    export.add_argument("file", nargs="?", type=Path, metavar="FILE", help="replaced as a whole; without it, stdout")
    export.set_defaults(command=_export)

    import_ = commands.add_parser("import", help="check an export, then write it into a store")
    import_.add_argument("path", type=store_path, metavar="PATH")
    import_.add_argument("file", nargs="?", type=Path, metavar="FILE", help="without it, stdin")
    import_.add_argument(
        "--give-up",
        action="store_true",
        help="leave what an earlier, unfinished import wrote as it is, and begin this one",
    )
    import_.set_defaults(command=_import)


def _runs(options: argparse.Namespace) -> int:
    with existing(options.path) as db:
        lines = list(run_lines(db, options.namespace, options.json))
    return _print_all(lines)


def _events(options: argparse.Namespace) -> int:
    with existing(options.path) as db:
        return _print_all(event_lines(db, options.namespace or Namespace(), options.run_id, options.json))


def _trace(options: argparse.Namespace) -> int:
    namespace = options.namespace or Namespace()
    with existing(options.path) as db:
        return _print_all(trace_lines(db, namespace, options.run_id, options.root_id, options.json))


def _diff(options: argparse.Namespace) -> int:
    with existing(options.path) as db:
        return _print_all(diff_lines(db, options.namespace or Namespace(), options.run_a, options.run_b, options.json))


def _export(options: argparse.Namespace) -> int:
    with existing(options.path) as db:
        if options.file is None:
            export_store(db, _binary(sys.stdout, "stdout"))
            return GOOD
        with whole_file(options.file) as out:
            count = export_store(db, out)
    print(f"{count} records written to {options.file}")
    return GOOD


def _import(options: argparse.Namespace) -> int:
    name = "stdin" if options.file is None else str(options.file)
    with source(options.file or _binary(sys.stdin, "stdin")) as file:
        contents = import_store(lambda: open_database(options.path), file, name, options.give_up)
    print(f"{contents.records} records of {len(contents.runs)} runs imported from {name}")
    return GOOD


def _print_all(lines: Iterable[str]) -> int:
    try:
        for line in lines:
            print(line)
        print(end="", flush=True)  # nothing happens if stdout is closed
    except BrokenPipeError:  # the reader (``| head``) has closed the pipe
        _discard(sys.stdout)
    return GOOD


def _bench(arguments: list[str]) -> int:
    from shoal.bench.__main__ import main as bench_main  # here, because it needs the libraries of an extra

    return bench_main(arguments)


def _run_id(text: str) -> str:
    return _checked(lambda: Namespace()._run_prefix(text), text)


def _name(text: str) -> str:
    return _checked(lambda: encode_text("id", text), text)


def _namespace(text: str) -> Namespace:
    parts = text.split("/")
    if len(parts) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not TENANT/APP/AGENT")
    _checked(lambda: Namespace(*parts), text)
    return Namespace(*parts)


def _checked(check: Callable[[], object], text: str) -> str:
    try:
        check()
    except (ValueError, LimitExceededError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


if __name__ == "__main__":
    sys.exit(main())

"""A coordinator as a process: ``python -m shoal.coordinator_main PATH ...`` (``shoal serve`` calls ``serve``).

- One per store: it holds a lock on the directory as long as it lives; the kernel lets go of it at any kind of death.
- It serves the directory, not the path: it works in it. When the directory is moved or deleted it refuses further
  commits, closes its log there, and ends. A process that opens the store at its new path starts the next.
- A store that is not served after all stays as it was, and one that was not there is not made.
- An error until it serves goes to the process that started it.
- It ends in order on SIGINT, SIGTERM, and, unless told to stay, some time after its last client. An error of the disk,
  or a broken invariant, ends it at once, with exit code 1 and its reason in ``coordinator.log``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import traceback
from collections.abc import Callable
from pathlib import Path

from shoal.coordinator.host import THIS_MACHINE, Host
from shoal.coordinator.server.coordinator import Coordinator
from shoal.coordinator.server.process_start import (
    AlreadyServedError,
    Report,
    enter,
    have_ends_of_children_told,
    hold_locks,
    leave_everything,
    raise_limit_of_descriptors,
)
from shoal.shm.errors import ConfigurationError, CoordinatorLostError, ShoalError
from shoal.shm.files import epoch_file, notes, store_directory, store_files
from shoal.shm.files.store_files import StoreMeta
from shoal.shm.files.store_place import HERE
from shoal.shm.host import child_python, descriptors
from shoal.shm.host.shortage import no_descriptor
from shoal.shm.limits import DEFAULT_LIMITS, IDLE_TIMEOUT_S, Limits
from shoal.shm.operation import OperationTable

EXIT_ALREADY_SERVED = 3
_NO_MEMORY = (
    "its process has no memory left; open the store with a smaller max_bytes, or raise the limits of the process "
    "(ulimit -v) or of its container"
)


def serve(
    directory: Path,
    durability: str | None,
    max_bytes: int | None,
    idle_timeout_s: float | None,
    ready: Callable[[], None],
    operations: OperationTable,
    store_id: bytes | None = None,
    limits: Limits = DEFAULT_LIMITS,
    host: Host = THIS_MACHINE,
    history_ms: int | None = None,
) -> None:
    """Serve the store until stopped, or until it had no client for ``idle_timeout_s``; None stays.

    Raises ShoalError for what keeps it from being served at all. With ``store_id`` only that store is served:
    ``StoreMovedError`` if it is not there. The working directory is the store's afterwards.
    """
    descriptors.keep_standard()
    raise_limit_of_descriptors()
    have_ends_of_children_told()
    store_files.check_durability(durability)
    store_files.check_max_bytes(max_bytes)
    is_served = False
    try:
        with contextlib.ExitStack() as held, contextlib.ExitStack() as made:

            def served() -> None:
                nonlocal is_served
                is_served = True
                made.pop_all()
                ready()

            if store_id is None:
                made.callback(store_directory.remove_directories, store_directory.make_directory(directory))
            place = enter(directory, store_id)
            hold_locks(directory, held, made)
            meta = _meta(HERE, durability, max_bytes, history_ms)
            if store_id not in (None, meta.store_id):
                raise place.moved_error()
            epoch_file.check_epoch(HERE)
            Coordinator(HERE, meta, idle_timeout_s, place, operations, limits, host).run(served)
    except OSError as error:
        if not is_served:
            store_directory.raise_if_read_only(directory, error)
        raise


def _meta(directory: Path, durability: str | None, max_bytes: int | None, history_ms: int | None) -> StoreMeta:
    """How the store is to be served: as asked for, or else as it was last."""
    last = store_files.read_meta(directory)
    default = last or StoreMeta(store_files.DEFAULT_DURABILITY, store_files.default_max_bytes())
    return default._replace(
        durability=durability or default.durability,
        max_bytes=max_bytes or default.max_bytes,
        history_ms=default.history_ms if history_ms is None else history_ms,
    )


def main(
    operations: OperationTable,
    arguments: list[str] | None = None,
    apart: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    host: Host = THIS_MACHINE,
) -> int:
    """Entry of a coordinator that a client starts for itself, ``apart`` from what its process inherited."""
    options = _parser().parse_args(arguments)
    if apart:
        leave_everything(options.report_fd)
    # The client waits for this process and reaps it; its child belongs to nobody and outlives the client.
    if os.fork():
        os._exit(child_python.LAUNCHED)
    os.setsid()
    report = Report(options.report_fd)
    try:
        serve(
            *(options.path, options.durability, options.max_bytes, options.idle_timeout_s, report.ready, operations),
            *(options.store_id, limits, host, options.history_ms),
        )
    except AlreadyServedError:
        return EXIT_ALREADY_SERVED
    except BaseException as error:
        expected = _reason(options.path, error)
        if expected is not None:
            report.failed(expected)  # says nothing once the store is served
            return 1
        if report.is_due:
            told = f"the coordinator of {options.path} could not start: {type(error).__name__}: {error}"
            report.failed(CoordinatorLostError(f"{told}; {notes.NOTES_FILE} there has the whole traceback"))
            host.note(options.path, f"process {host.pid()}: {traceback.format_exc()}")
        raise
    return 0


def _reason(path: Path, error: BaseException) -> ShoalError | None:
    """Why a store is not served, for an error that is foreseen; None for any other."""
    if isinstance(error, ShoalError):
        return error
    if isinstance(error, OSError):
        return ConfigurationError(f"{path} cannot be served: {no_descriptor(error) or error}")
    if isinstance(error, MemoryError):
        return ConfigurationError(f"{path} cannot be served: {_NO_MEMORY}")
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {child_python.COORDINATOR}", description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--durability")
    parser.add_argument("--max-bytes", type=int)
    parser.add_argument("--history-ms", type=int, help="how long past versions are kept")
    parser.add_argument(
        "--linger",
        dest="idle_timeout_s",
        type=float,
        default=IDLE_TIMEOUT_S,
        help="seconds to stay after the last client",
    )
    parser.add_argument("--store-id", type=bytes.fromhex, help="serve this store only, and make none")
    parser.add_argument("--report-fd", type=int, required=True, help="pipe to say on how the start went")
    return parser

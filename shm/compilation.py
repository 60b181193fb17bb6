"""Which modules run compiled, and which way this process runs them.

The hot modules are ordinary Python files. Beside each lies a ``.pxd`` file with C types for Cython. Where a C compiler
is at hand, installing shoal compiles them (``setup.py``), and Python imports an extension module in place of the file
beside it. Without one, the same files run as plain Python. Both do the same; compiled is faster.

A process runs all hot modules compiled, or none: they call each other in C. So it runs the Python files if a single
extension module is missing. It also does so in a subinterpreter: Python loads such an extension into one interpreter
only, and code of Cython that asks for the GIL waits there for the main interpreter, for ever.

Two environment variables, read when shoal is imported:

- ``SHOAL_DISABLE_EXTENSION=1``: import the Python files, whether or not they are compiled.
- ``SHOAL_REQUIRE_EXTENSION=1``: ``ImportError`` if a hot module is not compiled.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType

# Read by setup.py, which imports nothing of shoal.
HOT_MODULES = (
    "shoal.coordinator.commit.admission",
    "shoal.coordinator.commit.apply",
    "shoal.coordinator.commit.batching",
    "shoal.coordinator.commit.conflict_window",
    "shoal.coordinator.commit.engine",
    "shoal.coordinator.commit.reading",
    "shoal.coordinator.commit.turns",
    "shoal.coordinator.commit.validate",
    "shoal.coordinator.log.format",
    "shoal.coordinator.log.reader",
    "shoal.coordinator.log.writer",
    "shoal.coordinator.memory.hash_index",
    "shoal.coordinator.memory.heap",
    "shoal.coordinator.memory.loading",
    "shoal.coordinator.memory.ordered_index",
    "shoal.coordinator.memory.writer",
    "shoal.coordinator.presence.holders",
    "shoal.coordinator.recovery.replay",
    "shoal.coordinator.server.clients",
    "shoal.coordinator.server.group",
    "shoal.coordinator.server.loop",
    "shoal.coordinator.server.maintenance",
    "shoal.primitives.rules.cell_rules",
    "shoal.primitives.rules.event_rules",
    "shoal.primitives.rules.hash_chain",
    "shoal.primitives.rules.key_rules",
    "shoal.primitives.rules.queues.queue_batch",
    "shoal.primitives.rules.queues.queue_rules",
    "shoal.primitives.rules.queues.ready_set",
    "shoal.primitives.rules.queues.records",
    "shoal.primitives.rules.queues.task_record",
    "shoal.primitives.rules.queues.transitions",
    "shoal.primitives.views.listing",
    "shoal.shm.codec",
    "shoal.shm.files.store_place",
    "shoal.shm.holder_index",
    "shoal.shm.host.pipe_io",
    "shoal.shm.host.waiting",
    "shoal.shm.key_location_cache",
    "shoal.shm.memory.reader",
    "shoal.shm.memory.record",
    "shoal.shm.memory.snapshots",
    "shoal.shm.operation",
    "shoal.shm.wire.answer",
    "shoal.shm.wire.frames",
    "shoal.shm.wire.pipe_messages",
    "shoal.shm.wire.request",
    "shoal.workers.shared_memory.channel",
    "shoal.workers.shared_memory.transaction",
)

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # what holds ``shm`` and the other floors


class _Sources:
    """Finds the Python file of a hot module, and nothing else."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a hot module's Python file; None for any other module."""
        if name not in HOT_MODULES or path is None:
            return None
        for folder in path:
            source = os.path.join(folder, name.rpartition(".")[2] + ".py")
            if os.path.exists(source):
                return importlib.util.spec_from_file_location(name, source)
        return None


def is_compiled() -> bool:
    """Whether the hot modules of this process run compiled: all of them do, or none."""
    return _Sources not in sys.meta_path


def prepare() -> None:
    """Called before any hot module is imported: settle which way this process runs them.

    Raises ``ImportError`` if the extension is required and is not there or cannot be used, or is disabled at the same
    time.
    """
    disabled, required = _is_set("SHOAL_DISABLE_EXTENSION"), _is_set("SHOAL_REQUIRE_EXTENSION")
    if disabled and required:
        raise ImportError("SHOAL_DISABLE_EXTENSION and SHOAL_REQUIRE_EXTENSION are both set; set one of them, or none")
    missing = next((name for name in HOT_MODULES if not _has_extension(name)), None)
    if required and missing is not None:
        raise ImportError(
            f"SHOAL_REQUIRE_EXTENSION is set and {missing} is not compiled; install shoal where a C compiler is, "
            "or run without SHOAL_REQUIRE_EXTENSION"
        )
    is_main = _is_main_interpreter()
    if required and not is_main:
        raise ImportError(
            "SHOAL_REQUIRE_EXTENSION is set and this is a subinterpreter, which cannot run compiled modules; "
            "import shoal in the main interpreter, or run without SHOAL_REQUIRE_EXTENSION"
        )
    if (disabled or missing is not None or not is_main) and _Sources not in sys.meta_path:
        sys.meta_path.insert(0, _Sources)


def _is_main_interpreter() -> bool:
    name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    try:
        interpreters = importlib.import_module(name)
    except ImportError:  # a Python that has no others
        return True
    return bool(interpreters.get_current() == interpreters.get_main())


def _is_set(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


def _has_extension(name: str) -> bool:
    """Whether an extension module for this Python lies beside the file of a hot module."""
    stem = os.path.join(_PACKAGE, *name.split(".")[1:])
    return any(os.path.exists(stem + suffix) for suffix in importlib.machinery.EXTENSION_SUFFIXES)

"""The command line.

Exit status: 0 good, 1 the run failed or a comparison found a row that is slower, 2 bad usage or something is missing,
130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.command_line import BAD_USAGE

from . import arguments
from .host import signals

if TYPE_CHECKING:
    from .harness import Plan
    from .reports.document import Document
    from .scenarios import Scale

GOOD, FAILED = 0, 1
_SIGNAL_EXIT = 128
_NEEDED = ("lmdb", "redis", "tabulate")


def main(given: list[str] | None = None) -> int:
    """Run the benchmark, or report what was measured before; the exit status."""
    options = arguments.parser().parse_args(given)
    missing = [name for name in _NEEDED if not _can_import(name)]
    if missing:
        return _complain(f"needs {' and '.join(missing)}; pip install '.[bench]' in a clone", BAD_USAGE)
    # Found and not imported: its libraries start threads, and the workers are forked.
    if options.plot is not None and importlib.util.find_spec("matplotlib") is None:
        return _complain("--plot needs matplotlib; pip install '.[plot]' in a clone", BAD_USAGE)
    from shoal import ShoalError

    from .peers import BenchError

    try:
        with signals.raised():
            return _compare(options) if options.compare else _run(options)
    except signals.InterruptedRun as interrupted:
        return _SIGNAL_EXIT + interrupted.number
    except (BenchError, ShoalError, OSError) as error:
        return _complain(str(error), FAILED)


def _compare(options: argparse.Namespace) -> int:
    from .reports import comparison, document

    text, any_slower = comparison.compare(*(document.read(path) for path in options.compare))
    print(text)
    return FAILED if any_slower else GOOD


def _run(options: argparse.Namespace) -> int:
    """Measure, or read what was measured, and report it."""
    from .peers import BenchError
    from .reports import document, page, tables

    if options.markdown is not None:
        page.check(options.markdown)
    if options.read:
        documents = [document.read(path) for path in options.read]
        if len({each.name for each in documents}) < len(documents):
            raise BenchError("two of the files are of the same state of the machine and the same mode of shoal")
        for each in documents:
            print("\n\n".join(tables.document_texts(each)), end="\n\n")
    else:
        documents = [_measure(options)]
    if options.json is not None:
        if len(documents) > 1:
            raise BenchError("--json writes the figures of one run; --read gives it more")
        document.write(options.json, documents[0])
    plots: list[Path] = []
    if options.plot is not None:
        from .reports import plots as drawing

        plots = drawing.write(options.plot, documents)
    if options.markdown is not None:
        page.write(options.markdown, documents, plots)
    return GOOD


def _measure(options: argparse.Namespace) -> Document:
    from .host import machine
    from .host.work_directory import work_directory
    from .reports import tables
    from .reports.document import Document

    plan, scale, scenarios = _chosen(options)
    with work_directory(options.directory) as directory:
        facts = machine.describe(directory)
        found = Document(facts, plan.rounds, plan.seconds_s, plan.busy)
        print(tables.machine_text(facts, plan.busy))
        if plan.operations:
            print(f"\n{tables.plan_text(plan.rounds, plan.seconds_s)}", flush=True)
        _measure_all(found, plan, scale, scenarios, directory)
    return found


def _measure_all(found: Document, plan: Plan, scale: Scale, scenarios: list[str], directory: Path) -> None:
    """Measure and print each operation and scenario; ``found`` takes the figures."""
    from tqdm import tqdm

    from .harness import run_section
    from .host.busy_loops import busy_loops
    from .reports import tables
    from .scenarios import SCENARIOS

    tqdm.monitor_interval = 0  # no monitor thread: the workers are forked
    with tqdm(total=plan.trials() + len(scenarios), unit="trial", disable=None, leave=False) as bar:
        for operation, durability in plan.sections():
            bar.set_description(operation.name)
            section = run_section(operation, durability, plan, directory, bar.update)
            found.figures += section
            bar.clear()
            print(f"\n{tables.section_text(section)}", flush=True)
        for name in scenarios:
            bar.set_description(name)
            home = directory / name
            home.mkdir()
            with busy_loops(plan.busy):
                result = SCENARIOS[name](scale).run(home)
            found.scenarios.append(result)
            bar.update()
            bar.clear()
            print(f"\n{tables.scenario_text(result)}", flush=True)


def _chosen(options: argparse.Namespace) -> tuple[Plan, Scale, list[str]]:
    """What is measured, and how much of it."""
    from .harness import Plan
    from .operations import OPERATIONS
    from .peers import DURABILITIES
    from .scenarios import SCENARIOS, Scale

    names = options.only or (arguments.BUSY_ONLY if options.busy else (*OPERATIONS, *SCENARIOS))
    quick_s = arguments.QUICK_BUSY_SECONDS_S if options.busy else arguments.QUICK_SECONDS_S
    rounds = options.rounds or (arguments.QUICK_ROUNDS if options.quick else arguments.ROUNDS)
    seconds_s = options.seconds or (quick_s if options.quick else arguments.SECONDS_S)
    plan = Plan(
        operations=tuple(OPERATIONS[name]() for name in names if name in OPERATIONS),
        durabilities=options.durability or (arguments.BUSY_DURABILITY if options.busy else DURABILITIES),
        processes=options.processes or _default_processes(options),
        rounds=rounds,
        seconds_s=seconds_s,
        busy=options.busy,
    )
    scale = Scale(
        keys=options.keys or (arguments.QUICK_KEYS if options.quick else arguments.KEYS),
        rounds=rounds,
        seconds_s=seconds_s,
        clients=options.clients or (arguments.QUICK_CLIENTS if options.quick else arguments.CLIENTS),
    )
    return plan, scale, [name for name in names if name in SCENARIOS]


def _default_processes(options: argparse.Namespace) -> tuple[int, ...]:
    if options.busy:
        return arguments.BUSY_PROCESSES
    return arguments.QUICK_PROCESSES if options.quick else arguments.PROCESSES


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

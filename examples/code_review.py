"""A fleet that reviews Python files and shares its findings through one shoal store.

    python examples/code_review.py --store /tmp/review --workers 8            # the standard library
    python examples/code_review.py --store /tmp/chaos --workers 8 --chaos     # while its processes are killed

``shoal run`` makes the fleet a run and every file a child run of it, and calls ``review`` for each file in worker
processes. A review is one transaction: the file's findings, its entries in an index of the whole code base, the totals
and the event in the log of the file's run appear together or not at all. After a worker dies, its file is reviewed
again; a review that is stored already is left as it is. So the report at the end is the same to the byte whether
processes were killed or not.

The fleet's run holds, beside what ``shoal run`` keeps in it:

    trace PATH             a ToolCall: the check of a file; its result is the review without the findings
    trace PATH#NUMBER      a finding, child of the file's trace, tagged with the kind of finding
    definition/NAME        sorted list of the files that define a function or class NAME at their top level
    call/MODULE.NAME/PATH  PATH calls what it imported as NAME of MODULE
    cell total/WHAT        number of files, lines and so on, always exact

    shoal runs STORE                the runs of fleet and files
    shoal events STORE RUN          the events of a file's run: started, shared, finished
    shoal trace STORE RUN [PATH]    the findings in all files, or in one
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from chaos import LEAST_COORDINATORS, LEAST_WORKERS, MOST, Kills, disturb
from code_checks import (
    COMPLEX,
    MOST_COMPLEXITY,
    UNPARSABLE,
    UNUSED_IMPORT,
    WEIGHTS,
    FileReview,
    Finding,
    check_file,
    module_name,
)

import shoal
from shoal import TraceType
from shoal.fleet_input import fleet_run_id, input_run_id

FLEET = "code_review:review"
RUN_ID = fleet_run_id(FLEET)
FINDING = "finding"
SKIPPED_DIRECTORIES = frozenset({"site-packages", "test", "tests", "__pycache__"})
TOP = 8


# --- the agent: what runs in the workers ----------------------------------------------------------------------------


def review(path: str) -> dict[str, int]:
    """Review one file and share the result. ``shoal run`` calls this function."""
    reviewed = check_file(Path(path))  # before the transaction, which may run again after a conflict
    shoal.current_database().transact(RUN_ID, lambda txn: share(txn, path, reviewed))
    return {"findings": len(reviewed.findings), "weight": weight(reviewed)}


def share(txn: shoal.Transaction, path: str, reviewed: FileReview) -> None:
    """Put a file's review into the store, unless it is there."""
    if txn.traces.get(path) is not None:
        return  # an earlier worker died after this commit and before it could report it
    txn.traces.record(TraceType.ToolCall("check_file", {"path": path}, result=reviewed.facts()), id=path)
    for number, finding in enumerate(reviewed.findings):
        details = TraceType.Custom(FINDING, {"line": finding.line, "name": finding.name, "amount": finding.amount})
        txn.traces.record_child(path, details, id=f"{path}#{number:04}", tags=[finding.kind])

    # Shared entries: read, change, write. If another review does the same meanwhile, one of the two runs again.
    for name in reviewed.definitions:
        files = txn.kv.get(f"definition/{name}", [])
        txn.kv.put(f"definition/{name}", sorted([*files, path]))
    # Some names are called from nearly every file. So each caller has a key of its own, and reviews do not conflict.
    for name in reviewed.calls:
        txn.kv.put(f"call/{name}/{path}", True)

    for what, number in totals(reviewed).items():
        total = txn.state.read(f"total/{what}")
        txn.state.set(f"total/{what}", number if total is None else total.value + number)
    own = txn.on(input_run_id(FLEET, path))
    own.events.append("shared", {"findings": len(reviewed.findings), "weight": weight(reviewed)})


def totals(reviewed: FileReview) -> Counter[str]:
    """What one file adds to the totals."""
    return Counter(
        files=1,
        lines=reviewed.lines,
        functions=reviewed.functions,
        classes=reviewed.classes,
        findings=len(reviewed.findings),
    )


def weight(reviewed: FileReview) -> int:
    """The sum of the weights of a file's findings."""
    return sum(WEIGHTS[finding.kind] for finding in reviewed.findings)


# --- the report -----------------------------------------------------------------------------------------------------


@dataclass
class Shared:
    """Everything that the fleet has shared, at one snapshot."""

    reviews: dict[str, FileReview]
    definitions: dict[str, list[str]]
    callers: dict[str, list[str]]
    totals: Counter[str]


def read_shared(db: shoal.Database) -> Shared:
    """Read the store at one snapshot, so that all parts agree even while the fleet is at work."""
    with db.snapshot(RUN_ID) as view:
        files = view.traces.query_by_type(TraceType.ToolCall)
        findings = view.traces.query_by_type(FINDING)
        definitions = view.kv.list_with_values("definition/")
        calls = view.kv.list("call/")
        counters = {what: view.state.read(f"total/{what}") for what in totals(FileReview())}
    reviews = {trace.id: FileReview(**cast(Any, trace.trace_type).result) for trace in files}
    for trace in sorted(findings, key=lambda trace: trace.id):
        data, [kind] = cast(Any, trace.trace_type).data, trace.tags
        reviews[trace.parent_id or ""].findings.append(Finding(data["line"], kind, data["name"], data["amount"]))
    callers: dict[str, list[str]] = {}
    for key in calls:
        name, _, path = key.removeprefix("call/").partition("/")
        callers.setdefault(name, []).append(path)
    return Shared(
        dict(sorted(reviews.items())),
        {key.removeprefix("definition/"): files for key, files in definitions},
        callers,
        Counter({what: counter.value for what, counter in counters.items() if counter is not None}),
    )


def inconsistencies(shared: Shared) -> int:
    """The number of entries of index and totals that do not follow from the files' reviews."""
    definitions: dict[str, list[str]] = {}
    callers: dict[str, list[str]] = {}
    expected: Counter[str] = Counter()
    for path, reviewed in sorted(shared.reviews.items()):
        expected.update(totals(reviewed))
        for name in reviewed.definitions:
            definitions.setdefault(name, []).append(path)
        for name in reviewed.calls:
            callers.setdefault(name, []).append(path)
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (shared.definitions, definitions),
        (shared.callers, callers),
        (shared.totals, expected),
    ]
    return sum(found.get(name) != wanted.get(name) for found, wanted in pairs for name in {*found, *wanted})


def report(db: shoal.Database) -> str:
    """The ranked report. The same contents of the store give the same bytes."""
    shared = read_shared(db)
    if not shared.reviews:
        return "Code review\n===========\n\nNo files were reviewed.\n"
    root = Path(os.path.commonpath([Path(path).parent for path in shared.reviews]))

    def short(path: str) -> str:
        return os.path.relpath(path, root)

    findings = [(path, finding) for path, reviewed in shared.reviews.items() for finding in reviewed.findings]
    kinds = Counter(finding.kind for _, finding in findings)
    unused = Counter(short(path) for path, finding in findings if finding.kind == UNUSED_IMPORT)
    weights = {short(path): weight(reviewed) for path, reviewed in shared.reviews.items()}
    complexity = {
        f"{short(path)}:{finding.line} {finding.name}": finding.amount
        for path, finding in findings
        if finding.kind == COMPLEX
    }
    unparsable = [
        f"{short(path)}:{finding.line} {finding.name}" for path, finding in findings if finding.kind == UNPARSABLE
    ]
    called = {
        f"{name} ({short(files[0])})": len(shared.callers.get(f"{module_name(Path(files[0]))}.{name}", []))
        for name, files in shared.definitions.items()
        if len(files) == 1
    }
    shared_names = {name: len(files) for name, files in shared.definitions.items() if len(files) > 1}
    wrong = inconsistencies(shared)
    lines = ["Code review", "===========", ""]
    lines += [f"{shared.totals[what]:8,}  {what}" for what in totals(FileReview())]
    lines += [""]
    lines += _ranking("Findings by kind", kinds, len(WEIGHTS))
    lines += _ranking("Files with the most findings, weighted", weights)
    lines += _ranking(f"Most complex functions, of {len(complexity):,} over {MOST_COMPLEXITY}", complexity)
    lines += _ranking("Names defined in the most files", shared_names)
    lines += _ranking("Definitions called from the most other files", called)
    lines += _ranking(f"Files with unused imports, {len(unused):,} in all", unused)
    lines += _ranking(f"Files that are no valid Python, {len(unparsable):,} in all", dict.fromkeys(unparsable, 1))
    lines += [f"Index and totals agree with the files' findings: {f'NO, {wrong:,} do not' if wrong else 'yes'}", ""]
    return "\n".join(lines)


def _ranking(title: str, numbers: dict[str, int], top: int = TOP) -> list[str]:
    """The largest numbers first, equal ones by name."""
    ranked = sorted((-number, name) for name, number in numbers.items() if number)[:top]
    rows = [f"{-number:8,}  {name}" for number, name in ranked] or ["          none"]
    return [title, "-" * len(title), *rows, ""]


# --- the command line -----------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Review all files below a directory and print the report; 0 if all went well."""
    options = _parser().parse_args(arguments)
    store = options.store.absolute()
    files = list(python_files(options.root.resolve()))[: options.limit]
    if not files:
        print(f"code_review: there are no Python files below {options.root}", file=sys.stderr)
        return 2
    command = [sys.executable, "-m", "shoal", "run", FLEET, *map(str, files)]
    command += ["--store", str(store), "--workers", str(options.workers)]
    if options.chaos:
        # If a worker and the coordinator die together, the input waits for the ttl.
        command += ["--retries", str(MOST), "--ttl", "3"]
    # shoal run looks for the module in its working directory first.
    with subprocess.Popen(command, cwd=Path(__file__).resolve().parent) as run:
        good = _disturb(run, store, options.seed) if options.chaos else True
    if run.returncode != 0:
        print(f"code_review: shoal run ended with exit code {run.returncode}", file=sys.stderr)
        return 1
    with shoal.open(store) as db:
        text = report(db)
    if options.report is not None:
        options.report.write_text(text, encoding="utf-8")
    print(text, end="")
    return 0 if good else 1


def python_files(root: Path) -> Iterable[Path]:
    """All Python files below ``root``, sorted, without tests and installed packages."""
    for path in sorted(root.rglob("*.py")):
        if path.is_file() and SKIPPED_DIRECTORIES.isdisjoint(path.relative_to(root).parts[:-1]):
            yield path


def _disturb(run: subprocess.Popen[bytes], store: Path, seed: int) -> bool:
    print(f"chaos: seed {seed}", file=sys.stderr)
    kills = Kills()
    disturb(run, store, seed, kills)
    run.wait()
    print(f"chaos: killed {kills.workers} workers and {kills.coordinators} coordinators", file=sys.stderr)
    if not kills.enough:
        print(
            f"chaos: the fleet was done before {LEAST_WORKERS} workers and {LEAST_COORDINATORS} coordinators were "
            "killed, which proves little; give it more files and a new store",
            file=sys.stderr,
        )
    return kills.enough


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Review Python files with a fleet of workers that share one store.")
    parser.add_argument("--store", type=Path, required=True, metavar="DIR", help="the store; made if missing")
    parser.add_argument("--workers", type=_positive, default=os.cpu_count() or 1, metavar="N")
    standard_library = Path(sysconfig.get_paths()["stdlib"])
    parser.add_argument("--root", type=Path, default=standard_library, metavar="DIR", help="(the standard library)")
    parser.add_argument("--limit", type=_positive, metavar="N", help="review the first N files only")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the report to a file, too")
    parser.add_argument("--chaos", action="store_true", help="kill workers and coordinators meanwhile; Linux only")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), metavar="N", help="of the chaos (random)")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())

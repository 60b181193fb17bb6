"""A fleet that reviews Python files, and shares what it finds through one shoal store.

    python examples/code_review.py --store /tmp/review --workers 8            # the standard library
    python examples/code_review.py --store /tmp/chaos --workers 8 --chaos     # while its processes are killed

``shoal run`` calls ``review`` once for every file, in worker processes. A review is one transaction: the file's own
findings, its entries in an index of the whole code base, and the totals appear together or not at all. Workers die
and tasks run twice, so a review must come to the same state however often it happens; with that, the report at the end
is the same to the byte whether processes were killed or not.

The run ``code-review`` holds:

    findings/PATH          the review of a file, see code_checks.FileReview
    definition/NAME        sorted list of the files that define a function or class NAME at their top level
    call/MODULE.NAME/PATH  PATH calls what it imported as NAME of MODULE
    total/WHAT/SHARD       number of files, lines and so on; the sum over the shards is exact at every moment
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import sysconfig
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos import LEAST_COORDINATORS, LEAST_WORKERS, MOST, disturb
from code_checks import (
    COMPLEX,
    MOST_COMPLEXITY,
    UNPARSABLE,
    UNUSED_IMPORT,
    WEIGHTS,
    FileReview,
    check_file,
    module_name,
)

import shoal

RUN_ID = "code-review"
# Two reviews in flight share a shard now and then only; with a single counter, all of them would conflict.
SHARDS = 64
SKIPPED_DIRECTORIES = frozenset({"site-packages", "test", "tests", "__pycache__"})
TOP = 8


# --- the agent: what runs in the workers ----------------------------------------------------------------------------


def review(path: str) -> dict[str, int]:
    """Review one file and share the result. This is the function ``shoal run`` calls."""
    reviewed = check_file(Path(path))  # the work is done outside: a transaction that conflicts repeats no analysis
    shoal.current_database().transact(RUN_ID, lambda txn: share(txn, path, reviewed))
    return {"findings": len(reviewed.findings), "weight": weight(reviewed)}


def share(txn: shoal.Transaction, path: str, reviewed: FileReview) -> None:
    """Put one file's review in place of the last one of that file, if any, in the index as well."""
    kv = txn.kv
    record = reviewed.as_record()
    before = kv.get(f"findings/{path}")
    if before == record:
        return  # the worker before died between this commit and telling so: there is nothing left to do
    last = FileReview() if before is None else FileReview.from_record(before)

    for name in sorted({*reviewed.definitions, *last.definitions}):
        # Shared entries: read, change, write. If another review does the same meanwhile, one of the two runs again.
        files = set(kv.get(f"definition/{name}", []))
        if name in reviewed.definitions:
            files.add(path)
        else:
            files.discard(path)
        if files:
            kv.put(f"definition/{name}", sorted(files))
        else:
            kv.delete(f"definition/{name}")

    # Names are called from everywhere, so each caller has a key of its own, which no other review reads or writes.
    for name in set(last.calls).difference(reviewed.calls):
        kv.delete(f"call/{name}/{path}")
    for name in set(reviewed.calls).difference(last.calls):
        kv.put(f"call/{name}/{path}", True)

    shard = zlib.crc32(path.encode()) % SHARDS
    already = Counter() if before is None else totals(last)
    for what, number in totals(reviewed).items():
        kv.increment(f"total/{what}/{shard:02}", number - already[what])
    kv.put(f"findings/{path}", record)


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
    """How much a file's findings count together."""
    return sum(WEIGHTS[finding.kind] for finding in reviewed.findings)


# --- the report -----------------------------------------------------------------------------------------------------


@dataclass
class Shared:
    """All that the fleet has shared, as of one moment."""

    reviews: dict[str, FileReview]
    definitions: dict[str, list[str]]
    callers: dict[str, list[str]]
    totals: Counter[str]


def read_shared(db: shoal.Database) -> Shared:
    """Read the store at one snapshot, so that the parts fit each other even while the fleet is at work."""
    with db.snapshot(RUN_ID) as view:
        reviews = view.kv.list_with_values("findings/")
        definitions = view.kv.list_with_values("definition/")
        calls = view.kv.list("call/")
        counts = view.kv.list_with_values("total/")
    shared = Shared(
        {key.removeprefix("findings/"): FileReview.from_record(record) for key, record in reviews},
        {key.removeprefix("definition/"): files for key, files in definitions},
        {},
        Counter(),
    )
    for key in calls:
        name, _, path = key.removeprefix("call/").partition("/")
        shared.callers.setdefault(name, []).append(path)
    for key, number in counts:
        shared.totals[key.split("/")[1]] += number
    return shared


def inconsistencies(shared: Shared) -> int:
    """How many entries of index and totals differ from what the files' own reviews say they must be."""
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
    """The ranked report: a function of what is in the store, to the byte."""
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
    command = [sys.executable, "-m", "shoal", "run", "code_review:review", *map(str, files)]
    command += ["--store", str(store), "--workers", str(options.workers)]
    if options.chaos:
        command += ["--retries", str(MOST)]
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
    kills = disturb(run, store, seed)
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

"""``python -m tests.fuzz TARGET --seconds N`` or ``--all``: coverage-guided fuzzing with atheris.

A failing input is kept as a file; what is printed with it is the command that runs it again.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

# The largest input, the processor time a single one may take, and the most memory a target may use.
MOST_BYTES = 16_384
TIMEOUT_S = 10
MEMORY_MIB = 2048
# By the clock, for what even a signal does not end; a machine that is stopped meanwhile is no fault of the target.
HANGS_S = 600
FAILURES = Path(tempfile.gettempdir()) / "shoal-fuzz-failures"


def main() -> int:
    """Fuzz, replay or list."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="?", help="see --list")
    parser.add_argument("--all", action="store_true", help="every target, one after the other")
    parser.add_argument("--list", action="store_true", help="the targets and what each says must hold")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--seed", type=int, default=None, help="of the mutations; printed if it is made up")
    parser.add_argument("--replay", metavar="FILE", help="run one input, as kept from a failure, without atheris")
    parser.add_argument("--input", metavar="BASE64", help="the same, given as text")
    options = parser.parse_args()
    if options.all:
        return _fuzz_all(options)
    if options.target is None and not options.list:
        parser.error("name a target, or --all, or --list")
    if options.replay or options.input or options.list:
        return _replay_or_list(options)
    return _fuzz(options)


def _targets() -> dict[str, Any]:
    from tests.fuzz.all_targets import TARGETS

    return TARGETS


def _replay_or_list(options: argparse.Namespace) -> int:
    targets = _targets()
    if options.list:
        for name, target in targets.items():
            print(f"{name:12} {target.about}")
        return 0
    data = Path(options.replay).read_bytes() if options.replay else base64.b64decode(options.input)
    targets[options.target].run(data)
    print(f"{options.target}: {len(data)} bytes, nothing wrong")
    return 0


def _import_atheris() -> Any:
    try:
        import atheris
    except ImportError:
        print("fuzzing needs atheris: pip install -e '.[fuzz]' (Linux, CPython 3.11 to 3.13)", file=sys.stderr)
        sys.exit(2)
    return atheris


def _fuzz(options: argparse.Namespace) -> int:
    atheris = _import_atheris()
    with atheris.instrument_imports(include=["shoal"], enable_loader_override=False):
        targets = _targets()
    from tests.fuzz.mutation import mutated

    if options.target not in targets:
        print(f"no target {options.target!r}; see --list", file=sys.stderr)
        return 2
    target = targets[options.target]
    seed = options.seed or random.SystemRandom().randrange(1, 2**31)
    print(f"{target.name}: {target.about} seed {seed}", flush=True)

    def run(data: bytes) -> None:
        signal.setitimer(signal.ITIMER_PROF, TIMEOUT_S)
        try:
            target.run(data)
        except BaseException:
            _report(target.name, data)
            raise
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    def mutate(data: bytes, most_bytes: int, seed: int) -> bytes:
        dice = random.Random(seed)
        if dice.random() < 0.15:
            made: bytes = atheris.Mutate(data, most_bytes)
            return made
        return mutated(data, dice, most_bytes)

    corpus = Path(tempfile.mkdtemp(prefix=f"shoal-fuzz-{target.name}-"))
    for i, raw in enumerate(target.seeds()):
        (corpus / f"seed-{i}").write_bytes(raw)
    FAILURES.mkdir(exist_ok=True)
    signal.signal(signal.SIGPROF, _too_long)
    flags = [f"-max_total_time={options.seconds}", f"-seed={seed}", f"-max_len={MOST_BYTES}", f"-timeout={HANGS_S}"]
    flags += [f"-rss_limit_mb={MEMORY_MIB}", f"-artifact_prefix={FAILURES}/{target.name}-", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], run, custom_mutator=mutate, internal_libfuzzer=True)
    atheris.Fuzz()
    return 0


def _too_long(_number: int, _frame: object) -> None:
    raise TimeoutError(f"an input took more than {TIMEOUT_S} s of processor time")


def _report(name: str, data: bytes) -> None:
    path = FAILURES / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}"
    path.write_bytes(data)
    traceback.print_exc()
    print(f"\nfailing input: {data[:400]!r}{'...' if len(data) > 400 else ''}")
    print(f"run it again:  python -m tests.fuzz {name} --replay {path}", flush=True)


def _fuzz_all(options: argparse.Namespace) -> int:
    _import_atheris()
    failed = []
    print(
        f"{'target':12} {'result':8} {'inputs':>10} {'a second':>9} {'coverage':>9} {'corpus':>7} {'MiB':>5}",
        flush=True,
    )
    for name in _targets():
        command = [sys.executable, "-m", "tests.fuzz", name, "--seconds", str(options.seconds)]
        if options.seed is not None:
            command += ["--seed", str(options.seed)]
        began_s = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ, errors="replace")
        text = done.stdout + done.stderr
        if done.returncode:
            failed.append(name)
        print(_row(name, done.returncode, text, time.monotonic() - began_s), flush=True)
        if done.returncode:
            print(text[-3000:], flush=True)
    print(f"{len(failed)} of {len(_targets())} targets failed{': ' if failed else ''}{', '.join(failed)}")
    return 1 if failed else 0


def _row(name: str, returncode: int, text: str, took_s: float) -> str:
    def last(pattern: str) -> str:
        found = re.findall(pattern, text)
        return found[-1] if found else "?"

    inputs = last(r"stat::number_of_executed_units:\s*(\d+)")
    rate = str(round(int(inputs) / took_s)) if inputs.isdigit() else "?"
    coverage, corpus = last(r"cov: (\d+)"), last(r"corp: (\d+)")
    memory = last(r"stat::peak_rss_mb:\s*(\d+)")
    result = "FAILED" if returncode else "held"
    return f"{name:12} {result:8} {inputs:>10} {rate:>9} {coverage:>9} {corpus:>7} {memory:>5}"


if __name__ == "__main__":
    sys.exit(main())

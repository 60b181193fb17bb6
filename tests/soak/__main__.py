"""``python -m tests.soak --minutes N [--directory D] [--seed S]``: exit code 1 on any breach."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
from pathlib import Path

from tests.soak.plan import Plan
from tests.soak.soak import Soak

# The coordinators are started by the hundred: half of what each costs would be compiling it anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def main() -> int:
    """Soak, and say how it went."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Everything at once, for a while.")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--directory", type=Path, help="where stores and report go; new or empty")
    parser.add_argument(
        "--seed", type=int, help="decides on what is done and when; what the machine makes of it varies"
    )
    parser.add_argument("--workers", type=int, default=3, help="of each of the two stores")
    parser.add_argument("--window", type=float, default=8.0, help="seconds after which what was done is audited")
    parser.add_argument("--mutant", "--plant", help="a mutant or condition, to see that it is noticed")
    options = parser.parse_args()
    directory = options.directory or Path(tempfile.mkdtemp(prefix="shoal-soak-"))
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}, report in {directory}", flush=True)
    plan = Plan(
        options.minutes * 60,
        directory.resolve(),
        seed,
        options.workers,
        options.window,
        mutant=options.mutant,
        progress=True,
    )
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # in order: nobody stays behind
    good, text = Soak(plan).run()
    print(text)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

"""``python -m tests.planted_bugs``: the older name of ``python -m tests.mutants``."""

import sys

from tests.mutants.__main__ import main

if __name__ == "__main__":
    sys.exit(main())

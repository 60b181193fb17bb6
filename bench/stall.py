"""``python -m bench.stall``: the same as ``python -m bench --only stall``, with all its options."""

from __future__ import annotations

import sys

from .__main__ import main

if __name__ == "__main__":
    sys.exit(main(["--only", "stall", *sys.argv[1:]]))

"""``python -m bench.growth``: the same as ``python -m bench --only growth``, with all its options."""

from __future__ import annotations

import sys

from .__main__ import main

if __name__ == "__main__":
    sys.exit(main(["--only", "growth", *sys.argv[1:]]))

"""``python -m bench.stages``: the same as ``python -m bench --only stages``, with all its options."""

from __future__ import annotations

import sys

from .__main__ import main

if __name__ == "__main__":
    sys.exit(main(["--only", "stages", *sys.argv[1:]]))

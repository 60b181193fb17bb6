"""A deterministic simulation of shoal: ``python -m tests.simulation`` from the repository's root.

The real coordinator and the real clients in one process, over a simulated scheduler, pipes, disk and clock. One seed is
one history.
"""

import sys
from pathlib import Path

# The tests import each other by their bare names, as pytest has them do; so does this package.
_TESTS = str(Path(__file__).resolve().parent.parent)
if _TESTS not in sys.path:
    sys.path.insert(0, _TESTS)

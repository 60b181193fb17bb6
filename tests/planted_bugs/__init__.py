"""Every planted bug and what caught it: ``python -m tests.planted_bugs`` from the repository's root."""

import sys
from pathlib import Path

# The tests import each other by their bare names, as pytest has them do; so does this package.
_TESTS = str(Path(__file__).resolve().parent.parent)
if _TESTS not in sys.path:
    sys.path.insert(0, _TESTS)

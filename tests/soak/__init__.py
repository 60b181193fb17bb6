"""A soak of everything at once: ``python -m tests.soak --minutes N`` from the repository's root."""

import sys
from pathlib import Path

# The tests import each other by their bare names, as pytest has them do; so does this package.
_TESTS = str(Path(__file__).resolve().parent.parent)
if _TESTS not in sys.path:
    sys.path.insert(0, _TESTS)

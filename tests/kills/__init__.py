"""Real kills by the thousand, under load: ``python -m tests.kills`` from the repository's root."""

import tests.soak  # noqa: F401 (it puts the tests' own modules within reach)

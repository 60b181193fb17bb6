"""The older name of ``tests.mutants``, for those who type ``python -m tests.planted_bugs``."""

import tests.support.plain_python  # noqa: F401 (first)

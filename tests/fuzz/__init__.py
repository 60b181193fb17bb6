"""Fuzzing of everything in shoal that reads what another process wrote: ``python -m tests.fuzz --list``."""

import tests.support.plain_python  # noqa: F401 (first)

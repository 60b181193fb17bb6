"""Imported first by programs that replace parts of shoal: they run its hot modules as plain Python.

A compiled function is called in C by other compiled ones, and a compiled class cannot be changed, so a replacement
would have no effect. Processes that such a program starts inherit the environment variable.

In a process that has imported shoal already, as that of pytest, this does nothing: tests there that replace parts of
shoal have the marker ``plain``, and are skipped where shoal runs compiled.
"""

from __future__ import annotations

import os
import sys

if "shoal" not in sys.modules:
    os.environ["SHOAL_DISABLE_EXTENSION"] = "1"
    os.environ.pop("SHOAL_REQUIRE_EXTENSION", None)

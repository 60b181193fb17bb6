"""A deterministic simulation of shoal: ``python -m tests.simulation`` from the repository's root.

The real coordinator and the real clients in one process, over a simulated scheduler, pipes, disk and clock. One seed is
one history.
"""

import tests.support.plain_python  # noqa: F401 (first)

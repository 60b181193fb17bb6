"""The one process that writes: validation, log, publication, recovery."""

import shoal.shm  # noqa: F401 (before any hot module is imported)

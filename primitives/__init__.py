"""The primitives that users store their data with: facades and views of a transaction, over the port of an engine."""

import shoal.shm  # noqa: F401 (before any hot module is imported)

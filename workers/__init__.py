"""The client side: attachment, transactions, take-over, and the process pool."""

import shoal.shm  # noqa: F401 (before any hot module is imported)

"""The one process that writes: validation, log, publication, recovery."""

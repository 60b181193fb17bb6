"""Every planted bug and what caught it: ``python -m tests.planted_bugs`` from the repository's root."""

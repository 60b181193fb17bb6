"""A soak of everything at once: ``python -m tests.soak --minutes N`` from the repository's root."""

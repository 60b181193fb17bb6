"""A soak of everything at once: ``python -m tests.soak --minutes N`` from the repository's root."""

import shoal  # noqa: F401 (before the mutants are imported: a soak runs shoal as it is installed)

"""The older name of ``tests.mutants``, for those who type ``python -m tests.planted_bugs``."""

"""Fuzzing of everything in shoal that reads what another process wrote: ``python -m tests.fuzz --list``."""

"""SIGKILL at named moments of shoal: ``python -m tests.failpoints``."""

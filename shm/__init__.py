"""Formats and structures in shared memory: what workers and the coordinator both must agree on."""

from shoal.shm import compilation

compilation.prepare()  # before any hot module is imported

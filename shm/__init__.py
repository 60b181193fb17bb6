"""Formats and structures in shared memory: what workers and the coordinator both must agree on."""

"""Measures shoal beside LMDB, SQLite, Redis and a ``multiprocessing.Manager`` dict, at equal durability.

Run it as ``shoal bench``, or as ``python -m bench`` at the top of the repository. It needs the extra ``shoal[bench]``,
and for Redis a ``redis-server`` on the PATH.

- ``peers/``: one file per store; what a worker process does with it is its ``Session``.
- ``operations.py``: what is measured, with ``operations_kv.py`` and ``operations_primitives.py``; a new operation is a
  class in one of these and a method in each session that can do it.
- ``harness.py``: rounds of worker processes which begin together and count what they finish in a fixed time.
- ``report.py``: medians, ratios, tables and JSON. ``machine.py``: what the figures were taken on.
"""

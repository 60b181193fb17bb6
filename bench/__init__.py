"""Measures shoal beside LMDB, SQLite and a ``multiprocessing.Manager`` dict, at equal durability.

Run it as ``shoal bench``, or as ``python -m bench`` at the top of the repository. It needs the extra ``shoal[bench]``.

- ``peers/``: one file per store; what a worker process does with it is its ``Session``.
- ``operations.py``: what is measured; a new operation is a class there and a method in each session that can do it.
- ``harness.py``: rounds of worker processes which begin together and count what they finish in a fixed time.
- ``report.py``: medians, ratios, tables and JSON. ``machine.py``: what the figures were taken on.
"""

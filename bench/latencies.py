"""Percentiles of measured times."""

from __future__ import annotations

from collections.abc import Iterable

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "longest": 1.0}


def percentiles(times_s: Iterable[float]) -> dict[str, float]:
    """The percentiles in ``SHARES`` by their names, in seconds; empty if there are no times."""
    ordered = sorted(times_s)
    if not ordered:
        return {}
    return {name: ordered[min(len(ordered) - 1, int(len(ordered) * share))] for name, share in SHARES.items()}

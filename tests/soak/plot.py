"""The picture of a soak: memory, descriptors, latency and rate over time, grey where a coordinator was killed."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from tests.soak.samples import latest

MIB = 1024 * 1024


def plot(samples: list[dict[str, Any]], stores: list[str], path: Path) -> str | None:
    """Write a PNG; why not, if that cannot be done."""
    try:
        import matplotlib
    except ImportError:
        return "matplotlib is not installed, so there is no plot; pip install matplotlib, and plot soak.jsonl again"
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(4, len(stores), figsize=(7 * len(stores), 14), sharex=True, squeeze=False)
    for column, store in enumerate(stores):
        of = [{"time": sample["time"], **sample["stores"][store]} for sample in samples]
        memory, descriptors, latency, rate = (axes[row][column] for row in range(4))
        memory.set_title(f"{store}: memory, MiB")
        for who in ("coordinator", "worker 0", "watcher 0", "auditor"):
            _line(memory, latest(of, "processes", who, "anonymous"), f"{who}, its own", MIB)
            _line(descriptors, latest(of, "processes", who, "descriptors"), who)
        _line(memory, latest(of, "segment_bytes"), "segment", MIB)
        _line(memory, latest(of, "disk_bytes"), "store directory", MIB)
        descriptors.set_title("open descriptors")
        latency.set_title("latency, ms")
        latency.set_yscale("log")
        for kind, share in itertools.product(("commit", "read"), ("p50", "p99", "p99.9", "max")):
            _line(latency, latest(of, f"{kind}_ms", share), f"{kind} {share}")
        rate.set_title("a second")
        rate.set_xlabel("seconds")
        for kind in ("commits", "reads", "conflicts"):
            _line(rate, latest(of, f"{kind}_per_s"), kind)
        kills = [(sample["time"], sample["done"].get("kill_coordinator", 0)) for sample in of]
        for (_, before), (when, now) in itertools.pairwise(kills):
            if now > before:
                for axis in (memory, descriptors, latency, rate):
                    axis.axvline(when, color="0.85", linewidth=0.6, zorder=0)
    for axis in axes.flat:
        if axis.lines:
            axis.legend(fontsize="x-small", ncols=2)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return None


def _line(axis: Any, series: list[tuple[float, float]], label: str, scale: float = 1.0) -> None:
    if series:
        axis.plot([when for when, _ in series], [value / scale for _, value in series], label=label, linewidth=0.9)

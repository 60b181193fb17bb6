"""Figures as pictures, SVG: throughput and latency of all peers, growth, and a timeline with checkpoints."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..harness import Figure
from ..operations import OPERATIONS
from ..peers import SUBJECT
from ..scenarios import Result
from .document import Document

_COLUMNS = 3
_SIZE = (5.2, 3.4)  # inches, of one panel
_SUBJECT_WIDTH, _PEER_WIDTH = 2.4, 1.2
# Rows of the growth scenario that a picture can hold.
_GROWING = ("get, median", "put, median", "append, median", "claim, median", "insert, p99", "insert, longest")
_SUFFIX = " keys"
Draw = Callable[[Any], None]


def write(directory: Path, documents: Sequence[Document]) -> list[Path]:
    """Write a file for each kind of picture and each document that has figures for it; their paths."""
    import matplotlib

    matplotlib.use("Agg")
    # The same figures give the same file: no random names of parts, no date.
    matplotlib.rcParams.update({"svg.hashsalt": "shoal", "font.size": 9})
    directory.mkdir(exist_ok=True)
    written = []
    for document in documents:
        for name, panels in _pictures(document).items():
            if panels:
                path = directory / f"{name}-{document.name}.svg"
                _save(path, panels, f"{name}: {document.title}")
                written.append(path)
    return written


def _pictures(document: Document) -> dict[str, list[Draw]]:
    sections = [[figure for figure in section if figure.rates_per_s] for section in document.sections()]
    results = {result.name: result for result in document.scenarios}
    return {
        "throughput": [_throughput(section) for section in sections],
        "latency": [_latency(section) for section in sections],
        "growth": _growth(results["growth"]) if "growth" in results else [],
        "timeline": _timeline(results["timeline"]) if "timeline" in results else [],
    }


def _save(path: Path, panels: Sequence[Draw], title: str) -> None:
    from matplotlib import pyplot

    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(_SIZE[0] * columns, _SIZE[1] * rows), squeeze=False, layout="constrained"
    )
    for axis, draw in zip(axes.flat, panels, strict=False):
        draw(axis)
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize="x-small")
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    figure.suptitle(title)
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def _throughput(figures: Sequence[Figure]) -> Draw:
    def draw(axis: Any) -> None:
        _title(axis, figures[0], "operations a second")
        for peer, mine in _by_peer(figures).items():
            counts = [figure.processes for figure in mine]
            rates = [statistics.median(figure.rates_per_s) for figure in mine]
            axis.plot(counts, rates, marker="o", label=peer, linewidth=_width(peer))
        counts = sorted({figure.processes for figure in figures})
        axis.set_xticks(counts, [str(count) for count in counts])
        axis.set_xlabel("processes")
        axis.set_ylim(bottom=0)

    return draw


def _latency(figures: Sequence[Figure]) -> Draw:
    """Of the largest number of processes."""

    def draw(axis: Any) -> None:
        most = max(figure.processes for figure in figures)
        _title(axis, figures[0], f"ms of a step, {most} process{'es' if most > 1 else ''}")
        for figure in figures:
            if figure.processes == most:
                values_ms = [statistics.median(times_s) * 1e3 for times_s in figure.percentiles_s.values()]
                axis.plot(
                    *(list(figure.percentiles_s), values_ms),
                    marker="o",
                    label=figure.peer,
                    linewidth=_width(figure.peer),
                )
        axis.set_yscale("log")

    return draw


def _growth(result: Result) -> list[Draw]:
    def draw_calls(axis: Any) -> None:
        axis.set_title("us of a call, by keys in the store", fontsize="medium")
        for row in _GROWING:
            _plot_row(axis, result, row)
        axis.set_yscale("log")

    def draw_memory(axis: Any) -> None:
        axis.set_title("bytes of a key beyond key and value", fontsize="medium")
        _plot_row(axis, result, "memory of a key beyond key and value")
        axis.set_ylim(bottom=0)

    return [draw_calls, draw_memory]


def _plot_row(axis: Any, result: Result, row: str) -> None:
    points = [
        (int(figure.column.removesuffix(_SUFFIX).replace(",", "")), figure.value)
        for figure in result.figures
        if figure.row == row and figure.column.endswith(_SUFFIX)
    ]
    axis.plot([keys for keys, _ in points], [value for _, value in points], marker="o", label=row)
    axis.set_xscale("log")
    axis.set_xlabel("keys")


def _timeline(result: Result) -> list[Draw]:
    points = result.series["points"]
    times_s = [point[0] for point in points]

    def mark(axis: Any) -> None:
        for number, (start_s, end_s) in enumerate(result.series["checkpoints"]):
            axis.axvspan(start_s, end_s, color="0.85", zorder=0, label=None if number else "checkpoint")
        axis.set_xlabel("seconds")
        axis.set_ylim(bottom=0)

    def draw_rate(axis: Any) -> None:
        axis.set_title("commits a second", fontsize="medium")
        axis.plot(times_s, [point[1] for point in points], linewidth=1)
        mark(axis)

    def draw_p99(axis: Any) -> None:
        axis.set_title("p99 of a commit, ms", fontsize="medium")
        axis.plot(times_s, [point[2] * 1e3 for point in points], linewidth=1, color="tab:red")
        mark(axis)

    return [draw_rate, draw_p99]


def _by_peer(figures: Sequence[Figure]) -> dict[str, list[Figure]]:
    found: dict[str, list[Figure]] = {}
    for figure in sorted(figures, key=lambda figure: figure.processes):
        found.setdefault(figure.peer, []).append(figure)
    return {peer: found[peer] for peer in dict.fromkeys(figure.peer for figure in figures)}


def _title(axis: Any, figure: Figure, unit: str) -> None:
    durability = f" ({figure.durability})" if OPERATIONS[figure.operation].writes else ""
    axis.set_title(f"{figure.operation}{durability}: {unit}", fontsize="medium")


def _width(peer: str) -> float:
    return _SUBJECT_WIDTH if peer == SUBJECT.name else _PEER_WIDTH

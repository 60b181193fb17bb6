"""Figures as tables and JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from .harness import Figure, Plan
from .operations import Operation
from .peers import SUBJECT

_NOTHING = "-"


def machine_text(machine: dict[str, Any]) -> str:
    """The machine as a table, printed before the figures: they depend on it."""
    mode = "compiled" if machine["shoal_compiled"] else "plain Python"
    lmdb = f"LMDB {machine['lmdb']} (py-lmdb {machine['py_lmdb']})"
    redis = f"Redis {machine['redis']} (redis-py {machine['redis_py']})" if machine["redis"] else "no Redis"
    rows = [
        ("machine", f"{machine['cpu']}, {machine['cores']} cores, {machine['kernel']}, load {machine['load_before']}"),
        ("python", machine["python"]),
        ("shoal", f"{machine['shoal']}, {mode}"),
        ("peers", f"{lmdb}, SQLite {machine['sqlite']}, {redis}"),
        ("fdatasync", f"{machine['fdatasync_s'] * 1e6:,.0f} us median, on {machine['file_system']}"),
        ("pipe round trip", f"{machine['pipe_round_trip_s'] * 1e6:,.1f} us median, between two processes"),
    ]
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def plan_text(plan: Plan) -> str:
    """How the figures are measured, as a text."""
    beside = f"\nBusy machine: {plan.busy} endless loop(s) beside every trial." if plan.busy else ""
    return (
        f"Operations per second of all processes together: median of {plan.rounds} round(s) of {plan.seconds_s:g} s, "
        "± half the spread.\n"
        "x: shoal's rate divided by the peer's in the same round, median; above 1 shoal is faster.\n"
        f"p99: the 99th percentile of a step's time, in ms, median of the rounds.{beside}"
    )


def section_text(operation: Operation, durability: str, figures: Sequence[Figure]) -> str:
    """The table of one operation at one durability."""
    counts = list(dict.fromkeys(figure.processes for figure in figures))
    headers = ["", *(["durability"] if operation.writes else [])]
    for processes in counts:
        headers += [f"{processes} process{'es' if processes > 1 else ''}", "x", "p99"]
    rows = []
    missing: dict[str, list[str]] = {}
    for peer in dict.fromkeys(figure.peer for figure in figures):
        mine = [figure for figure in figures if figure.peer == peer]
        if mine[0].missing:
            missing.setdefault(mine[0].missing, []).append(peer)
            continue
        row = [peer, *([mine[0].setting] if operation.writes else [])]
        for figure in mine:
            row += [_rate_text(figure), _ratio_text(figure, figures), _p99_text(figure)]
        rows.append(row)
    notes = [f"{', '.join(peers)}: not measured: {reason}." for reason, peers in missing.items()]
    left = 2 if operation.writes else 1
    alignment = ["left"] * left + ["right"] * (3 * len(counts))
    heading = f"{operation.title}{f' ({durability})' if operation.writes else ''}"
    table = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True, colalign=alignment)
    return "\n".join([heading, "", table, *notes])


def write_json(path: Path, machine: dict[str, Any], plan: Plan, figures: Sequence[Figure]) -> None:
    """Write all raw figures, and the medians and ratios of the tables."""
    document = {
        "machine": machine,
        "rounds": plan.rounds,
        "seconds_s": plan.seconds_s,
        "busy": plan.busy,
        "figures": [
            {
                **vars(figure),
                "median_per_s": statistics.median(figure.rates_per_s) if figure.rates_per_s else None,
                "ratios": ratios(figure, figures),
                "median_ratio": _median(ratios(figure, figures)),
            }
            for figure in figures
        ],
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


def ratios(figure: Figure, figures: Sequence[Figure]) -> list[float | None]:
    """shoal's rate divided by the peer's, round by round; None for a round in which the peer finished nothing."""
    subject = next(
        other
        for other in figures
        if other.peer == SUBJECT.name
        and (other.operation, other.durability, other.processes)
        == (figure.operation, figure.durability, figure.processes)
    )
    return [
        mine / theirs if theirs else None for mine, theirs in zip(subject.rates_per_s, figure.rates_per_s, strict=False)
    ]


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _rate_text(figure: Figure) -> str:
    if not figure.rates_per_s:
        return _NOTHING
    median = statistics.median(figure.rates_per_s)
    text = f"{median:,.0f}" if median >= 100 else f"{median:.1f}"
    if not median or len(figure.rates_per_s) == 1:
        return text
    spread = (max(figure.rates_per_s) - min(figure.rates_per_s)) / 2 / median
    return f"{text} ±{spread:.0%}"


def _ratio_text(figure: Figure, figures: Sequence[Figure]) -> str:
    if figure.peer == SUBJECT.name:
        return ""
    ratio = _median(ratios(figure, figures))
    return _NOTHING if ratio is None else f"{ratio:.2f}"


def _p99_text(figure: Figure) -> str:
    return f"{statistics.median(figure.p99s_s) * 1e3:.2f}" if figure.p99s_s else _NOTHING

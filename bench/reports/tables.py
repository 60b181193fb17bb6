"""Figures as tables, for a terminal or for a page in Markdown."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from ..harness import Figure
from ..operations import OPERATIONS
from ..peers import SUBJECT
from ..scenarios import Result
from .document import Document, median, ratios

PLAIN, MARKDOWN = "simple", "github"
_NOTHING = "-"
_LINE = 110  # characters of a line of text
_QUIET_LOAD = 0.5  # of the machine before a run; above it the machine was not idle


def machine_text(machine: dict[str, Any], busy: int, table_format: str = "plain") -> str:
    """The machine as a table, printed before the figures: they depend on it."""
    rows = [*_machine_rows(machine), ("state", _state_text(machine, busy))]
    headers = ("", "") if table_format == MARKDOWN else ()
    return tabulate(rows, headers=headers, tablefmt=table_format, disable_numparse=True)


def _machine_rows(machine: dict[str, Any]) -> list[tuple[str, str]]:
    mode = "compiled" if machine["shoal_compiled"] else "plain Python"
    lmdb = f"LMDB {machine['lmdb']} (py-lmdb {machine['py_lmdb']})"
    parser = f", hiredis {machine['hiredis']}" if machine.get("hiredis") else ", without hiredis"
    redis = f"Redis {machine['redis']} (redis-py {machine['redis_py']}{parser})" if machine["redis"] else "no Redis"
    postgres = f"PostgreSQL {machine['postgres']}" if machine.get("postgres") else "no PostgreSQL"
    driver = f" (psycopg {machine['psycopg']})" if machine.get("psycopg") else ""
    disk_cache = f"diskcache {machine['diskcache']}" if machine.get("diskcache") else "no diskcache"
    return [
        ("machine", f"{machine['cpu']}, {machine['cores']} cores, {machine['kernel']}"),
        ("python", machine["python"]),
        ("shoal", f"{machine['shoal']}, {mode}"),
        ("peers", f"{lmdb}, SQLite {machine['sqlite']}, {redis}, {postgres}{driver}, {disk_cache}"),
        ("fdatasync", f"{machine['fdatasync_s'] * 1e6:,.0f} us median, on {machine['file_system']}"),
        ("pipe round trip", f"{machine['pipe_round_trip_s'] * 1e6:,.1f} us median, between two processes"),
    ]


def _state_text(machine: dict[str, Any], busy: int) -> str:
    load = f"load {machine['load_before']} before"
    if busy:
        return f"busy: {busy} endless loop(s) beside everything that is measured; {load}"
    others = "; others were at work, so the figures are too low" if machine["load_before"] > _QUIET_LOAD else ""
    return f"idle: nothing beside what is measured; {load}{others}"


def plan_text(rounds: int, seconds_s: float) -> str:
    """How the figures are measured, as a text."""
    return (
        f"Operations per second of all processes together: median of {rounds} round(s) of {seconds_s:g} s, "
        "± half the spread.\n"
        "x: shoal's rate divided by the peer's in the same round, median; above 1 shoal is faster.\n"
        "p99: the 99th percentile of a step's time, in ms, median of the rounds.\n"
        "even: the rate of the slowest process divided by that of the fastest, median."
    )


def section_text(figures: Sequence[Figure], table_format: str = PLAIN) -> str:
    """The table of one operation at one durability."""
    operation = OPERATIONS[figures[0].operation]
    counts = list(dict.fromkeys(figure.processes for figure in figures))
    per_count = 4 if operation.competes else 3
    headers = ["", *(["durability"] if operation.writes else [])]
    for processes in counts:
        headers += [f"{processes} process{'es' if processes > 1 else ''}", "x", "p99", "even"][:per_count]
    rows = []
    missing: dict[str, list[str]] = {}
    for peer in dict.fromkeys(figure.peer for figure in figures):
        mine = [figure for figure in figures if figure.peer == peer]
        if mine[0].missing:
            missing.setdefault(mine[0].missing, []).append(peer)
            continue
        row = [peer, *([mine[0].setting] if operation.writes else [])]
        for figure in mine:
            row += [_rate_text(figure), _ratio_text(figure, figures), _p99_text(figure), _even_text(figure)][:per_count]
        rows.append(row)
    notes = [f"{', '.join(peers)}: not measured: {reason}." for reason, peers in missing.items()]
    heading = f"{operation.title}{f' ({figures[0].durability})' if operation.writes else ''}"
    table = _table(headers, rows, 2 if operation.writes else 1, table_format)
    return "\n".join([_heading(heading, table_format), "", table, *(["", *notes] if notes else [])])


def scenario_text(result: Result, table_format: str = PLAIN) -> str:
    """The table of a scenario: its rows, and its columns in the order in which they were measured."""
    columns = list(dict.fromkeys(figure.column for figure in result.figures))
    found = {(figure.row, figure.column): figure for figure in result.figures}
    rows = []
    for row in dict.fromkeys(figure.row for figure in result.figures):
        mine = [found.get((row, column)) for column in columns]
        units = dict.fromkeys(figure.unit for figure in mine if figure is not None and figure.unit != "x")
        texts = [_NOTHING if figure is None else number_text(figure.value) for figure in mine]
        rows.append([row, next(iter(units), "x"), *texts])
    table = _table(["", "unit", *columns], rows, 2, table_format)
    note = result.note if table_format == MARKDOWN else textwrap.fill(result.note, _LINE)
    return "\n".join([_heading(result.title, table_format), "", table, "", note]).rstrip()


def document_texts(document: Document, table_format: str = PLAIN) -> list[str]:
    """The whole document, part by part."""
    parts = [machine_text(document.machine, document.busy, MARKDOWN if table_format == MARKDOWN else "plain")]
    if document.figures:
        parts.append(plan_text(document.rounds, document.seconds_s))
    parts += [section_text(figures, table_format) for figures in document.sections()]
    return parts + [scenario_text(result, table_format) for result in document.scenarios]


def number_text(value: float) -> str:
    """A number with three digits that mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _heading(text: str, table_format: str) -> str:
    return f"### {text}" if table_format == MARKDOWN else text


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]], left: int, table_format: str) -> str:
    alignment = ["left"] * left + ["right"] * (len(headers) - left)
    return tabulate(
        rows, headers=headers, tablefmt=table_format, disable_numparse=True, colalign=alignment if rows else ()
    )


def _rate_text(figure: Figure) -> str:
    if not figure.rates_per_s:
        return _NOTHING
    middle = statistics.median(figure.rates_per_s)
    text = f"{middle:,.0f}" if middle >= 100 else f"{middle:.1f}"
    if not middle or len(figure.rates_per_s) == 1:
        return text
    spread = (max(figure.rates_per_s) - min(figure.rates_per_s)) / 2 / middle
    return f"{text} ±{spread:.0%}"


def _ratio_text(figure: Figure, figures: Sequence[Figure]) -> str:
    if figure.peer == SUBJECT.name:
        return ""
    ratio = median(ratios(figure, figures))
    return _NOTHING if ratio is None else f"{ratio:.2f}"


def _p99_text(figure: Figure) -> str:
    p99s_s = figure.percentiles_s.get("p99")
    return f"{statistics.median(p99s_s) * 1e3:.2f}" if p99s_s else _NOTHING


def _even_text(figure: Figure) -> str:
    shares = figure.slowest_to_fastest
    return f"{statistics.median(shares):.2f}" if shares else _NOTHING

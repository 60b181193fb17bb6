"""Two runs side by side: what has become slower. Only shoal's rows are judged."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from tabulate import tabulate

from ..peers import SUBJECT, BenchError
from .document import Document
from .tables import PLAIN, number_text

_SLOWER = 0.95
# What two runs must share to be compared at all fairly; a difference is said.
_SAME = ("cpu", "cores", "kernel", "python", "shoal_compiled", "file_system")
_Key = tuple[str, ...]


@dataclass(frozen=True)
class _Value:
    value: float
    unit: str
    higher_is_better: bool
    noisy: bool


def compare(old: Document, new: Document) -> tuple[str, bool]:
    """The table as a text, and whether a row that is judged is slower. ``BenchError`` if no row is in both."""
    olds, news = _values(old), _values(new)
    common = [key for key in olds if key in news]
    if not common:
        raise BenchError("the two files have no row in common")
    rows, any_slower = [], False
    for key in common:
        ratio = _ratio(olds[key], news[key])
        is_slower = ratio is not None and ratio < _SLOWER and not olds[key].noisy
        any_slower |= is_slower
        verdict = "slower" if is_slower else "noisy" if olds[key].noisy else ""
        values = (number_text(olds[key].value), number_text(news[key].value), olds[key].unit)
        rows.append([", ".join(key), *values, "-" if ratio is None else f"{ratio:.2f}", verdict])
    table = tabulate(
        rows,
        headers=("", "old", "new", "unit", "new / old", ""),
        tablefmt=PLAIN,
        disable_numparse=True,
        colalign=("left", "right", "right", "left", "right", "left"),
    )
    return "\n".join([table, "", *_notes(old, new, len(olds) - len(common), len(news) - len(common))]), any_slower


def _values(document: Document) -> dict[_Key, _Value]:
    """shoal's figures by operation and so on; of rates the median of the rounds."""
    found: dict[_Key, _Value] = {}
    for figure in document.figures:
        if figure.peer == SUBJECT.name and figure.rates_per_s:
            key = (figure.operation, figure.durability, str(figure.processes))
            found[key] = _Value(statistics.median(figure.rates_per_s), "a second", True, False)
    for result in document.scenarios:
        for each in result.figures:
            key = (result.name, each.row, each.column)
            found[key] = _Value(each.value, each.unit, each.higher_is_better, each.noisy)
    return found


def _ratio(old: _Value, new: _Value) -> float | None:
    """Above 1 the new one is better; None if that cannot be said."""
    better, worse = (new.value, old.value) if old.higher_is_better else (old.value, new.value)
    return better / worse if worse > 0 else None


def _notes(old: Document, new: Document, only_old: int, only_new: int) -> list[str]:
    explained = f"new / old: as speed, so above 1 the new run is better, also for times. Slower: below {_SLOWER}."
    notes = [explained, "Noisy: a figure that chance makes, not judged."]
    if only_old or only_new:
        notes.append(f"{only_old} row(s) are in the old file alone, {only_new} in the new file alone.")
    notes += [
        f"Not the same: {name}: {old.machine.get(name)} and {new.machine.get(name)}."
        for name in _SAME
        if old.machine.get(name) != new.machine.get(name)
    ]
    if old.state != new.state:
        notes.append(f"Not the same: the machine was {old.state} and {new.state}.")
    return notes

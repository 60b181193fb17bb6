"""All figures of one run of the benchmark, and the JSON they are kept in."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from ..harness import Figure
from ..peers import SUBJECT, BenchError
from ..scenarios import Measured, Result

T = TypeVar("T")


@dataclass
class Document:
    """The machine, how it was measured, and the figures."""

    machine: dict[str, Any]
    rounds: int
    seconds_s: float
    busy: int  # endless loops beside everything that is measured
    figures: list[Figure] = field(default_factory=list)
    scenarios: list[Result] = field(default_factory=list)

    @property
    def state(self) -> str:
        """Of the machine, beside what is measured."""
        return "busy" if self.busy else "idle"

    @property
    def mode(self) -> str:
        """Of shoal."""
        return "compiled" if self.machine["shoal_compiled"] else "plain"

    @property
    def name(self) -> str:
        """What tells the runs of one page apart."""
        return f"{self.state}-{self.mode}"

    @property
    def title(self) -> str:
        """``name`` in words."""
        return f"{self.state} machine, {'plain Python' if self.mode == 'plain' else self.mode}"

    def sections(self) -> list[list[Figure]]:
        """The figures of each operation at each durability."""
        found: dict[tuple[str, str], list[Figure]] = {}
        for figure in self.figures:
            found.setdefault((figure.operation, figure.durability), []).append(figure)
        return list(found.values())


def write(path: Path, document: Document) -> None:
    """Write all raw figures, and the medians and ratios of the tables."""
    content = asdict(document)
    for raw, figure in zip(content["figures"], document.figures, strict=True):
        raw["median_per_s"] = median(figure.rates_per_s)
        raw["ratios"] = ratios(figure, document.figures)
        raw["median_ratio"] = median(raw["ratios"])
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read(path: Path) -> Document:
    """What ``write`` has written. ``BenchError`` for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        document = _made(Document, content)
        document.figures = [_made(Figure, raw) for raw in content["figures"]]
        document.scenarios = [_made(Result, raw) for raw in content.get("scenarios", [])]
        for result in document.scenarios:
            result.figures = [_made(Measured, raw) for raw in vars(result)["figures"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BenchError(f"{path} has no figures of this benchmark: {type(error).__name__}: {error}") from error
    return document


def _made(kind: type[T], raw: dict[str, Any]) -> T:
    """An object of a dataclass; what is derived, or of another version, is left out."""
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in raw.items() if name in names})


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


def median(values: Sequence[float | None]) -> float | None:
    """The median of what is known, None if nothing is."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None

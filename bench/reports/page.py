"""Figures in a page of Markdown, between two marks; what stands around them is left as it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..peers import BenchError
from .document import Document
from .tables import MARKDOWN, document_texts

BEGIN = "<!-- figures: begin; made by python -m bench --markdown, do not edit -->"
END = "<!-- figures: end -->"


def check(path: Path) -> None:
    """``BenchError`` for a page that has no place for figures; before they are measured."""
    if path.exists():
        _split(path.read_text(encoding="utf-8"), path)


def write(path: Path, documents: Sequence[Document], plots: Sequence[Path]) -> None:
    """Put the figures where they stood before; a page that is not there is made with nothing else."""
    before, after = _split(path.read_text(encoding="utf-8"), path) if path.exists() else ("", "\n")
    parts = []
    for document in documents:
        parts.append(f"## Figures: {document.title}")
        parts += document_texts(document, MARKDOWN)
        kinds = {plot: plot.stem.removesuffix(f"-{document.name}") for plot in plots}
        parts += [
            f"![{kind}: {document.title}]({_link(plot, path)})" for plot, kind in kinds.items() if kind != plot.stem
        ]
    path.write_text(before + "\n\n".join([BEGIN, *parts, END]) + after, encoding="utf-8")


def _split(text: str, path: Path) -> tuple[str, str]:
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise BenchError(f"{path} has no place for figures: give it the line {BEGIN} and, below it, the line {END}")
    return before, after


def _link(plot: Path, page: Path) -> str:
    return Path(os.path.relpath(plot.resolve(), page.resolve().parent)).as_posix()

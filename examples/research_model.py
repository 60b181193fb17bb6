"""What the research fleet of ``research_fleet.py`` finds outside the store: a model, and an archive that takes money.

Both are made up, work offline and always answer the same. The model is asked again after its caller has died; that
costs tokens and nothing else. The archive must not be asked twice: it sends an invoice for each order. Its invoices are
a file beside the store, so anybody can look up what was ordered.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

ROOT_QUESTION = "how could the town heat its homes without gas"
DIRECTIONS = ("district heating", "heat pumps", "insulation", "solar heat")
ASPECTS = ("cost", "experience elsewhere", "obstacles", "speed")
DETAILS = ("for tenants", "in a cold winter", "in old houses")
# Several questions lead to the same one of these.
BASICS = ("electricity prices", "numbers of houses", "weather of ten years", "who rents")
SURVEY = frozenset(
    [ROOT_QUESTION, *DIRECTIONS, *(f"{direction}: {aspect}" for direction in DIRECTIONS for aspect in ASPECTS)]
)
DOCUMENTS = tuple(f"document {number:02}" for number in range(1, 25))
MOST_TOKENS = 600  # of one answer, with its question


@dataclass(frozen=True)
class Answer:
    """What the model says: ``confidence`` in percent, ``tokens`` as it counts them, and what to ask next."""

    text: str
    confidence: int
    tokens: int
    next_questions: tuple[str, ...]


def ask_model(question: str, documents: list[str], think_s: float) -> Answer:
    """Ask the model, which thinks for ``think_s`` seconds. The answer follows from the arguments alone."""
    time.sleep(think_s)
    number = _number(question, *documents)
    confidence = 40 + number % 60
    text = f"{question}: {('no', 'hardly', 'mostly', 'yes')[confidence // 25]}, says {documents[0]}"
    return Answer(text, confidence, MOST_TOKENS // 3 + number % (MOST_TOKENS // 2), _next_questions(question))


def deeper_questions(direction: str) -> list[str]:
    """The questions with which research goes on in one direction, after the survey."""
    return [f"{direction}: {aspect} {detail}" for aspect in ASPECTS for detail in DETAILS]


def documents_for(question: str) -> list[str]:
    """The documents that the model needs for its answer."""
    first = _number(question) % len(DOCUMENTS)
    return [DOCUMENTS[first], DOCUMENTS[(first + 7) % len(DOCUMENTS)]]


def _next_questions(question: str) -> tuple[str, ...]:
    if question == ROOT_QUESTION:
        return DIRECTIONS
    if question in DIRECTIONS:
        return tuple(f"{question}: {aspect}" for aspect in ASPECTS)
    if question.endswith(DETAILS):
        direction, _, _ = question.partition(":")
        return (f"{direction}, basics: {BASICS[_number(question) % len(BASICS)]}",)
    return ()


class Archive:
    """An archive that sends documents for money. ``invoices``: a file with a line for each order."""

    def __init__(self, invoices: Path) -> None:
        self._invoices = invoices

    def order(self, document: str) -> str:
        """Order a document; its text."""
        descriptor = os.open(self._invoices, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, f"{document}\n".encode())
        finally:
            os.close(descriptor)
        return self._text(document)

    def find_out(self, document: str) -> str:
        """Settle a doubt: the text of a document that was ordered; one that was not is ordered now."""
        return self._text(document) if document in self.orders() else self.order(document)

    def orders(self) -> list[str]:
        """The documents ordered, one for each invoice, in order."""
        return self._invoices.read_text().splitlines() if self._invoices.exists() else []

    def _text(self, document: str) -> str:
        return f"{document} ({_number(document) % 90 + 10} pages)"


def _number(*texts: str) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(texts).encode()).digest()[:4])

"""The completion report links every line of the plan to a test or a measurement that is there."""

from __future__ import annotations

import ast
import re
from collections import Counter

from tests.support.repository import ROOT

REPORT = ROOT / "docs" / "milestones" / "m3-completion-report.md"
ROW = re.compile(r"\| (\d{3}) \| (.+?) \| (.+?) \|")
TEST = re.compile(r"`(tests/plan/\w+\.py)::(test_(\d{3})_\w+)`")
BENCH = re.compile(r"`python -m bench --only (\w+)`")

# How many lines the plan has for each story: "Tests", acceptance criteria and named functions.
LINES = dict(
    zip(
        range(166, 202),
        [4, 9, 2, 4, 7, 4, 5, 4, 3, 5, 7, 5, 3, 5, 2, 7, 7, 5, 4, 3, 5, 5, 6, 4, 3, 3, 5, 6, 7, 8, 7, 6, 10, 10, 12, 6],
        strict=True,
    )
)


def _rows() -> list[tuple[int, str, str]]:
    table = REPORT.read_text().split("## Every line of the plan", 1)[1]
    return [(int(story), line, link) for story, line, link in ROW.findall(table)]


def test_every_line_of_every_story_is_in_the_table() -> None:
    """No story and no line has dropped out."""
    assert Counter(story for story, _, _ in _rows()) == LINES
    assert len({(story, line) for story, line, _ in _rows()}) == sum(LINES.values())


def test_every_link_leads_to_a_test_named_for_it() -> None:
    """A test carries its story's number and is defined in the file named; a measurement is one of the bench."""
    defined = {
        (str(path.relative_to(ROOT)), node.name)
        for path in (ROOT / "tests" / "plan").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    sources = "\n".join(path.read_text() for path in (ROOT / "bench").glob("*.py"))
    measured = re.findall(r'^    name = "(\w+)"$', sources, re.MULTILINE)
    wrong = []
    for story, line, link in _rows():
        test, bench = TEST.search(link), BENCH.search(link)
        if test:
            found = (test[1], test[2]) in defined and int(test[3]) == story
        elif bench:
            found = story == 200 and bench[1] in measured
        else:
            found = story == 201
        if not found:
            wrong.append(f"{story} {line}: {link}")
    assert wrong == []


def test_every_test_of_the_plan_is_linked() -> None:
    """No test of a story stands outside the table."""
    linked = {match[2] for _, _, link in _rows() if (match := TEST.search(link))}
    defined = {
        node.name
        for path in (ROOT / "tests" / "plan").glob("test_epic_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and re.match(r"test_\d{3}_", node.name)
    }
    assert defined == linked

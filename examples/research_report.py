"""The report of the research fleet: what was found, and whether the store's books agree with it.

The same contents of the store give the same bytes: no times, no versions, no order of arrival.
"""

from __future__ import annotations

from collections import Counter
from statistics import mean
from typing import Any

from research_model import DIRECTIONS, ROOT_QUESTION, SURVEY, Archive

import shoal

FLEET = "fleet"
RESEARCH = "research"
FORK = "research/second"
FINDING = "finding/"
TOKENS = "tokens"
TOP = 5

Findings = dict[str, dict[str, Any]]


def digest_of(run_id: str) -> str:
    """The run in which the reporter keeps its counts of another run."""
    return f"digest of {run_id}"


def findings_of(db: shoal.Database, run_id: str) -> Findings:
    """The findings of a run, by question, at one snapshot."""
    found = shoal.KVStore(db).list_with_values(run_id, FINDING)
    return {key.removeprefix(FINDING): finding for key, finding in found}


def ranked_directions(db: shoal.Database) -> list[str]:
    """The directions, the most promising first, as the survey has found."""
    survey = {question: finding for question, finding in findings_of(db, RESEARCH).items() if question in SURVEY}
    return sorted(DIRECTIONS, key=lambda direction: (-_confidence(survey, direction), direction))


def report(db: shoal.Database, archive: Archive) -> str:
    """The whole report."""
    ranked = ranked_directions(db)
    directions = {RESEARCH: ranked[0], FORK: ranked[1]}
    findings = {run_id: findings_of(db, run_id) for run_id in directions}
    confidences = {run_id: _confidence(findings[run_id], name) for run_id, name in directions.items()}
    lines = [
        "Research",
        "========",
        "",
        f"Question: {ROOT_QUESTION}?",
        "",
        "Directions, most promising first, by survey:",
    ]
    lines += [f"        {name}" for name in ranked]
    for run_id, direction in directions.items():
        lines += ["", f"{direction}: {len(findings[run_id])} findings in run {run_id}, the surest of this direction:"]
        own = [finding for question, finding in findings[run_id].items() if question.startswith(direction)]
        own.sort(key=lambda finding: (-finding["confidence"], finding["text"]))
        lines += [f"  {finding['confidence']:3}%  {finding['text']}" for finding in own[:TOP]]
    better = max(confidences, key=lambda run_id: confidences[run_id])
    lines += ["", f"Advice: {directions[better]}, with a confidence of {confidences[better]:.1f}%", ""]
    return "\n".join([*lines, *_books(db, findings, archive), ""])


def _books(db: shoal.Database, findings: dict[str, Findings], archive: Archive) -> list[str]:
    """What the fleet spent and counted on the way, and whether all of that follows from the findings."""
    asked = [*findings[RESEARCH].values(), *(f for question, f in findings[FORK].items() if question not in SURVEY)]
    tokens = sum(finding["tokens"] for finding in asked)
    used = shoal.Budget(db).read(FLEET, TOKENS).used
    orders = archive.orders()
    needed = {document for finding in asked for document in finding["documents"]}
    diff = shoal.RunIndex(db).diff(RESEARCH, FORK)
    checks = {
        f"{len(asked)} answers cost {tokens:,} tokens, and as many were taken from the budget": used == tokens,
        f"{len(orders)} documents were ordered, each once": sorted(orders) == sorted(needed),
        "the reporter has counted each finding once": all(
            _counted(db, run_id) == _uses(found) for run_id, found in findings.items()
        ),
        "the hash chains of the event logs hold": all(
            shoal.EventLog(db).verify_chain(run_id).is_valid and shoal.EventLog(db).len(run_id) == len(found)
            for run_id, found in findings.items()
        ),
        f"the fork parts from its source after event {len(SURVEY)}": (
            min(difference.name for difference in diff.events) == len(SURVEY)
        ),
    }
    return ["Books", "-----", *(f"{'yes' if holds else 'NO':>6}  {what}" for what, holds in checks.items())]


def _confidence(findings: Findings, direction: str) -> float:
    return float(
        mean(finding["confidence"] for question, finding in findings.items() if question.startswith(direction))
    )


def _uses(findings: Findings) -> Counter[str]:
    return Counter(document for finding in findings.values() for document in finding["documents"])


def _counted(db: shoal.Database, run_id: str) -> Counter[str]:
    counted = shoal.KVStore(db).list_with_values(digest_of(run_id), "use/")
    return Counter({key.removeprefix("use/"): number for key, number in counted})

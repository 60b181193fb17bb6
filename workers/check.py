"""A check of the whole store by an attached process, while commits go on."""

from __future__ import annotations

from typing import Any

from shoal.shm import check_state
from shoal.shm.integrity import SegmentCheck
from shoal.workers.connection import Connection


def check_through(connection: Connection, insist: bool = False) -> list[str]:
    """All problems found. SnapshotExpiredError if the check was given up, or another coordinator serves now.

    Given up for whoever needs room; who insists has a second first, in which commits may find the store full.
    Each question is a round trip of its own: other threads' commits go on between them.
    """
    attachment = connection.current()
    number = 0

    def ask(part: str, position: int) -> list[Any]:
        nonlocal number
        answer: list[Any] = connection.ask("check", [number, part, position])
        if connection.attachment is not attachment:
            return []  # what was walked until now is another coordinator's segment
        if part == check_state.BEGIN:
            number = answer.pop(0)
        elif part == check_state.END or not answer:
            number = 0
        return answer

    try:
        return SegmentCheck(attachment.segment, ask).run(insist)
    finally:
        if number and attachment.is_open:  # an exception: the coordinator still holds back what it would free
            connection.ask("check", [number, check_state.END, 0])

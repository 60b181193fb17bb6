"""A check of the whole store by an attached process, while commits go on."""

from __future__ import annotations

from typing import Any

from shoal.shm.memory import check_parts
from shoal.shm.memory.integrity import SegmentCheck
from shoal.workers.shared_memory.connection import StoreConnection


def check_through(connection: StoreConnection, insist: bool = False) -> list[str]:
    """All problems found.

    Raises ``SnapshotExpiredError`` if the check was given up, or another coordinator serves now. The coordinator gives
    a check up as soon as a commit needs the memory that the check holds back. With ``insist`` it does so only after a
    second, in which commits may find the store full.

    Each control request is a round trip of its own: other threads' commits go on between them.
    """
    found = connection.check_at_rest()
    if found is not None:
        return found
    attachment = connection.current()
    number = 0  # of the check at the coordinator; 0: none is under way

    def ask(part: str, position: int) -> list[Any]:
        nonlocal number
        answer: list[Any] = connection.ask("check", [number, part, position])
        if connection.attachment is not attachment:
            return []  # another coordinator serves, and its segment is not the one that is walked
        if part == check_parts.BEGIN:
            number = answer.pop(0)
        elif part == check_parts.END or not answer:
            number = 0
        return answer

    try:
        with attachment.reading():
            return SegmentCheck(attachment.segment, ask).run(insist)
    finally:
        if number and attachment.is_current():  # after an exception the coordinator still holds memory back
            connection.ask("check", [number, check_parts.END, 0])

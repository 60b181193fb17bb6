"""All live attachments of a connection, with their pipes.

Only the connection uses this. A signal handler that raises may interrupt the connection so that nothing refers to an
attachment any more. The pipes are kept here as well, so they are closed even then. Every method works on a copy of the
list: a handler or another thread may change it meanwhile.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

from shoal.shm.errors import InvalidOperationError
from shoal.shm.host import descriptors
from shoal.shm.key_location_cache import KeyLocationCache
from shoal.workers.shared_memory.attachment import Attachment


class LiveAttachments:
    """Refers to attachments weakly: one lives as long as a transaction or the connection reads from it."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: list[tuple[weakref.ref[Attachment], list[int | None]]] = []

    def add(self, attachment: Attachment) -> None:
        """Note an attachment that was made."""
        self._entries.append((weakref.ref(attachment), attachment.pipes))

    def forget_dropped(self) -> None:
        """Close the pipes of attachments that nothing refers to any more."""
        for entry in self._entries.copy():
            if entry[0]() is None:
                descriptors.close_all(entry[1])
                with contextlib.suppress(ValueError):  # a handler came in between and has removed it
                    self._entries.remove(entry)

    def close_memory(self, why: str) -> None:
        """Unmap what each of them maps; later reads raise ``InvalidOperationError`` with the text ``why``."""
        for reference, _ in self._entries.copy():
            attachment = reference()
            if attachment is not None:
                attachment.close_memory(why)

    def close_unused_pipes(self) -> None:
        """Close all pipes but those of a commit under way, which the thread that waits for its answer closes.

        A thread that waits for what others do is made to see the end of its pipe.
        """
        for reference, pipes in self._entries.copy():
            attachment = reference()
            if attachment is None or not attachment.in_use:
                descriptors.close_all(pipes)
            elif attachment.waiting:
                attachment.hang_up()

    def leave_to_parent(self) -> None:
        """In a forked child: drop all pipes and slots, which are the parent's."""
        for reference, _ in self._entries.copy():
            attachment = reference()
            if attachment is not None:
                attachment.leave_to_parent()


def reading_through(
    connection: Callable[[], Any],
) -> Callable[[KeyLocationCache, str], bytes | None]:
    """What a retired reader calls in place of its own ``get_named``; it keeps no connection alive."""

    def get_from_current(place: KeyLocationCache, name: str) -> bytes | None:
        alive = connection()
        if alive is None:
            raise InvalidOperationError("the database is closed; open it again")
        value: bytes | None = alive._get_from_current(place, name)
        return value

    return get_from_current

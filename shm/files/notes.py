"""``coordinator.log``: notes for people on what went wrong. No program reads them.

    note    ISO 8601 time in UTC, to the second; a space; a text of one or more lines; a line feed

Any process of the store appends. A note that cannot be written is dropped: a full disk must not make matters worse.
"""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path

from shoal.shm.errors import ConfigurationError
from shoal.shm.files.regular_file import private_file

NOTES_FILE = "coordinator.log"


def append_note(directory: Path, text: str) -> None:
    """Append a note to the file of the store in ``directory``, in one write."""
    line = f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n"
    with contextlib.suppress(OSError, ConfigurationError):
        fd = private_file(directory / NOTES_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            os.write(fd, line.encode(errors="backslashreplace"))
        finally:
            os.close(fd)

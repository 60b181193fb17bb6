"""The process that writes a checkpoint.

``python -m shoal.coordinator.checkpoint.helper DIRECTORY STORE_ID FD VERSION TEMPORARY``

It reads the client sessions from its standard input and the keys from the segment behind FD. It writes to the file
TEMPORARY, for which the coordinator may have reserved room on the disk, syncs it, renames it, and exits 0.

It ends when its coordinator has died: the next coordinator removes the file, and the disk gets the room back only when
no process has the file open.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from shoal.shm import codec
from shoal.shm.errors import ShoalError
from shoal.shm.files import checkpoint
from shoal.shm.files.notes import append_note
from shoal.shm.limits import DEFAULT_LIMITS, Limits
from shoal.shm.memory.reader import Reader
from shoal.shm.memory.segment import Segment

_LOOK_EVERY_S = 0.1


def main(arguments: list[str]) -> int:
    """Write one checkpoint; the exit status says whether it stands."""
    directory, store_id = Path(arguments[0]), bytes.fromhex(arguments[1])
    segment_fd, version, temporary = int(arguments[2]), int(arguments[3]), arguments[4]
    sessions = sys.stdin.buffer.read()
    failure = write(directory, store_id, Segment.attach(segment_fd), version, temporary, sessions)
    if failure:
        append_note(directory, failure)
    return 0 if failure is None else 1


def write(
    directory: Path,
    store_id: bytes,
    segment: Segment,
    version: int,
    temporary: str,
    sessions: bytes,
    limits: Limits = DEFAULT_LIMITS,
) -> str | None:
    """Write one checkpoint. None if it is written, else the reason, to be noted if it is not empty."""
    reader, block_bytes = Reader(segment), limits.checkpoint_block_bytes
    reader.at_ms = 0  # what has expired is there until a commit deletes it: watches are told of that commit
    try:
        checkpoint.write_checkpoint(
            directory, reader, version, codec.decode(sessions), store_id, temporary, block_bytes
        )
    except FileNotFoundError:
        return ""  # the coordinator died, and the next one has removed what was begun
    except Exception as error:  # every error ends this process; its text must be noted
        kind = "" if isinstance(error, (ShoalError, OSError)) else f"{type(error).__name__}: "
        return f"the checkpoint at version {version} failed: {kind}{error}"
    return None


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY_S)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    sys.exit(main(sys.argv[1:]))

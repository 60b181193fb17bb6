"""The process that writes a checkpoint.

``python -m shoal.coordinator.checkpoint.helper DIRECTORY STORE_ID FD VERSION TEMPORARY``

It reads the sessions commits from its standard input, the keys from the segment behind FD, writes to the file
TEMPORARY, for which the coordinator may have reserved room on the disk, renames it, and exits 0.

It ends when its coordinator has died: the next one removes the file, and the disk gets the room back only when nobody
has it open any more.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from shoal.shm import codec
from shoal.shm.errors import ShoalError
from shoal.shm.files import checkpoint, store_files
from shoal.shm.files.storage import append_note
from shoal.shm.memory.reader import Reader
from shoal.shm.memory.segment import Segment

_LOOK_EVERY_S = 0.1


def main(arguments: list[str]) -> int:
    """Write one checkpoint; the exit status says whether it stands."""
    directory, store_id = Path(arguments[0]), bytes.fromhex(arguments[1])
    segment_fd, version, temporary = int(arguments[2]), int(arguments[3]), arguments[4]
    raw = sys.stdin.buffer.read()
    reader = Reader(Segment.attach(segment_fd))
    try:
        sessions = codec.decode(raw)
        checkpoint.write_checkpoint(directory, reader, version, sessions, store_id, temporary)
    except FileNotFoundError:
        return 1  # the coordinator died, and the next one has tidied up what was begun
    except Exception as error:  # the end of this process, whatever it is: nobody else tells
        kind = "" if isinstance(error, (ShoalError, OSError)) else f"{type(error).__name__}: "
        append_note(directory, store_files.NOTES_FILE, f"the checkpoint at version {version} failed: {kind}{error}")
        return 1
    return 0


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY_S)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    sys.exit(main(sys.argv[1:]))

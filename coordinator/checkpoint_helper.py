"""The process that writes a checkpoint: ``python -m shoal.coordinator.checkpoint_helper DIRECTORY FD VERSION``.

Reads the remembered commits from its standard input, the keys from the segment behind FD, writes, and exits 0.
"""

from __future__ import annotations

import sys
from pathlib import Path

from shoal.shm import checkpoint, codec, store_files
from shoal.shm.errors import ShoalError
from shoal.shm.reader import Reader
from shoal.shm.segment import Segment
from shoal.shm.storage import append_note


def main(arguments: list[str]) -> int:
    """Write one checkpoint; the exit status says whether it stands."""
    directory, segment_fd, version = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    raw = sys.stdin.buffer.read()
    reader = Reader(Segment.attach(segment_fd))
    try:
        checkpoint.write_checkpoint(directory, reader, version, codec.decode(raw))
    except FileNotFoundError:
        return 1  # the coordinator died, and the next one has tidied up what was begun
    except Exception as error:  # the end of this process, whatever it is: nobody else tells
        kind = "" if isinstance(error, (ShoalError, OSError)) else f"{type(error).__name__}: "
        append_note(directory, store_files.NOTES_FILE, f"the checkpoint at version {version} failed: {kind}{error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

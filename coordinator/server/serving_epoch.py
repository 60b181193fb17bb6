"""The generation of the coordinator that serves: in the segment, and in the file ``epoch`` that every client maps.

If somebody removed the file, clients that have it mapped would never hear of the next coordinator. So the coordinator
makes it anew with a higher generation and stores the same in the old one. Clients that have the old one mapped then
attach again, to the same coordinator, and map the new file. The memory served stays the same.

If another file stands there, the store's files were replaced, as by a copy that was restored. This coordinator writes
to files that have no name any more. So it ends at once, as by SIGKILL, and leaves the new ones alone. As long as it has
the file mapped, no other one can have the same inode.
"""

from __future__ import annotations

import errno
from pathlib import Path

from shoal.coordinator.host import THIS_MACHINE, Host
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.missing_file import MissingFile
from shoal.shm.errors import StoreFullError
from shoal.shm.files import epoch_file
from shoal.shm.memory.layout import EPOCH_BITS, W_GENERATION


class ServingEpoch:
    """Raises the generation when the coordinator begins to serve, and keeps the file there."""

    def __init__(self, directory: Path, writer: Writer, host: Host = THIS_MACHINE) -> None:
        self._host = host
        self._directory = directory
        self._writer = writer
        self._word = host.epoch_word(directory)
        self._missing = MissingFile(directory / epoch_file.EPOCH_FILE)
        self._own = self._identity()

    def prepare(self) -> None:
        """Before the first client: the segment says which generation it is."""
        self._writer.segment.words[W_GENERATION] = self._word.generation + 1

    def publish(self) -> None:
        """From here on, processes that only read look for the new segment."""
        self._word.words[0] = self._writer.segment.words[W_GENERATION] << EPOCH_BITS
        self._writer.epoch_words = self._word.words

    def keep(self, now_s: float) -> None:
        """Make the file again if it was removed; raise OSError if another one stands there."""
        if self._identity() not in (None, self._own):
            raise OSError(
                errno.ESTALE, f"the files of the store were replaced: {epoch_file.EPOCH_FILE} is another file"
            )
        if not self._missing.is_due(now_s):
            return
        before = self._word
        try:
            self._word = self._host.epoch_word(self._directory)
        except (OSError, StoreFullError):  # no descriptor or no room on the disk: the next look tries again
            return
        self._own = self._identity()
        self._writer.segment.words[W_GENERATION] += 1
        self.publish()
        # Last: key locations cached under the old word are void from here on, and none can be cached under it.
        before.words[0] = self._word.words[0]

    def _identity(self) -> tuple[int, int] | None:
        return self._host.identity(self._directory / epoch_file.EPOCH_FILE)

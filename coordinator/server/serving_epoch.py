"""The generation of the coordinator that serves: in the segment, and in the file ``epoch`` that every client maps.

If the file was removed, those who have it mapped would never hear of the next coordinator. So it is made anew with a
higher generation, and the old one is told the same: whoever has it mapped attaches again, to the same coordinator, and
maps the new file. The memory served stays the same.
"""

from __future__ import annotations

from pathlib import Path

from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.server.missing_file import MissingFile
from shoal.shm.files import epoch_file
from shoal.shm.files.epoch_file import EpochWord
from shoal.shm.memory.layout import EPOCH_BITS, W_GENERATION


class ServingEpoch:
    """Raises the generation when the coordinator begins to serve, and keeps the file there."""

    def __init__(self, directory: Path, writer: Writer) -> None:
        self._directory = directory
        self._writer = writer
        self._word = EpochWord(directory, writable=True)
        self._missing = MissingFile(directory / epoch_file.EPOCH_FILE)

    def prepare(self) -> None:
        """Before the first client: the segment says which generation it is."""
        self._writer.segment.words[W_GENERATION] = self._word.generation + 1

    def publish(self) -> None:
        """From here on, who only reads looks for the new segment."""
        self._word.words[0] = self._writer.segment.words[W_GENERATION] << EPOCH_BITS
        self._writer.epoch_words = self._word.words

    def keep(self, now_s: float) -> None:
        """Make the file again if it was removed."""
        if not self._missing.is_due(now_s):
            return
        before = self._word
        try:
            self._word = EpochWord(self._directory, writable=True)
        except OSError:  # no descriptor or no room on the disk: the next look tries again
            return
        self._writer.segment.words[W_GENERATION] += 1
        self.publish()
        # Last: what was remembered under the old word is void from here on, and nothing can be remembered under it.
        before.words[0] = self._word.words[0]

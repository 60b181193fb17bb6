"""What a watching process has seen of a window: a file for each sense, which outlives the SIGKILL of its writer.

A line is a JSON array: ``["r", since]`` where a process began or went on, ``["s", version or sequence, name, value]``
for a sighting, ``["c", sequence]`` once a consumer's position was committed, ``["g", version, state]`` where what came
before was not kept any more and everything was read instead, ``["x", what]`` for an error. One ``write`` makes a line.
A file whose last line says that nothing more will come is renamed: ``.seen`` is what the audit reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

SENSES = KEYS, RUNS, EVENTS, CONSUMER = "keys", "runs", "events", "consumer"
_LONGEST_TEXT = 200


class Sightings:
    """The file of one sense for a window, as the process has it that watches now."""

    def __init__(self, directory: Path, window: int, sense: str) -> None:
        self._path = directory / f"{window:06}-{sense}.sightings"
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.before = read_sightings(self._path)
        os.ftruncate(self._fd, self._path.read_bytes().rfind(b"\n") + 1)  # a line that a kill cut short was not seen

    def write(self, *parts: Any) -> None:
        """One line."""
        os.write(self._fd, json.dumps(parts, separators=(",", ":")).encode() + b"\n")

    def finish(self) -> None:
        """Everything has been seen."""
        os.close(self._fd)
        self._path.rename(self._path.with_suffix(".seen"))


def read_sightings(path: Path) -> list[list[Any]]:
    """The whole lines of a file."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def seen(directory: Path, window: int) -> dict[str, Path]:
    """The files of the senses that have seen all of a window."""
    found = {sense: directory / f"{window:06}-{sense}.seen" for sense in SENSES}
    return {sense: path for sense, path in found.items() if path.exists()}


def since_of(lines: list[list[Any]]) -> int | None:
    """The version from which a watch goes on: of the last commit that has been seen whole, as another one followed."""
    since = newest = None
    for mark, *parts in lines:
        if mark in "rg":
            since, newest = parts[0], None
        elif mark == "s" and parts[0] != newest:
            since, newest = since if newest is None else newest, parts[0]
    return since


def brief(value: Any) -> Any:
    """A value as it is noted: long texts by their length and sum."""
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        return f"{len(value)} characters, {zlib.crc32(value.encode()):08x}"
    return value


def forget(directory: Path, window: int) -> None:
    """Delete the files of a window."""
    for path in seen(directory, window).values():
        with contextlib.suppress(FileNotFoundError):
            path.unlink()

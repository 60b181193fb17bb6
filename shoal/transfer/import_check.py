"""The check of a whole export before any of it is written: format, order, chains, counts, values and limits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from xxhash import xxh3_128

from shoal.primitives.keys import Namespace
from shoal.primitives.rules.hash_chain import ChainCheck, canonical, chain_of
from shoal.shm.errors import LimitExceededError, ShoalError
from shoal.shm.limits import ADVICE_FOR_VALUES, MAX_COMMIT_BYTES
from shoal.transfer import json_lines, records
from shoal.transfer.records import ExportRecord

# The rest of a commit is for the key that an import itself writes.
_MOST_RECORD_BYTES = MAX_COMMIT_BYTES - 4096

_RANKS = {kind: rank for rank, kind in enumerate(records.KINDS)}

# The name of a run in a store.
RunName = tuple[Namespace, str]


class ExportFormatError(ValueError):
    """Raised for a file that is no whole export; the message names the line and what is wrong with it."""


@dataclass
class Contents:
    """The contents of an export. ``runs``: each run, and the number (from 0) of its first record."""

    records: int = 0
    checksum: str = ""
    runs: dict[RunName, int] = field(default_factory=dict)


def check(file: BinaryIO, name: str) -> Contents:
    """Read all of an export; ``ExportFormatError`` for the first line that no export has."""
    contents = Contents()
    for _ in read(file, name, contents):
        pass
    return contents


def read(file: BinaryIO, name: str, contents: Contents) -> Iterator[tuple[ExportRecord, int]]:
    """Each record and its size in a commit, in bytes, checked one after the other; fills ``contents``."""
    file.seek(0)
    number = 1
    checksum = xxh3_128()
    line = file.readline(json_lines.LONGEST_LINE_BYTES + 1)
    with _naming(name, number, line):
        _check_header(line)
    checker = _Checker(contents)
    while True:
        checksum.update(line)
        line = file.readline(json_lines.LONGEST_LINE_BYTES + 1)
        number += 1
        with _naming(name, number, line):
            if not line:
                raise ValueError(f"the end of the file, after {contents.records} records and no closing line")
            fields = json_lines.load(line)
            if isinstance(fields, dict) and fields.get("kind") == records.END:
                contents.checksum = checksum.hexdigest()
                _check_end(fields, contents)
                if file.read(1):
                    raise ValueError("there is more after the closing line")
                return
            record = records.from_fields(fields)
            size = checker.check(record)
        yield record, size
        contents.records += 1


@contextmanager
def _naming(name: str, number: int, line: bytes) -> Iterator[None]:
    """Turn an error about a line into an ``ExportFormatError`` that names the line."""
    try:
        yield
    except (ShoalError, TypeError, ValueError, OverflowError) as error:
        is_cut = 0 < len(line) <= json_lines.LONGEST_LINE_BYTES and line[-1:] != b"\n"
        cut = " (the file ends in the middle of the line)" if is_cut else ""
        raise ExportFormatError(
            f"line {number} of {name} is not as an export has it: {error}{cut}; nothing was imported; "
            "take another copy of the file, or export the store again"
        ) from error


def _check_header(line: bytes) -> None:
    fields = json_lines.load(line) if line else None
    found = fields.get("shoal_export") if isinstance(fields, dict) else None
    if type(found) is not int:
        raise ValueError("it is not the first line of an export")
    if found != records.FORMAT or fields != records.HEADER:
        raise ValueError(f"its format is {found}, and this shoal reads {records.FORMAT}")


def _check_end(fields: dict[str, Any], contents: Contents) -> None:
    expected = {"kind": records.END, "records": contents.records, "xxh3": contents.checksum}
    if fields.keys() != expected.keys() or type(fields["records"]) is not int:
        raise ValueError(f"a closing line has the fields {', '.join(expected)}")
    if fields["records"] != contents.records:
        raise ValueError(f"it counts {fields['records']} records, and {contents.records} are there")
    if fields["xxh3"] != contents.checksum:
        raise ValueError(f"it has the checksum {fields['xxh3']!r:.100}, and the lines before {contents.checksum}")


class _Checker:
    """Checks what must hold between the records of an export. Keeps the ids of all runs, and of one run's traces."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._position: tuple[bytes, bytes, int, bytes, int] = (b"", b"", 0, b"", 0)
        self._registered: set[RunName] = set()
        self._chain: ChainCheck | None = None
        self._trace_ids: set[str] = set()

    def check(self, record: ExportRecord) -> int:
        """The size of the record in a commit, in bytes.

        ValueError, or the error of the primitives, if the record may not stand here.
        """
        size = records.size_of(record)
        if size > _MOST_RECORD_BYTES:
            raise LimitExceededError("size of the record in bytes", _MOST_RECORD_BYTES, size, ADVICE_FOR_VALUES)
        kind, namespace, run_id, item = record
        is_in_run = kind != "run" and run_id != ""
        run_prefix = namespace._run_prefix(run_id) if is_in_run else b""
        place, number = records.KINDS[kind].place(item)
        key, text = (place.encode(), place) if isinstance(place, str) else (place, item.name)
        position = (namespace._prefix, run_prefix, _RANKS[kind], key, number)
        if position < self._position:
            raise ValueError(f"the record of run {run_id!r} is out of order: records are sorted")
        if key and position == self._position:
            raise ValueError(f"key or name {text!r} of run {run_id!r} is there twice")
        if key == b"" and kind in ("trimmed", "retention") and position == self._position:
            raise ValueError(f"the {kind} record of run {run_id!r} is there twice")
        if position[:2] != self._position[:2]:
            self._chain = None
            self._trace_ids = set()
        self._position = position
        name = (namespace, run_id)
        if run_id:
            self._contents.runs.setdefault(name, self._contents.records)
        if kind == "run":
            if name in self._registered:
                raise ValueError(f"run {run_id!r} is there twice")
            self._registered.add(name)
        elif kind == "trimmed":
            self._chain = ChainCheck(item.chain, item.first_sequence, item.prev_hash, item.timestamp)
        elif kind == "event":
            self._check_event(item)
        elif kind == "trace":
            self._check_trace(item)
        return size

    def _check_event(self, event: Any) -> None:
        if self._chain is None:
            self._chain = ChainCheck(chain_of(event.hash))
        payload = canonical(event.payload)
        problem = self._chain.problem(
            event.sequence, event.event_type, payload, event.timestamp, event.prev_hash, event.hash
        )
        if problem:
            raise ValueError(problem)

    def _check_trace(self, trace: Any) -> None:
        if trace.id in self._trace_ids:
            raise ValueError(f"trace {trace.id!r} is there twice")
        if trace.parent_id is not None and trace.parent_id not in self._trace_ids:
            raise ValueError(f"trace {trace.id!r} comes before its parent {trace.parent_id!r}, or has none")
        self._trace_ids.add(trace.id)


def identity(file: BinaryIO) -> tuple[int, ...]:
    """Values of which at least one changes when the file is written to."""
    stat = os.fstat(file.fileno())
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns

"""Logs of many files with a checkpoint, damaged in every way a disk or a person can: nothing is lost unsaid.

``Contract.judge`` recovers each case, checks it and salvages it: a committed prefix, no shorter than any whole part of
the files proves, or CorruptionError; salvaged values are those of commits; nothing is changed before all is verified.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from xxhash import xxh3_64_intdigest

from shoal.coordinator.log import format as wal_format
from shoal.coordinator.log import reader as wal_reader
from shoal.coordinator.log import writer as wal_writer
from shoal.coordinator.log.format import FILE_HEAD_BYTES
from shoal.coordinator.log.salvage import LogSurvey
from shoal.coordinator.recovery.survey import Survey
from shoal.shm.files import checkpoint
from shoal.shm.limits import Limits
from tests.support.histories.history_workers import seed_from
from tests.support.stores.damaged import STORE_ID, Contract, MemoryStorage, Model, Opened, flipped, from_disk, whole

pytestmark = pytest.mark.long

THIS_BOOT, OTHER_BOOT = 0x1111, 0x2222
CHECKPOINT, SYNCED, AFTER = 10, 30, 4
FILE_BYTES, PAGE_BYTES = 1024, 256
SMALL = Limits(log_file_bytes=FILE_BYTES)
SAMPLE = 8

Files = dict[str, bytes]
Case = tuple[str, Files]


@pytest.fixture
def boot(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The boot id shoal sees, to be changed at will."""
    current = {"id": THIS_BOOT}
    monkeypatch.setattr(wal_format, "boot_id", lambda: current["id"])
    return current


def _log(model: Model) -> Files:
    """A log of several files whose last commits were never synced, and a close mark in the middle."""
    storage = MemoryStorage()
    log = wal_writer.WalWriter(storage, 1, 0, STORE_ID, limits=SMALL)
    model.append(log, CHECKPOINT + 3)
    log.close()
    log = Opened(storage).log(SMALL)
    model.append(log, SYNCED - CHECKPOINT - 3)
    log.sync()
    model.append(log, AFTER)
    return {name: data for name, data in storage.frozen().items() if data.strip(b"\0")}


@pytest.fixture
def without_checkpoint(boot: dict[str, int]) -> tuple[Files, Contract]:
    """A log from the first version on."""
    model = Model()
    files = _log(model)
    assert len(files) > 5
    return files, Contract(files, model.states)


@pytest.fixture
def with_checkpoint(tmp_path: Path, boot: dict[str, int]) -> tuple[Files, Contract]:
    """The same with a checkpoint whose version is in the middle of a file, and with files that will be removed.

    One before that file that holds nothing the checkpoint lacks, and one reserved ahead.
    """
    model = Model()
    files = _log(model)
    storage = MemoryStorage()
    before = Model()
    before.append(wal_writer.WalWriter(storage, 1, 0, STORE_ID, limits=SMALL), CHECKPOINT)
    checkpoint.write_checkpoint(tmp_path, Opened(storage).reader, CHECKPOINT, [[7, CHECKPOINT, CHECKPOINT, []]])
    log = wal_reader.needed(wal_reader.read_files(MemoryStorage(files)), CHECKPOINT)
    assert log[0].number > 1
    assert log[0].head is not None
    assert log[0].head.first_version < CHECKPOINT
    kept = {**files, **from_disk(tmp_path), wal_format.file_name(log[-1].number + 1): bytes(FILE_BYTES)}
    assert Opened(MemoryStorage(kept)).state == model.states[-1]
    return kept, Contract(kept, model.states)


def _misplaced(files: Files) -> Iterator[Case]:
    """Files swapped, copied, missing, emptied, zeroed, and under names that are none."""
    logs = sorted(name for name in files if name.startswith("wal-"))
    for one, other in itertools.combinations(logs, 2):
        yield f"{one} and {other} swapped", {**files, one: files[other], other: files[one]}
        yield f"{other} is a copy of {one}", {**files, other: files[one]}
        yield f"{one} is a copy of {other}", {**files, one: files[other]}
    for name in logs:
        yield f"a copy of {name} as the newest file", {**files, wal_format.file_name(99): files[name]}
        yield f"{name} and all before it gone", {n: d for n, d in files.items() if n not in logs or n > name}
        yield f"{name} gone", {n: d for n, d in files.items() if n != name}
        head, rest = files[name][:FILE_HEAD_BYTES], files[name][FILE_HEAD_BYTES:]
        for what, content in (("nothing", b""), ("zeros", bytes(FILE_BYTES)), ("its head", head)):
            yield f"{name} is only {what}", {**files, name: content}
        yield f"{name} without its head", {**files, name: bytes(FILE_HEAD_BYTES) + rest}
    yield "other names", {**files, "wal-abc.log": b"x", "wal-7.log": files[logs[0]], "checkpoint-5.ckpt": b"x"}


def _pages(files: Files) -> Iterator[Case]:
    """Pages zeroed, lost from one on, and written to another's place."""
    logs = sorted(name for name in files if name.startswith("wal-"))
    places = [(name, start) for name in logs for start in range(0, len(files[name]), PAGE_BYTES)]
    for name, start in places:
        data = files[name]
        end = start + PAGE_BYTES
        yield f"{name}: page {start} zeroed", {**files, name: data[:start] + bytes(PAGE_BYTES) + data[end:]}
        yield f"{name}: zeros from {start} on", {**files, name: data[:start] + bytes(len(data) - start)}
        for source, other in places:
            if (source, other) != (name, start) and files[source][other:].strip(b"\0"):
                page = files[source][other : other + PAGE_BYTES]
                yield f"{name}: page {start} is {source}'s {other}", {**files, name: data[:start] + page + data[end:]}


def _records_moved(files: Files) -> Iterator[Case]:
    """Whole records left out, doubled or swapped with the next: every checksum fits."""
    for name in sorted(name for name in files if name.startswith("wal-")):
        data = files[name]
        spans = [(start, end) for _, start, end in whole(data)]
        for i, (start, end) in enumerate(spans):
            yield f"{name}: record {i} left out", {**files, name: data[:start] + data[end:] + bytes(end - start)}
            yield f"{name}: record {i} twice", {**files, name: data[:end] + data[start:]}
            if i:
                first = spans[i - 1][0]
                swapped = data[:first] + data[start:end] + data[first:start] + data[end:]
                yield f"{name}: records {i - 1} and {i} swapped", {**files, name: swapped}


def _every_byte(files: Files) -> Iterator[Case]:
    """Every byte of every file flipped, and every file cut there."""
    rng = random.Random(seed_from(34))
    for name in sorted(files):
        for place in range(len(files[name])):
            yield f"{name}: cut at {place}", {**files, name: files[name][:place]}
            yield f"{name}: byte {place} flipped", {**files, name: flipped(files[name], place, rng.randint(1, 255))}


def _judge(contract: Contract, cases: Iterator[Case], boot: dict[str, int]) -> dict[int | None, int]:
    """How often each version was recovered; None is CorruptionError."""
    verdicts: dict[int | None, int] = {}
    for what, files in cases:
        for boot["id"] in (THIS_BOOT, OTHER_BOOT):
            found = contract.judge(files, boot["id"], f"boot {boot['id']:x}, {what}")
            verdicts[found] = verdicts.get(found, 0) + 1
    return verdicts


SOME_OR_ALL = [pytest.param(False, id="some"), pytest.param(True, id="all", marks=pytest.mark.slow)]
KINDS = {"misplaced": _misplaced, "pages": _pages, "records": _records_moved, "bytes": _every_byte}


@pytest.mark.parametrize("every", SOME_OR_ALL)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("store", ["without_checkpoint", "with_checkpoint"])
def test_damage(request: pytest.FixtureRequest, boot: dict[str, int], store: str, kind: str, every: bool) -> None:
    """Every byte cut and flipped; files, pages and records gone, zeroed, copied, in each other's place: each is judged.

    Log files and checkpoint, in the boot that wrote them and in another.
    """
    files, contract = request.getfixturevalue(store)
    cases = list(KINDS[kind](files))
    if not every:
        cases = random.Random(seed_from(35)).sample(cases, SAMPLE)
    verdicts = _judge(contract, iter(cases), boot)
    judged = sum(verdicts.values())
    print(f"{judged} cases: {verdicts[None]} CorruptionError, {judged - verdicts[None]} opened")
    assert verdicts.pop(None) > 0
    assert not every or sum(verdicts.values()) > 0


def _nothing_is_misplaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log file is believed to be the one its name says."""
    monkeypatch.setattr(wal_reader, "misplaced", lambda *_: None)


def _obsolete_removed_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """What seems to hold nothing is removed before the rest is verified."""
    sound = wal_reader.WalReader._load

    def load(self: wal_reader.WalReader, after_version: int) -> list[wal_reader.FoundLogFile]:
        kept = sound(self, after_version)
        self._remove_obsolete()
        return kept

    monkeypatch.setattr(wal_reader.WalReader, "_load", load)


class _Fitting(int):
    """A checksum that is like any other."""

    def __ne__(self, _other: object) -> bool:
        return False

    def __xor__(self, _other: int) -> int:
        return self


def _checksums_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checksums of records and of a checkpoint's blocks are not looked at."""
    for module in (wal_format, checkpoint):
        monkeypatch.setattr(module, "xxh3_64_intdigest", lambda data: _Fitting(xxh3_64_intdigest(data)))


def _damage_taken_for_a_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the log cannot be read it ends, whatever stands behind."""
    monkeypatch.setattr(wal_reader, "goes_on", lambda *_: False)


def _salvage_past_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands behind a gap is taken for part of a state that was."""
    monkeypatch.setattr(Survey, "prefix_version", lambda self: max([self.base_version, *self.log.versions()]))


def _check_sees_no_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check passes over a log file without a head as if it were not there."""
    sound = LogSurvey._read_file
    monkeypatch.setattr(LogSurvey, "_read_file", lambda self, i: self._files[i].head is None or sound(self, i))


MUTANTS: list[tuple[Callable[[pytest.MonkeyPatch], None], Callable[..., Iterator[Case]]]] = [
    (_damage_taken_for_a_tail, _misplaced),
    (_damage_taken_for_a_tail, _pages),
    (_damage_taken_for_a_tail, _records_moved),
    (_damage_taken_for_a_tail, _every_byte),
    (_checksums_believed, _every_byte),
    (_nothing_is_misplaced, _misplaced),
    (_obsolete_removed_first, _misplaced),
    (_salvage_past_gaps, _pages),
    (_check_sees_no_heads, _misplaced),
]


@pytest.mark.plain  # it replaces what compiled modules call in C
@pytest.mark.parametrize(("fault", "cases"), MUTANTS, ids=[f"{f.__name__}-{c.__name__}" for f, c in MUTANTS])
def test_mutants_are_noticed(
    with_checkpoint: tuple[Files, Contract],
    boot: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[pytest.MonkeyPatch], None],
    cases: Callable[..., Iterator[Case]],
) -> None:
    """Recovery, check or salvage with a fault in it does not pass these tests: what they find, they can find."""
    files, contract = with_checkpoint
    found = list(cases(files))
    random.Random(seed_from(36)).shuffle(found)
    fault(monkeypatch)
    with pytest.raises((AssertionError, ValueError, IndexError)):  # a broken value or version may be none at all
        _judge(contract, iter(found), boot)

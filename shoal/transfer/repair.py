"""``shoal repair``: saves what can be read of a damaged store at rest to a new store, and lists what was lost.

- By default the new store is the old one as it was at one version: the newest up to which no commit is missing. With
  ``take_all`` it also holds every later commit that can be read, and the readable blocks of a damaged checkpoint: a
  state that never existed. In both cases its next commit gets a version that the old store never gave, as far as its
  files tell.
- The old store is only read, under a lock that keeps coordinators out.
- The new store is made under another name beside its final one, and renamed when it is whole and on disk. So SIGKILL
  leaves no store of the final name, at most a directory ``.NEW.*.repair``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from shoal.coordinator.commit.apply import ClientSessions
from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.coordinator.memory.check_report import check_segment
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.recovery.recover import apply_entries, load_keys
from shoal.coordinator.recovery.replay import publish, replayed
from shoal.coordinator.recovery.survey import Survey, at_rest, is_store, survey_store
from shoal.primitives.keys import Namespace, user_text
from shoal.primitives.rules.layouts.parts import split_parts
from shoal.primitives.rules.tags import Tag
from shoal.shm.errors import AlreadyExistsError, CorruptionError, InvalidOperationError, NotFoundError, StoreFullError
from shoal.shm.files import checkpoint, store_directory, store_files
from shoal.shm.files.regular_file import private_file
from shoal.shm.files.storage import DiskStorage
from shoal.shm.files.store_files import StoreMeta
from shoal.shm.memory.reader import Reader
from shoal.shm.memory.segment import Segment

REPORT_FILE = "repair.log"
_KEYS_SHOWN = 20

Progress = Callable[[int], object]


class Repair:
    """One repair. ``report`` has its lines for the user; ``keys`` is the number saved, None if nothing is damaged."""

    def __init__(self, old: Path, new: Path, take_all: bool, max_bytes: int | None, progress: Progress) -> None:
        store_files.check_max_bytes(max_bytes)
        if not is_store(old):
            raise NotFoundError(f"there is no store at {old}; name the directory of one")
        store_directory.absolute_path(new)
        with store_directory.copying_to(new):
            _check_free(old, new)
        self._old, self._new, self._take_all = old, new, take_all
        self.keys: int | None = None
        self.report: list[str] = []
        with at_rest(old) as rests:
            if not rests:
                raise InvalidOperationError(
                    f"{old} is being served; shoal backup copies it, or end its clients and repair it at rest"
                )
            self._survey = survey_store(old, progress=progress)
            if self._survey.findings:
                self._salvage(max_bytes, progress)

    @property
    def version(self) -> int:
        """The newest version that the old store is known to have had."""
        return self._survey.newest

    def _salvage(self, max_bytes: int | None, progress: Progress) -> None:
        survey = self._survey
        prefix = survey.prefix_version()
        if (survey.newest or survey.missing_log) and not (self._anything() if self._take_all else prefix):
            first = survey.findings[0]
            raise CorruptionError(first.file, first.offset, first.expected, f"{first.found}; {self._nothing()}")
        meta = survey.meta or StoreMeta(store_files.DEFAULT_DURABILITY, store_files.default_max_bytes())
        size = max_bytes or meta.max_bytes
        with store_directory.copying_to(self._new):
            self._new.parent.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(dir=self._new.parent, prefix=f".{self._new.name}.", suffix=".repair"))
        try:
            segment = Segment.create(size, 0)
            writer = Writer(segment)
            try:
                fill(writer, Reclaimer(writer, list), survey, self._take_all, progress)
            except StoreFullError as error:
                raise StoreFullError(f"{error}; give shoal repair a larger --max-bytes") from error
            problems = check_segment(segment, survey.newest, writer)
            assert not problems, problems
            reader = Reader(segment)
            store_id = store_files.new_store_id()
            self.report = list(self._lines(reader, prefix))
            durability = store_files.DEFAULT_DURABILITY if meta.durability == "memory" else meta.durability
            meta = StoreMeta(durability, size, store_id, checkpoint_version=survey.newest)
            with store_directory.copying_to(self._new):
                self.keys = checkpoint.write_checkpoint(made, reader, survey.newest, [], store_id)
                _write_report(made / REPORT_FILE, self.report)
                store_files.write_meta(made, meta)
                _read_back(made, survey.newest)
                os.rename(made, self._new)  # to a free name, or in the place of an empty directory
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        DiskStorage(self._new.parent).sync_directory()

    def _anything(self) -> bool:
        survey = self._survey
        return survey.base is not None or bool(survey.log.versions()) or any(survey.damaged_entries())

    def _nothing(self) -> str:
        if self._take_all or not self._anything():
            return "nothing of it can be read"
        return "no state that ever was can be read, but --all saves what can"

    def _lines(self, reader: Reader, prefix: int) -> Iterator[str]:
        """The lines of the report: what is damaged, what was lost and what was saved."""
        survey, newest = self._survey, self._survey.newest
        yield f"{self._old} is damaged in {_count(len(survey.findings), 'place')}:"
        yield from (f"  {finding}" for finding in survey.findings)
        passed = [finding for finding in survey.findings if finding.passed_bytes]
        if survey.unfinished is not None:
            yield f"its last commit was never finished and never acknowledged: {survey.unfinished}"
        if survey.damaged is not None:
            older = f"that of version {survey.base_version} was used" if survey.base else "there is no other"
            yield f"lost: the checkpoint of version {survey.damaged.version} is not whole; {older}"
        for finding in passed:
            yield f"lost: {finding.passed_bytes:,} bytes of {finding.file} from byte {finding.offset} were passed over"
        missing = survey.missing()
        if survey.missing_log:
            yield f"lost: all commits in {survey.missing_log}, which is not there; nobody knows how many"
        for versions in missing:
            in_it = survey.damaged is not None and versions[-1] <= survey.damaged.version
            yield f"lost: {_span(versions)} cannot be read{' but for what that checkpoint has' if in_it else ''}"
        if self._take_all:
            yield from self._all_lines(reader, missing)
        else:
            yield from self._prefix_lines(reader, prefix)
        yield f"the next commit to {self._new} gets version {newest + 1}"

    def _prefix_lines(self, reader: Reader, prefix: int) -> Iterator[str]:
        survey = self._survey
        yield f"saved: {self._new} is the store as it was at version {prefix}"
        left = [version for version in survey.log.versions() if version > prefix]
        if survey.newest == prefix:
            if not survey.missing_log:
                yield "nothing that was committed is lost"
            return
        yield f"lost: everything after it, {_span(range(prefix + 1, survey.newest + 1))}"
        if left:
            yield f"of these {_count(len(left), 'commit')} can be read; --all takes them, too"
        keys: set[bytes] = set()
        ranges: set[tuple[bytes, bytes]] = set()
        for version in left:
            commit = survey.log.commit(version)
            keys.update(commit.writes[::3])
            ranges.update(commit.clears)
        for lower, upper in sorted(ranges):
            keys.update(key for key, _ in reader.scan(lower, upper, survey.newest))
        yield from _listed(keys, f"may be older than acknowledged: {_count(len(keys), 'key')} that these wrote")
        if len(left) < survey.newest - prefix:
            yield "may be older than acknowledged: any key, by the commits that cannot be read"

    def _all_lines(self, reader: Reader, missing: list[range]) -> Iterator[str]:
        survey = self._survey
        if not missing and survey.damaged is None and not survey.log.doubtful:
            lost = "" if survey.missing_log else "; nothing committed is lost"
            yield f"saved: {self._new} is the store as it was at version {survey.newest}{lost}"
            return
        yield f"saved: {self._new} holds all that can be read up to version {survey.newest}: NO STATE THAT EVER WAS"
        if survey.log.doubtful:
            yield (
                f"doubtful: {_count(len(survey.log.doubtful), 'commit')} come from files that are not what their "
                "names say"
            )
        last_lost = max([versions[-1] for versions in missing], default=0)
        if survey.damaged is not None:
            last_lost = max(last_lost, survey.damaged.version)
        older = {key for key, found in reader.scan(b"", None, survey.newest) if found.version < last_lost}
        what = f"may be older than acknowledged: {_count(len(older), 'key')}, last written before version {last_lost}"
        yield from _listed(older, what)
        yield "keys may be missing, or be there again after they were deleted; event logs and indices may have gaps"


def fill(writer: Writer, reclaimer: Reclaimer, survey: Survey, take_all: bool, progress: Progress) -> None:
    """Put what is to be saved into an empty segment, and publish it at the newest version that the store had."""

    def replay(versions: list[int]) -> None:
        commits = map(survey.log.commit, versions)
        for commit in replayed(commits, writer, reclaimer, ConflictWindow(0), ClientSessions()):
            progress(commit.body_bytes)

    if survey.base is not None:
        load_keys(survey.base.entries(), survey.base_version, writer, reclaimer)
    versions = survey.log.versions()
    if not take_all:
        prefix = survey.prefix_version()
        replay([version for version in versions if version <= prefix])
    elif survey.damaged is None:
        replay(versions)
    else:
        middle = survey.damaged.version
        replay([version for version in versions if version <= middle])
        apply_entries((entry for entry in survey.damaged_entries() if _lacks(writer, entry)), writer)
        publish(writer, reclaimer, middle)
        replay([version for version in versions if version > middle])
    publish(writer, reclaimer, survey.newest)


def summary(report: list[str]) -> Iterator[str]:
    """The lines of a report, of each list of keys only the first."""
    listed = 0
    for line in report:
        listed = listed + 1 if line.startswith("    ") else 0
        if listed <= _KEYS_SHOWN:
            yield line
        elif listed == _KEYS_SHOWN + 1:
            yield f"    and more, see {REPORT_FILE} in the new store"


def _check_free(old: Path, new: Path) -> None:
    if new.exists() and (not new.is_dir() or any(new.iterdir())):
        raise AlreadyExistsError(f"{new} is there and not an empty directory; give a new one")
    if old.resolve() in (new.resolve(), *new.resolve().parents):
        raise InvalidOperationError(f"{new} lies in {old}, which is only read; give a directory elsewhere")


def _lacks(writer: Writer, entry: checkpoint.Entry) -> bool:
    """Whether the segment lacks the entry of a checkpoint, or holds an older version of its key."""
    node = writer.hash_index.find(entry.key)
    words = writer.segment.words
    return not node or words[words[node]] < entry.version


def _read_back(directory: Path, version: int) -> None:
    """``CorruptionError`` unless the checkpoint that the next coordinator will read is whole."""
    name = checkpoint.file_name(version)
    for _ in checkpoint.CheckpointReader(DiskStorage(directory), name).entries():
        pass


def _write_report(path: Path, lines: list[str]) -> None:
    fd = private_file(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace") as out:  # a path need not be UTF-8
        out.writelines(f"{line}\n" for line in lines)
        out.flush()
        os.fsync(out.fileno())


def _listed(keys: set[bytes], what: str) -> Iterator[str]:
    if keys:
        yield what
        names = Counter(map(_named, sorted(keys)))  # to a user many keys are one thing: a run's events, for example
        yield from (f"    {name}{f' ({times:,} keys)' if times > 1 else ''}" for name, times in names.items())


def _named(key: bytes) -> str:
    """An engine key as the user knows it: its run, its kind and its name."""
    if key[:1] == b"\0":
        return f"shoal's own {key!r}"
    try:
        names, rest = split_parts(key)
    except ValueError:  # no primitive writes such a key
        return user_text(key)
    *namespace, run_id = (name.decode("utf-8", errors="backslashreplace") for name in names)
    default = Namespace()
    where = "" if namespace == [default.tenant, default.app, default.agent] else f"{'/'.join(namespace)} "
    kind = {bytes((Tag.KV,)): "key", bytes((Tag.STATE,)): "cell"}.get(rest[:1], "")
    of_run = f"run {run_id!r} " if run_id else ""
    return f"{where}{of_run}{kind} {user_text(key)!r}" if kind else f"{where}{of_run}{user_text(key)}"


def _span(versions: range) -> str:
    if len(versions) == 1:
        return f"version {versions[0]}"
    return f"versions {versions[0]} to {versions[-1]} ({len(versions):,} commits)"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"

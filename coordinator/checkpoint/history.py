"""Past versions: how long they are kept, and when each was committed.

- ``Reclaimer.kept_from`` is the oldest version that is kept. Time moves it on, and so does a lack of memory. From there
  on every version can be read, as nothing that one of them sees is freed.
- The moment of a group of commits is noted when it is published, before any client is told of it: a moment that a
  client takes after an answer includes the commit, and one that it took before it sent the commit does not.
- The moments of the last groups are exact. Older ones are kept at a bounded distance from each other, and a moment
  between two of them stands for the older one. So a store that commits all the time needs bounded room for them.
- ``moments_file`` keeps them on the disk. From there, with a checkpoint that is old enough and the log since, the next
  coordinator has the same past versions. If the file is lost, what is older than the restart is not kept.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from operator import itemgetter

from shoal.coordinator.checkpoint.moments_file import MomentsFile, read_moments
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.shm.files.storage import Storage
from shoal.shm.memory.layout import (
    W_HISTORY_BYTES,
    W_HISTORY_MS,
    W_HISTORY_SINCE_US,
    W_HORIZON,
    W_PUBLISHED,
)
from shoal.shm.memory.segment import Segment
from shoal.shm.operation import EXPIRED, FUTURE

# (moment in us since the epoch, the version that was published then)
Moment = tuple[int, int]
EXACT_MOMENTS = 65_536  # of so many groups of commits the moments are exact
OLDER_MOMENTS = 65_536  # older ones are kept at a distance of at least this part of the whole time


class History:
    """The past versions of one store. ``history_ms``: how long they are kept; 0: none are."""

    def __init__(
        self,
        history_ms: int,
        segment: Segment,
        reclaimer: Reclaimer,
        now_us: Callable[[], int],
        monotonic_s: Callable[[], float],
    ) -> None:
        self._history_ms = history_ms
        self._words = segment.words
        self._reclaimer = reclaimer
        self._now_us = now_us
        self._monotonic_s = monotonic_s
        self._noted_s = monotonic_s()  # no commit was later
        self._distance_us = history_ms * 1000 // OLDER_MOMENTS
        self._older: deque[Moment] = deque()
        self._exact: deque[Moment] = deque()
        self._last_us = 0
        self._file: MomentsFile | None = None

    def load(self, storage: Storage, store_id: bytes | None) -> None:
        """Before recovery: take what the disk has of moments, and have recovery keep what is young enough."""
        if not self._history_ms:
            return
        for moment in read_moments(storage, store_id):
            self._add(*moment)
        if self._has_moments():
            self._reclaimer.keep_from(0)
            self._drop_old()

    def begin(self, version: int, file: MomentsFile | None) -> None:
        """After recovery, which has found ``version`` to be the newest; ``file`` takes the moments from now on."""
        reclaimer = self._reclaimer
        if not self._history_ms:
            if file is not None:
                file.discard_all()
            return
        for moments in (self._exact, self._older):
            while moments and moments[-1][1] > version:
                moments.pop()
        if not self._has_moments() or self._last()[1] != version:
            self._add(self._moment_us(), version)
        # Recovery may have given up some, or not have found files that are old enough.
        reclaimer.keep_from(min(reclaimer.kept_from, version))
        self._words[W_HISTORY_MS] = self._history_ms
        self._file = file
        if file is not None:
            file.begin(self._all())
        self._show()

    def note(self, version: int) -> None:
        """Note that ``version`` is published now."""
        now_us = self._moment_us()
        self._noted_s = self._monotonic_s()
        self._add(now_us, version)
        if self._file is not None and not self._file.append(now_us, version):
            self._file.begin(self._all())

    def move_on(self, now_s: float) -> None:
        """Let go of what is older than it has to be kept."""
        if not self._history_ms:
            return
        self._drop_old()
        if self._file is not None:
            self._file.keep(now_s, self._all)
        self._show()

    def close(self) -> None:
        """Put the moments on the disk."""
        if self._file is not None:
            self._file.close()

    def answer(self, version: int | None, moment_us: int | None) -> list[int]:
        """The past version that is asked for by its number or by a moment, and a bound.

        ``EXPIRED`` in the place of the version, with the oldest one there is; ``FUTURE``, with the newest.
        """
        oldest, newest = self._words[W_HORIZON], self._words[W_PUBLISHED]
        if self._history_ms:
            self._drop_old()
            oldest = max(oldest, self._reclaimer.kept_from)
        if version is None:
            assert moment_us is not None
            if moment_us > self._moment_us():
                return [FUTURE, newest]
            version = self._version_at(moment_us)
        if version > newest:
            return [FUTURE, newest]
        return [version, newest] if version >= oldest else [EXPIRED, oldest]

    def _moment_us(self) -> int:
        """The time now. If the clock was set back, moments that are yet to come become that of the last commit."""
        now_us = self._now_us()
        if now_us < self._last_us:
            last_us = now_us - max(0, int((self._monotonic_s() - self._noted_s) * 1e6))
            self._last_us = last_us
            self._older = deque((min(moment_us, last_us), version) for moment_us, version in self._older)
            self._exact = deque((min(moment_us, last_us), version) for moment_us, version in self._exact)
            if self._file is not None:
                self._file.begin(self._all())
        return now_us

    def _version_at(self, moment_us: int) -> int:
        """The newest version that was published at or before a moment, EXPIRED if that is not known."""
        for moments in (self._exact, self._older):
            if moments and moments[0][0] <= moment_us:
                return moments[bisect_right(moments, moment_us, key=itemgetter(0)) - 1][1]
        return EXPIRED

    def _add(self, moment_us: int, version: int) -> None:
        exact, older = self._exact, self._older
        exact.append((moment_us, version))
        self._last_us = moment_us
        if len(exact) > EXACT_MOMENTS:
            oldest = exact.popleft()
            if not older or oldest[0] - older[-1][0] >= self._distance_us:
                older.append(oldest)

    def _drop_old(self) -> None:
        """Drop moments that are too old, or of versions that are not kept, but for the newest such one.

        That one says what was there when the time began: from its version on all is kept.
        """
        until_us, kept_from = self._now_us() - self._history_ms * 1000, self._reclaimer.kept_from
        while (second := self._second()) is not None and (second[0] <= until_us or second[1] <= kept_from):
            (self._older or self._exact).popleft()
        if self._first()[1] > kept_from:
            self._reclaimer.keep_from(self._first()[1])

    def _has_moments(self) -> bool:
        return bool(self._older or self._exact)

    def _first(self) -> Moment:
        return (self._older or self._exact)[0]

    def _second(self) -> Moment | None:
        for moments, at in ((self._older, 1), (self._exact, 0 if self._older else 1)):
            if len(moments) > at:
                return moments[at]
        return None

    def _last(self) -> Moment:
        return (self._exact or self._older)[-1]

    def _all(self) -> list[Moment]:
        return [*self._older, *self._exact]

    def _show(self) -> None:
        """Say in the segment what is kept, for ``Database.info``."""
        words, kept_from = self._words, self._reclaimer.kept_from
        since_us, version = self._first()
        second = self._second()
        if version < kept_from and second is not None:
            since_us = second[0]
        words[W_HISTORY_SINCE_US] = since_us
        words[W_HISTORY_BYTES] = self._reclaimer.kept_bytes()

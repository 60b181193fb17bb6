"""Who holds something, and when that ends: decided here, in commits of the coordinator, without knowing what is held.

A holder is an open database in one process. What it holds stands in the store (``shm.holder_index``). It ends

- at once when its last client has gone: its process died, or closed the database. Whoever asks for what it held
  after that (it has waited for the process, or ``close`` has returned) finds it free;
- ``ttl`` after its last sign of life, if its process does not answer. Its client renews three times in that time;
- likewise after the coordinator's death: the next one finds holders in the store, and each has its ttl to come back.

The end of a holder is one commit for each slice of what it held: the table of operations says what to write
(``OperationTable.ended``), and the entries go with it. One slice follows each turn of the loop, unless somebody asks
what is held: all that belonged to those that have gone is free first. After SIGKILL in between, the rest is found by
the next coordinator.

Time in which the coordinator did not run counts against no holder whose process ran: its signs of life are in its pipe
and are read first. If both were stopped, as with a machine that is suspended, the clock of holders moves by a second at
most between two looks: nothing is lost with a ttl of more than a second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.memory.writer import Writer
from shoal.shm import holder_index
from shoal.shm.errors import ShoalError
from shoal.shm.holder_index import decode_key, decode_ttl_ms
from shoal.shm.limits import KIB
from shoal.shm.operation import Read, VersionedValue, Write

_SLICE = 256  # held keys that end in one commit
# It ends with the one that makes it write so much. So a claim of many tasks has a commit of its own, and finds room in
# a full store, too: for all that a process has claimed there may never be.
_SLICE_BYTES = 64 * KIB
_LONGEST_STEP_S = 1.0
_PAUSE_S = 0.5  # after a commit that found no room
_NEVER_S = float("inf")
_ALL_MS = 1 << 62  # longer than any ttl


class _Holder:
    """``seen_s``: the last sign of life, by the holders' clock. ``ttl_ms``: the shortest of what it holds, or less."""

    __slots__ = ("seen_s", "ttl_ms")

    def __init__(self, seen_s: float, ttl_ms: int) -> None:
        self.seen_s = seen_s
        self.ttl_ms = ttl_ms


class Holders:
    """All holders of a store. True if there is any."""

    def __init__(self, writer: Writer, engine: CommitEngine, monotonic_s: Callable[[], float]) -> None:
        self._writer = writer
        self._engine = engine
        self._known: dict[int, _Holder] = {}
        self._gone: dict[int, None] = {}  # ended holders that are not released yet, in the order in which they ended
        self._monotonic_s = monotonic_s
        self._looked_s = monotonic_s()
        self._clock_s = 0.0
        self._retry_s = 0.0  # not before this moment, as there was no room
        self._next_s = _NEVER_S  # no holder's time is up before, by the holders' clock
        self._rests_until_s = 0.0  # nothing is due before, as far as the clock shows
        for key, _ in writer.ordered_index.iterate(holder_index.PREFIX, holder_index.BEHIND):
            found = writer.newest(key, 0)
            if found is not None:
                self.note(Write(key, found.value, 0))

    def __len__(self) -> int:
        return len(self._known)

    def note(self, write: Write) -> None:
        """A commit writes an entry: a sign of life of its holder, which is known from now on."""
        key, value, _ = write
        if value is None or not key.startswith(holder_index.PREFIX):
            return
        self._look()
        holder, _ = decode_key(key)
        ttl_ms = decode_ttl_ms(value)
        before = self._known.get(holder)
        if before is None:
            self._known[holder] = _Holder(self._clock_s, ttl_ms)
        else:
            before.seen_s, before.ttl_ms = self._clock_s, min(ttl_ms, before.ttl_ms)
        ttl_s = ttl_ms / 1000
        self._next_s = min(self._next_s, self._clock_s + ttl_s)
        self._rests_until_s = min(self._rests_until_s, self._looked_s + ttl_s)

    def renew(self, holder: int) -> bool:
        """A sign of life; whether it still holds something."""
        self._look()
        found = self._known.get(holder)
        if found is None or holder in self._gone:
            return False
        found.seen_s = self._clock_s
        return True

    def age_ms(self, holder: int) -> int:
        """How long ago the last sign of life was; -1 of a holder that is not known."""
        self._look()
        found = self._known.get(holder)
        return -1 if found is None else int((self._clock_s - found.seen_s) * 1000)

    def gone(self, holder: int) -> None:
        """The last client of an open database has gone."""
        if holder in self._known:
            self._gone[holder] = None

    @property
    def has_gone(self) -> bool:
        """Whether a holder has ended and is not released yet."""
        return bool(self._gone)

    def may_be_due(self, now_s: float) -> bool:
        """Whether ``end_due`` may have something to do at ``now_s``; costs next to nothing, and is asked every turn."""
        return now_s >= self._rests_until_s or len(self._gone) > 0

    def due_in_s(self) -> float:
        """How long nothing is to be done."""
        self._look()
        due_s = 0.0 if self._gone else self._next_s - self._clock_s
        return max(due_s, self._retry_s - self._looked_s)

    def end_gone(self) -> None:
        """Release all that those held whose last client has gone: who asks next must find it free."""
        if self._gone and self._retry_s <= self._looked_s:
            self._engine.finish_group()
            for holder in list(self._gone):
                self._release(holder, _ALL_MS, wholly=True)

    def end_due(self, read_s: float) -> None:
        """Release a slice of what ended holders held. What was in the pipes at ``read_s`` (monotonic) has been read.

        Time since then counts against no holder: its sign of life may be in its pipe. So it is in a slow sync, and when
        the process was stopped in a wait, which may then end without a look at the pipes.
        """
        if self.due_in_s() > 0:
            return
        read_clock_s = self._clock_s - max(0.0, self._looked_s - read_s)
        self._engine.finish_group()  # the ordered index has all keys then
        for holder, found in list(self._known.items()):
            silent_ms = int((read_clock_s - found.seen_s) * 1000)
            if holder in self._gone:
                silent_ms = _ALL_MS
            if silent_ms >= found.ttl_ms:
                self._release(holder, silent_ms)
        self._next_s = min(
            (found.seen_s + found.ttl_ms / 1000 for found in self._known.values()),
            default=_NEVER_S,
        )

    def _look(self) -> None:
        now_s = self._monotonic_s()
        self._clock_s += min(max(0.0, now_s - self._looked_s), _LONGEST_STEP_S)
        self._looked_s = now_s
        self._rests_until_s = now_s + min(_LONGEST_STEP_S / 2, self._next_s - self._clock_s)

    def _release(self, holder: int, silent_ms: int, wholly: bool = False) -> None:
        """Release a slice of what ``holder`` holds with a ttl of ``silent_ms`` at most, or all of that.

        If nothing is left then, forget the holder.
        """
        held: dict[bytes, int] = {}
        due: deque[bytes] = deque()
        for key, ttl_ms in self._entries(holder):
            held[key] = ttl_ms
            if ttl_ms <= silent_ms:
                due.append(key)
            if len(due) > _SLICE and not wholly:
                break  # the next slice looks at the rest: to walk all of it for each would hold up commits
        while due:
            if not self._engine.commit_own(partial(self._released, due, held)):
                self._retry_s = self._looked_s + _PAUSE_S  # no room: readers go on seeing it as held
                return
            if not wholly:
                break
        if held:
            self._known[holder].ttl_ms = min(held.values())
        else:
            del self._known[holder]
            self._gone.pop(holder, None)

    def _entries(self, holder: int) -> Iterator[tuple[bytes, int]]:
        """The key and ttl of each entry of a holder."""
        for key, _ in self._writer.ordered_index.iterate(*holder_index.bounds_of(holder)):
            found = self._writer.newest(key, 0)
            if found is not None:
                yield key, decode_ttl_ms(found.value)

    def _released(self, due: deque[bytes], held: dict[bytes, int], read: Read, now_ms: int) -> list[Write]:
        """What to write when what the first entries of ``due`` say is not held any more: as much as a slice has.

        Each sees the writes of those before. They are taken out of ``due`` and ``held``.
        """
        writes: dict[bytes, Write] = {}

        def read_newest(key: bytes) -> VersionedValue | None:
            write = writes.get(key)
            if write is None:
                return read(key)
            return None if write.value is None else VersionedValue(write.value, 0, write.expires_ms)

        size = 0
        for _ in range(_SLICE):
            if not due or size >= _SLICE_BYTES:
                break
            entry = due.popleft()
            del held[entry]
            holder, held_key = decode_key(entry)
            try:
                ended = self._engine.operations.ended(read_newest, held_key, holder, now_ms)
            except (ShoalError, TypeError, ValueError, LookupError):  # no record of a rule: nobody holds anything by it
                ended = []
            writes.update({write.key: write for write in ended})
            size += sum(len(write.value) for write in ended if write.value is not None)
            writes[entry] = Write(entry, None, 0)
        return list(writes.values())

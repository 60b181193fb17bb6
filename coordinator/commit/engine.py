"""Does commits: decided, with room found for them, applied, logged, published. Does no I/O of its own.

Log, clock and memory are handed in, so all of this can be simulated. Invariants: only the coordinator writes; readers
see a group of commits whole, from the one store in ``Writer.publish``; what a reader sees and what a client is told
stands in the log. The order, for commits that arrived together, and what a SIGKILL right after each step leaves:

1. ``submit``, per commit, in the order of arrival, each seeing those before it: validate, decide operations, find room
   in log and memory, apply (invisible), append to the log (a mapped file), note in the window and the client sessions.
   Killed: what is in the log is recovered, unanswered; its client asks again and is told.
2. ``finish_group``: sync (strict only), then publish. Killed: the same; readers saw only what is in the log.
3. The caller sends the answers.

A commit for which memory has no room has its group finished early, see ``_commit``.

Errors: until a commit is decided and has its room, nothing of it exists, and an error becomes the answer to its client
alone. Every other exception (an error of the disk, a broken invariant) leaves this module and ends the coordinator:
memory and log may differ after it, and the next coordinator recovers what is in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from shoal.coordinator.checkpoint.history import History
from shoal.coordinator.commit.admission import NO_MUTATIONS, Admission, refusal
from shoal.coordinator.commit.apply import ClientSessions, apply_commit
from shoal.coordinator.commit.batching import Batching, BatchKey
from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.coordinator.log.format import COORDINATOR, Outcome, encode_decided
from shoal.coordinator.log.writer import WalWriter
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.reserve import growth_bytes, plan_with_gaps, reserve_for, reserve_in_use
from shoal.coordinator.memory.writer import NOTHING_KNOWN, NOTHING_PLANNED, Plan, Writer
from shoal.shm.clock import Clock
from shoal.shm.errors import ShoalError, StoreFullError
from shoal.shm.limits import DEFAULT_LIMITS, MAX_BATCH, Limits
from shoal.shm.operation import OperationTable, Read, Write
from shoal.shm.wire import request as wire_request
from shoal.shm.wire.answer import COMMITTED, CONFLICT, encode_answer
from shoal.shm.wire.request import CommitSet, FlatWrites

# Keys leave the indexes in one round and their memory is free after the next.
_FREE_ROUNDS = 4
_NO_RESULTS: list[Any] = []
_NO_CLEARS: list[tuple[bytes, bytes]] = []


class CommitEngine:
    """The commit protocol over one writer and one log (None in ``memory`` durability)."""

    def __init__(
        self,
        writer: Writer,
        reclaimer: Reclaimer,
        window: ConflictWindow,
        log: WalWriter | None,
        clock: Clock,
        version: int,
        sessions: ClientSessions,
        sync_each_group: bool,
        operations: OperationTable,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.operations = operations
        self.sessions = sessions
        self.version = version  # newest applied
        self.published = version
        self.history: History | None = None  # if past versions are kept
        self._writer = writer
        self._reclaimer = reclaimer
        self._window = window
        self._log = log
        self._clock = clock
        self._sync_each_group = sync_each_group
        self._limits = limits
        self._admission = Admission(writer, window, operations, clock)
        self._batching = Batching(writer, operations, limits)

    def submit(self, client_id: int, request: CommitSet, in_line: Callable[[ShoalError], None] | None = None) -> bytes:
        """Decide one commit and do it, not yet visible. The answer may be sent after ``finish_group``.

        Of a request that waits in line, ``in_line`` is called with what its operation raises, if that ``passes``. The
        answer is empty then, and the request may be submitted again.
        """
        # At once: each attribute of a named tuple takes as long as all of this.
        commit_id, _, valid_until_ms, keys_read, ranges_read, writes, clears, operations, _, mutations = request
        session = self.sessions.get(client_id)
        if session is not None and session[0] == commit_id:  # sent again
            return encode_answer(commit_id, COMMITTED, session[1], session[2])
        if valid_until_ms and valid_until_ms <= self._admission.now_ms():
            # Something it read has expired since: delete that first, then it is an ordinary conflict.
            while self.sweep_expired():
                pass
        try:
            decided, results, nodes = b"", _NO_RESULTS, NOTHING_KNOWN
            if operations:  # first: what an operation raises, as of a fence, counts more than a conflict
                writes, mutations, decided, results, nodes = self._admission.decide(request)
            if keys_read or ranges_read:
                conflict = self._admission.conflict(request, self.version + 1)
                if conflict is not None:
                    return encode_answer(commit_id, CONFLICT, 0, conflict)
            if operations and not writes and not clears:  # its operations change nothing
                return encode_answer(commit_id, COMMITTED, self.version, results)
        except Exception as error:  # nothing of it exists yet
            if in_line is not None and isinstance(error, ShoalError) and error.passes:
                in_line(error)
                return b""
            return refusal(request, error)
        outcome = (client_id, commit_id, results)
        try:
            self._commit(client_id, commit_id, clears, writes, mutations, decided, nodes, (outcome,))
        except StoreFullError as error:
            return refusal(request, error)
        return encode_answer(commit_id, COMMITTED, self.version, results)

    def submit_behind(self, client_id: int, request: CommitSet, in_line: Callable[[ShoalError], None] | None) -> bytes:
        """``submit`` as of the moment of what was decided last: what passes by then is for those that wait before."""
        self._admission.time_stands = True
        try:
            return self.submit(client_id, request, in_line)
        finally:
            self._admission.time_stands = False

    def submit_together(self, requests: list[tuple[int, CommitSet]]) -> list[bytes]:
        """Submit what arrived at the same time, one request from each client; the answers in the same order.

        Operations that may be batched (as of many processes that append to one log) become one commit, which costs
        little more than one of them. One such operation that comes alone is a batch of one. A request that may wait in
        line is done in a batch or not at all: its answer is empty then.
        """
        if len(requests) == 1:
            client_id, request = requests[0]
            key = self._batching.key_of(request) if request.operations else None
            return [self._alone(client_id, request)] if key is None else self.submit_batch(key, requests, self._alone)
        answers: list[bytes] = [b""] * len(requests)
        batches: dict[BatchKey, list[int]] = {}
        for i, (client_id, request) in enumerate(requests):
            key = self._batching.key_of(request) if request.operations else None
            if key is None:
                answers[i] = self._alone(client_id, request)
            else:
                batches.setdefault(key, []).append(i)
        for key, members in batches.items():
            while members:
                part, members = members[:MAX_BATCH], members[MAX_BATCH:]
                told = self.submit_batch(key, [requests[i] for i in part], self._alone)
                for i, answer in zip(part, told, strict=True):
                    answers[i] = answer
                if b"" in told:  # one that may wait is not overtaken
                    members = [i for i in members if requests[i][1].control is None]
        return answers

    def _alone(self, client_id: int, request: CommitSet) -> bytes:
        return b"" if request.control is not None else self.submit(client_id, request)

    def finish_group(self) -> None:
        """Make what was submitted durable, as far as promised, and then visible."""
        if self.version == self.published:
            return
        self._writer.end_group(self.version)
        if self._log is not None and self._sync_each_group:
            self._log.sync()
        self._writer.publish(self.version)
        self.published = self.version
        if self.history is not None:
            self.history.note(self.version)

    def sweep_expired(self) -> bool:
        """Delete keys whose time has come, as one commit of the coordinator; True if there may be more."""
        now_ms = self._admission.now_ms()
        writer, slice_keys = self._writer, self._limits.sweep_slice
        due = writer.expiry.take_due(now_ms, slice_keys)
        writes: FlatWrites = []
        for key in due:
            expires_ms = writer.expires_ms(key)
            if expires_ms and expires_ms <= now_ms:
                writes += (key, None, 0)
            elif expires_ms:
                writer.expiry.add(key, expires_ms)
        if writes:
            before = self._window.last_writes(writes[::3])
            try:
                self._commit_own(writes, wire_request.encode_mutations(writes))
                self._window.note_sweep(self.version, before)
            except StoreFullError:
                for key in writes[::3]:  # readers see them expired; reclaiming waits for room
                    writer.expiry.add(key, now_ms + self._limits.sweep_every_ms)
                return False
        return len(due) == slice_keys

    def watch_own_writes(self, note: Callable[[Write], None]) -> None:
        """Call ``note`` with each write of an operation to a key of the store itself, when it is decided."""
        self._admission.note_own_write = note

    def commit_own(self, decide: Callable[[Read, int], list[Write]]) -> bool:
        """Commit what ``decide`` (read, now_ms) makes of the newest state; False if there is no room for it."""
        return self.commit_writes(self._admission.decide_own(decide))

    def commit_writes(self, writes: FlatWrites, clears: Sequence[tuple[bytes, bytes]] = ()) -> bool:
        """Commit what the coordinator decided itself; False if there is no room for it. Nothing is no commit.

        Such a commit removes more than it writes, so it may use the memory that is kept for deletes.
        """
        if not writes and not clears:
            return True
        mutations = wire_request.encode_mutations(writes, [bound for each in clears for bound in each] or None)
        try:
            with reserve_in_use(self._writer):
                self._commit_own(writes, mutations, b"", NOTHING_KNOWN, (), list(clears))
        except StoreFullError:
            return False
        return True

    def now_ms(self) -> int:
        """The time as commits are decided by it, in ms since the epoch."""
        return self._admission.now_ms()

    def free_more(self) -> None:
        """Reclaim all that can be, at once: a commit waits for room. Between commits it is done in slices."""
        for _ in range(_FREE_ROUNDS):
            while self._reclaimer.step(self._clock.monotonic_s(), urgent=True):
                pass
            if not self._reclaimer.waits_for_a_version() or not self.make_version():
                return

    def make_version(self) -> bool:
        """An empty commit, for memory that can be freed once there is a newer version; False if the disk is full."""
        try:
            self._commit_own([], NO_MUTATIONS)
        except StoreFullError:
            return False
        self.finish_group()
        return True

    def forget_client(self, client_id: int, depth: int = 1) -> None:
        """A client is gone for good: it will not ask again. ``depth``: the slots of a pipelined one."""
        for slot in range(depth):
            self.sessions.pop(client_id + slot, None)

    def outcome(self, client_id: int, commit_id: int) -> tuple[int, list[Any]] | None:
        """Version and results of a commit if it is the last one of its session."""
        session = self.sessions.get(client_id)
        return session[1:] if session is not None and session[0] == commit_id else None

    def note(self, client_id: int, commit_id: int, results: list[Any]) -> None:
        """Log the outcome of a commit that changes nothing (``pipelining``); StoreFullError leaves nothing of it."""
        decided = encode_decided([], results)
        outcome = (client_id, commit_id, results)
        self._commit(client_id, commit_id, [], [], NO_MUTATIONS, decided, NOTHING_KNOWN, (outcome,))

    def batch_key(self, request: CommitSet) -> BatchKey | None:
        """Operation and key by which a commit may be batched; None for one that must commit alone."""
        return self._batching.key_of(request)

    def submit_batch(
        self, key: BatchKey, requests: list[tuple[int, CommitSet]], one: Callable[[int, CommitSet], bytes]
    ) -> list[bytes]:
        """Do ``requests`` as one commit of the coordinator, or else each by ``one``, with its own answer."""
        try:
            batch = self._batching.decide(key, requests, self._admission.now_ms(), self.sessions)
        except Exception:  # nothing of it exists yet; submitted alone, each gets its own error
            batch = None
        if batch is None:
            return [one(*request) for request in requests]
        writes, outcomes = batch.writes, batch.outcomes
        try:
            plan = self._commit_own(writes, NO_MUTATIONS, batch.decided, batch.nodes, outcomes)
        except StoreFullError:
            return [one(*request) for request in requests]
        version = self.version
        self._batching.keep(batch, version, plan.nodes)
        self._admission.note_own(writes)
        return [encode_answer(commit_id, COMMITTED, version, results) for _, commit_id, results in outcomes]

    def _commit_own(
        self,
        writes: FlatWrites,
        mutations: bytes,
        decided: bytes = b"",
        nodes: dict[bytes, int] = NOTHING_KNOWN,
        outcomes: Sequence[Outcome] = (),
        clears: list[tuple[bytes, bytes]] = _NO_CLEARS,
    ) -> Plan:
        """Do a commit of the coordinator itself; StoreFullError leaves nothing of it."""
        return self._commit(COORDINATOR, self.version + 1, clears, writes, mutations, decided, nodes, outcomes)

    def _commit(
        self,
        client_id: int,
        commit_id: int,
        clears: list[tuple[bytes, bytes]],
        writes: FlatWrites,
        mutations: bytes,
        decided: bytes,
        nodes: dict[bytes, int],
        outcomes: Sequence[Outcome],
    ) -> Plan:
        """Find room for a decided commit and do it, not yet visible; where its writes went.

        The log keeps ``mutations`` and ``decided``. ``nodes`` are key nodes that are known already. ``outcomes`` are
        what clients are told. StoreFullError leaves nothing of the commit; any other exception may leave half of it.
        """
        writer, log = self._writer, self._log
        body_bytes = len(mutations) + len(decided)
        if log is not None and not log.has_room(body_bytes):
            log.reserve(body_bytes, growth_bytes(writer, writes, clears))
        try:
            plan = writer.plan(writes, clears, nodes) if writes or clears else NOTHING_PLANNED
            writer.apply(self.version + 1, clears, writes, plan)
        except StoreFullError:
            # Finish the group early. Old snapshots, and what earlier commits of this group made obsolete, may hold the
            # room that is needed, or stand between pieces of it; it can be freed only once the group so far is
            # published. Answers are sent later, as those of any group. Then everything is looked up again: versions
            # made meanwhile are in the log, too, and keys may have left the indexes.
            plan = self._apply_with_more_room(clears, writes, body_bytes)
        version = self.version + 1
        if log is not None:
            log.append(version, client_id, commit_id, mutations, decided)
        self.version = version
        apply_commit(self._window, self.sessions, version, clears, writes, outcomes)
        return plan

    def _apply_with_more_room(self, clears: list[tuple[bytes, bytes]], writes: FlatWrites, body_bytes: int) -> Plan:
        """Apply a commit that had no room; what is kept for time travel goes, the oldest first, until it has."""
        writer, log = self._writer, self._log
        while True:
            self._finish_group_and_free()
            growth = growth_bytes(writer, writes, clears)
            if log is not None and not log.has_room(body_bytes):
                log.reserve(body_bytes, growth)
            try:
                with reserve_for(writer, growth):
                    plan = plan_with_gaps(writer, writes, clears)
                    writer.apply(self.version + 1, clears, writes, plan)
                return plan
            except StoreFullError:
                if not self._reclaimer.give_up_history():
                    raise

    def _finish_group_and_free(self) -> None:
        """Publish the group so far, and free memory for its next commit, which is not begun yet."""
        try:
            self.finish_group()
            self.free_more()
        except StoreFullError as error:
            # Not a StoreFullError: it would become the answer to the commit that waits for the memory.
            raise AssertionError("the room kept for finishing a group and for reclaiming is not there") from error

"""Decides and applies commits. No file, pipe or clock of its own: all of them are handed in, so it can be simulated.

The order, for a group of commits that arrived together, and what a SIGKILL right after each step leaves:

1. ``submit``, per commit, in the order of arrival, each seeing those before it:
   validate, decide operations, reserve memory and log, apply (invisible), append to the log (a mapped file).
   Killed: what is in the log is recovered, unanswered; its client asks again and is told.
   A commit that finds no room has the group so far finished first (2 and 3), then memory freed, then one more try.
2. ``finish_group``: sync (strict only).
3. publish with one store: readers see the group. Killed: the same, readers saw only what is in the log.
4. the caller sends the answers. A client never hears of a commit that is not in the log.

Who is told of an error: until a commit is decided and has its room nothing of it exists, and what goes wrong is told to
its client alone, whatever it is. Everything else (an error of the disk, a broken invariant, an exception out of
``apply``, ``append``, ``sync`` or ``publish``) leaves this module and ends the coordinator: nobody knows what holds
after it, and the next coordinator recovers what is in the log.

A client that was cut off sends its last commit again with the same commit id. The last outcome of every client is
remembered, in memory, in the log and in checkpoints, so that commit is answered, not done twice.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from shoal.coordinator.commit.batching import JointPlace, Joints
from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.coordinator.commit.reading import read_newest
from shoal.coordinator.commit.validate import Conflict, validate
from shoal.coordinator.log.writer import WalWriter
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import NOTHING_KNOWN, NOTHING_PLANNED, Plan, Writer
from shoal.shm import codec, limits
from shoal.shm.clock import Clock
from shoal.shm.errors import ShoalError, StoreFullError
from shoal.shm.operation import Joint, OperationTable, VersionedValue, Write
from shoal.shm.wire import request as wire_request
from shoal.shm.wire import wire_errors
from shoal.shm.wire.answer import COMMITTED, CONFLICT, REFUSED, encode_answer
from shoal.shm.wire.request import CommitSet, FlatWrites, triples

COORDINATOR = 0  # the client id of commits the coordinator makes itself
_NO_RESULTS: list[Any] = []
_NO_MUTATIONS = wire_request.encode_mutations([])
# Joint, nodes it knows, client id with commit id and results of each, flat writes, and these as the log has them.
_JointDecision = tuple[Joint, dict[bytes, int], list[list[Any]], FlatWrites, bytes]
# Keys leave the indexes in one round and their memory is free after the next.
_FREE_ROUNDS = 4


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
        remembered: dict[int, tuple[int, int, list[Any]]],
        sync_each_group: bool,
        operations: OperationTable,
    ) -> None:
        self.operations = operations
        self._writer = writer
        self._reclaimer = reclaimer
        self._window = window
        self._log = log
        self._clock = clock
        self._sync_each_group = sync_each_group
        self._last_ms = 0
        self._joints = Joints(writer, operations)
        self.version = version  # newest applied
        self.published = version
        # client id -> commit id, version, results of its last commit; the longest gone are forgotten first
        self.remembered: OrderedDict[int, tuple[int, int, list[Any]]] = OrderedDict(remembered)

    def submit(self, client_id: int, request: CommitSet) -> bytes:
        """Decide one commit and apply it, not yet visible; the answer may be sent after ``finish_group``."""
        done = self.remembered.get(client_id)
        if done is not None and done[0] == request.commit_id:
            return encode_answer(request.commit_id, COMMITTED, done[1], done[2])
        if request.valid_until_ms and request.valid_until_ms <= self._now_ms():
            # Something it read has expired since: let the deletion happen first, then it is an ordinary conflict.
            while self.sweep_expired():
                pass
        writes, mutations, decided, results, nodes = request.writes, request.mutations, b"", _NO_RESULTS, NOTHING_KNOWN
        try:
            if request.keys_read or request.ranges_read:
                conflict = validate(request, self._window) or self._expired(request)
                if conflict is not None:
                    return encode_answer(request.commit_id, CONFLICT, 0, conflict)
            if request.operations:
                nodes = {}
                more, results = self._decide(request, nodes)
                if not writes and not request.clears:
                    if not more:
                        return encode_answer(request.commit_id, COMMITTED, self.version, results)
                    mutations = _NO_MUTATIONS  # replay takes what was decided; what was asked need not be kept
                decided = codec.pack([more, results])
                writes = writes + more
        except Exception as error:  # nothing exists yet: whatever a request stumbles over is its client's affair alone
            return _refusal(request, error)
        try:
            version = self._commit(client_id, request.commit_id, request.clears, writes, mutations, decided, nodes)
        except StoreFullError as error:
            return _refusal(request, error)
        self._remember(client_id, request.commit_id, version, results)
        return encode_answer(request.commit_id, COMMITTED, version, results)

    def submit_together(self, requests: list[tuple[int, CommitSet]]) -> list[bytes]:
        """Submit what arrived at the same time, from a client each; the answers in the same order.

        Operations that may be joined (many processes appending to one log) become one commit, which costs little more
        than one of them. If it cannot be made, each is submitted alone and told its own reason.
        """
        if len(requests) == 1:
            place = self._joints.place_of(requests[0][1])
            alone = None if place is None else self._submit_joint(place, requests)
            return alone or [self.submit(*requests[0])]
        answers: list[bytes] = [b""] * len(requests)
        joints: dict[JointPlace, list[int]] = {}
        for i, (client_id, request) in enumerate(requests):
            place = self._joints.place_of(request)
            if place is None:
                answers[i] = self.submit(client_id, request)
            else:
                joints.setdefault(place, []).append(i)
        for place, members in joints.items():
            for start in range(0, len(members), limits.MAX_JOINT):
                part = members[start : start + limits.MAX_JOINT]
                joint = self._submit_joint(place, [requests[i] for i in part])
                for n, i in enumerate(part):
                    answers[i] = self.submit(*requests[i]) if joint is None else joint[n]
        return answers

    def finish_group(self) -> None:
        """Make what was submitted durable, as far as promised, and then visible."""
        if self.version == self.published:
            return
        self._writer.end_group(self.version)
        if self._log is not None and self._sync_each_group:
            self._log.sync()
        self._writer.publish(self.version)
        self.published = self.version

    def sweep_expired(self) -> bool:
        """Delete keys whose time has come, as one commit of the coordinator; True if there may be more."""
        now_ms = self._now_ms()
        writer = self._writer
        due = writer.expiry.take_due(now_ms, limits.SWEEP_SLICE)
        writes: FlatWrites = []
        for key in due:
            expires_ms = writer.expires_ms(key)
            if expires_ms and expires_ms <= now_ms:
                writes += (key, None, 0)
            elif expires_ms:
                writer.expiry.add(key, expires_ms)
        if writes:
            try:
                self._commit(COORDINATOR, self.version + 1, [], writes, wire_request.encode_mutations(writes))
            except StoreFullError:
                for key in writes[::3]:  # readers see them expired; reclaiming waits for room
                    writer.expiry.add(key, now_ms + limits.SWEEP_EVERY_MS)
                return False
        return len(due) == limits.SWEEP_SLICE

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
            self._commit(COORDINATOR, self.version + 1, [], [], _NO_MUTATIONS)
        except StoreFullError:
            return False
        self.finish_group()
        return True

    def forget_client(self, client_id: int) -> None:
        """A client is gone for good: it will not ask again."""
        self.remembered.pop(client_id, None)

    def _expired(self, request: CommitSet) -> Conflict | None:
        """The conflict of one that counts on what has expired, though no deletion tells.

        There was no room for it, or the key was not in the checkpoint any more that this coordinator began with.
        """
        now_ms = self._last_ms
        if not 0 < request.valid_until_ms <= now_ms:
            return None
        gone = (key for key in request.keys_read if read_newest(self._writer, key, now_ms) is None)
        key = next(gone, None) or (request.keys_read or request.ranges_read[0])[0]
        return Conflict(key, request.snapshot, self.version + 1)  # at its own version it would not be there

    def _commit(
        self,
        client_id: int,
        commit_id: int,
        clears: list[tuple[bytes, bytes]],
        writes: FlatWrites,
        mutations: bytes,
        decided: bytes = b"",
        nodes: dict[bytes, int] = NOTHING_KNOWN,
    ) -> int:
        """Do a commit that is decided; its version. StoreFullError leaves nothing of it."""
        plan = self._make_room(writes, clears, len(mutations) + len(decided), nodes)
        return self._apply(client_id, commit_id, clears, writes, plan, mutations, decided)

    def _apply(
        self,
        client_id: int,
        commit_id: int,
        clears: list[tuple[bytes, bytes]],
        writes: FlatWrites,
        plan: Plan,
        mutations: bytes,
        decided: bytes,
    ) -> int:
        """Write a commit to memory and to the log; its version. StoreFullError if memory has no such piece: nothing is.

        Any other exception may come after half of the commit.
        """
        version = self.version + 1
        self._writer.apply(version, clears, writes, plan)
        if self._log is not None:
            self._log.append(version, client_id, commit_id, mutations, decided)
        self.version = version
        window = self._window
        if clears:
            for lower, upper in clears:
                window.add_clear(version, lower, upper)
        window.add_writes(version, writes[::3])
        return version

    def _remember(self, client_id: int, commit_id: int, version: int, results: list[Any]) -> None:
        self.remembered[client_id] = (commit_id, version, results)
        self.remembered.move_to_end(client_id)
        if len(self.remembered) > limits.REMEMBERED_CLIENTS:
            self.remembered.popitem(last=False)

    def _submit_joint(self, place: JointPlace, requests: list[tuple[int, CommitSet]]) -> list[bytes] | None:
        """One commit of the coordinator for all of ``requests``, with the outcome of each; None if there cannot be."""
        try:
            decision = self._decide_joint(place, requests)
        except Exception:  # nothing exists yet; whose fault it is shows when each is submitted alone
            return None
        if decision is None:
            return None
        joint, nodes, outcomes, writes, decided = decision
        try:
            plan = self._make_room(writes, [], len(_NO_MUTATIONS) + len(decided), nodes)
            version = self._apply(COORDINATOR, self.version + 1, [], writes, plan, _NO_MUTATIONS, decided)
        except StoreFullError:
            return None
        self._joints.keep(place, version, joint, nodes, zip(writes[::3], plan.nodes, strict=True))
        for client_id, commit_id, results in outcomes:
            self._remember(client_id, commit_id, version, results)
        return [encode_answer(commit_id, COMMITTED, version, results) for _, commit_id, results in outcomes]

    def _decide_joint(self, place: JointPlace, requests: list[tuple[int, CommitSet]]) -> _JointDecision | None:
        """What all of ``requests`` write together, and the outcome of each; None if they must be submitted alone."""
        outcomes: list[list[Any]] = []
        known = self.remembered.get
        joint, nodes = self._joints.take(place, self._now_ms())
        for client_id, request in requests:
            done = known(client_id)
            if done is not None and done[0] == request.commit_id:
                return None
            outcomes.append([client_id, request.commit_id, [joint.add(*request.operations[0][1][1:])]])
        writes = joint.writes()
        if not writes:
            return None
        return joint, nodes, outcomes, writes, codec.pack([writes, _NO_RESULTS, outcomes])

    def _decide(self, request: CommitSet, nodes: dict[bytes, int]) -> tuple[FlatWrites, list[Any]]:
        """What the operations of a commit set write and answer, seeing its own writes; ``nodes`` of what they read."""
        now_ms = self._now_ms()
        sent = {key: Write(key, value, expires_ms) for key, value, expires_ms in triples(request.writes)}
        decided: dict[bytes, Write] = {}

        def read(key: bytes) -> VersionedValue | None:
            write = decided.get(key) or sent.get(key)
            if write is None:
                return read_newest(self._writer, key, now_ms, nodes)
            return None if write.value is None else VersionedValue(write.value, 0, write.expires_ms)

        results = []
        for name, arguments in request.operations:
            outcome = self.operations.decide(read, now_ms, name, arguments)
            for write in outcome.writes:
                if write.key in sent:
                    raise ValueError(f"the commit both writes {write.key!r} and has it decided by an operation")
                decided[write.key] = write
            results.append(outcome.result)
        writes = [part for write in decided.values() for part in write]
        wire_request.check_writes(writes)
        return writes, results

    def _make_room(
        self, writes: FlatWrites, clears: list[tuple[bytes, bytes]], body_bytes: int, nodes: dict[bytes, int]
    ) -> Plan:
        """Have memory and log ready for a commit, or raise StoreFullError with nothing of it done."""
        log = self._log
        if log is not None and not log.has_room(body_bytes):
            log.reserve(body_bytes, only_deletes=not any(value is not None for value in writes[1::3]))
        if not writes and not clears:
            return NOTHING_PLANNED
        try:
            return self._writer.plan(writes, clears, nodes)
        except StoreFullError:
            pass  # not for good: old snapshots and the just deleted may hold the room that is needed
        self._finish_and_free()
        if log is not None and not log.has_room(body_bytes):  # the versions made meanwhile are in the log, too
            log.reserve(body_bytes, only_deletes=not any(value is not None for value in writes[1::3]))
        return self._writer.plan(writes, clears)

    def _finish_and_free(self) -> None:
        """Between two commits of a group: finish it as far as it is, then free what can be."""
        try:
            self.finish_group()
            self.free_more()
        except StoreFullError as error:
            # Not that of the commit that waits: its client would be told that nothing was done.
            raise AssertionError("the room kept for finishing a group and for reclaiming is not there") from error

    def _now_ms(self) -> int:
        """The wall clock, never going back while this coordinator lives."""
        self._last_ms = max(self._last_ms, self._clock.now_ms())
        return self._last_ms


def _refusal(request: CommitSet, error: Exception) -> bytes:
    """The answer to a request that failed before anything of it was done."""
    if isinstance(error, MemoryError):
        error = StoreFullError("the coordinator has no memory to decide the commit with; free memory or commit less")
    elif not isinstance(error, ShoalError) and type(error) not in (TypeError, ValueError):
        error = ValueError(f"the commit cannot be decided: {type(error).__name__}: {error}")
    return encode_answer(request.commit_id, REFUSED, 0, wire_errors.error_parts(error))

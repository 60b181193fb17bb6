"""A client of the simulation: runs its operations with shoal's own API and writes down what it saw."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import shoal
from shoal.primitives.rules.layouts.parts import name_part, run_part
from shoal.shared_memory_store import SharedMemoryStore
from shoal.shm.errors import CASConflictError, ConflictError, CoordinatorLostError, SnapshotExpiredError, StoreFullError
from tests.simulation.plan import Operation
from tests.simulation.world.host import SimulatedClientHost
from tests.simulation.world.machine import World
from tests.simulation.world.scheduler import Killed
from tests.support.histories.acknowledged import ToldEvent
from tests.support.histories.history import Step
from tests.support.histories.list_append import Operation as ListOperation

RUN = "run"
LINGER_S = 0.1
TIMEOUT_S = 20.0
# What the engine's keys of the run begin with (``primitives.keys``): namespace and run, and for KV its tag.
RUN_PREFIX = 3 * name_part(b"default") + run_part(RUN.encode())
KV_PREFIX = RUN_PREFIX + b"\1"


class _Anything:
    """Equal to everything: the answer that nobody heard."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, _other: object) -> bool:
        return True

    def __ne__(self, _other: object) -> bool:
        return False

    def __repr__(self) -> str:
        return "?"


ANYTHING: Any = _Anything()


@dataclass
class ExpiringRead:
    """What was read of a key that may expire, and between which moments of the wall clock."""

    key: str
    found: Any
    first_ms: int
    last_ms: int


@dataclass
class Attempt:
    """One operation: from the step it began at to the one it ended at, and all that its client knows of it."""

    who: str
    kind: str
    start: int
    boot: int
    end: float = float("inf")
    status: str = "unknown"  # "committed", "aborted", "refused"
    commit: tuple[int, int] | None = None  # client id and commit id, once something was sent
    told: int = 0  # the version it was told
    snapshot: int = -1
    steps: list[Step] = field(default_factory=list)
    list_operations: list[ListOperation] = field(default_factory=list)
    events: list[ToldEvent] = field(default_factory=list)
    expiring: list[ExpiringRead] = field(default_factory=list)


class Client:
    """One process."""

    def __init__(self, world: World, name: str, operations: list[Operation], attempts: list[Attempt]) -> None:
        self.world = world
        self.name = name
        self.left = list(operations)
        self._attempts = attempts
        self.attempt: Attempt | None = None
        self.store: SharedMemoryStore
        self.db: shoal.Database
        self._begun: Any = None  # the engine's side of the newest transaction

    def run(self) -> None:
        """What the process does."""
        while True:
            try:
                self.open_database()
                break
            except StoreFullError:  # no room for the log of a coordinator: the disk is full for a while
                self.world.sleep(0.01)
        while self.left:
            operation = self.left.pop(0)
            if operation[2]:
                self.world.sleep(operation[2])
            self.run_operation(operation)
        self.db.close()

    def open_database(self) -> None:
        store: Any = open_store(self.world)
        self.store, self.db = store, shoal.Database(store)
        connection = store.connection
        submit, begin, world = connection.submit, store.begin, self.world

        def note(*request: Any) -> Any:
            attempt = self.attempt
            assert attempt is not None
            if world.is_second_thread:  # the one that renews what is held
                return submit(*request)
            channel = connection.borrow()
            connection.give_back(channel)  # the next commit takes it
            self.note_sent((channel.client_id, channel.commit_id + 1))
            version, results = submit(*request)
            attempt.told = version
            return version, results

        def note_begun(*arguments: Any) -> Any:
            self._begun = begin(*arguments)
            return self._begun

        connection.submit = connection.submit_one = note
        store.begin = note_begun
        self.kv, self.log, self._cells = shoal.KVStore(self.db), shoal.EventLog(self.db), shoal.StateCell(self.db)

    def note_sent(self, commit: tuple[int, int]) -> None:
        """A commit of the operation under way is sent."""
        assert self.attempt is not None
        self.attempt.commit = commit

    def _begin(self, kind: str, who: str) -> Attempt:
        world = self.world
        attempt = self.attempt = Attempt(who, kind, world.steps, world.boot)
        self._attempts.append(attempt)
        world.say(f"begins {kind} {who}")
        return attempt

    def run_operation(self, operation: Operation) -> None:
        kind, unique, _, *arguments = operation
        attempt = self._begin(kind, unique)
        world = self.world
        world.step()  # time passes between the note that it begins and its first look
        try:
            getattr(self, "_" + kind.replace(" ", "_"))(attempt, *arguments)
            attempt.status = "committed"
        except Killed:
            raise
        except (ConflictError, CASConflictError):
            attempt.status = "aborted"
        except StoreFullError:
            attempt.status = "refused"
        except CoordinatorLostError:  # nobody can open the store for a while, and this may be done or not
            pass
        except SnapshotExpiredError as error:
            attempt.status = "aborted"
            if not world.revoked:
                world.problems.append(("snapshot", f"{unique}: {error}, and nothing is ever revoked"))
            attempt.steps.clear()
        world.steps += 1
        if attempt.status != "unknown":
            attempt.end = world.steps
        world.say(f"{attempt.status} {unique} at {attempt.told or attempt.snapshot}: {attempt.steps!r:.200}")
        world.step()

    # --- single calls ---

    def _get(self, attempt: Attempt, key: str, *_: Any) -> None:
        attempt.steps.append(("get", key, None, self.kv.get(RUN, key)))

    def _put(self, attempt: Attempt, key: str, value: str, *_: Any) -> None:
        attempt.steps.append(("put", key, value, None))
        self.kv.put(RUN, key, value)

    def _delete(self, attempt: Attempt, key: str, *_: Any) -> None:
        attempt.steps.append(("delete", key, None, ANYTHING))
        attempt.steps[0] = ("delete", key, None, self.kv.delete(RUN, key))

    def _increment(self, attempt: Attempt, key: str, _value: str, by: int, *_: Any) -> None:
        attempt.steps.append(("increment", key, by, ANYTHING))
        attempt.steps[0] = ("increment", key, by, self.kv.increment(RUN, key, by))

    def _set_cell(self, attempt: Attempt, key: str, value: str, *_: Any) -> None:
        attempt.steps.append(("increment", "#cell " + key, 1, ANYTHING))
        attempt.steps[0] = ("increment", "#cell " + key, 1, self._cells.set(RUN, key, value))

    def _cas(self, attempt: Attempt, key: str, value: str, *_: Any) -> None:
        found = self._cells.read(RUN, key)
        if found is None:
            self._set_cell(attempt, key, value)
            return
        # A cell's version counts its changes: a compare-and-set that succeeds raises it from the expected one.
        attempt.steps.append(("increment", "#cell " + key, 1, found.version + 1))
        version = self._cells.cas(RUN, key, found.version, value)
        attempt.steps[0] = ("increment", "#cell " + key, 1, version if version == found.version + 1 else -1)

    def _transition(self, attempt: Attempt, key: str, value: str, *_: Any) -> None:
        if self._cells.read(RUN, key) is None:
            self._set_cell(attempt, key, value)
            return

        def change(state: shoal.State) -> tuple[str, int]:
            attempt.told = 0  # an answer before this one told of no change
            return value, state.version + 1

        attempt.steps.append(("increment", "#cell " + key, 1, ANYTHING))
        attempt.steps[0] = ("increment", "#cell " + key, 1, self._cells.transition(RUN, key, change))

    def _event(self, attempt: Attempt, key: str, value: str, *_: Any) -> None:
        told = self.log.append(RUN, _type_of(key), value)
        attempt.events.append(ToldEvent(*told, _type_of(key), value))

    def _events(self, attempt: Attempt, key: str, value: str, by: int, *_: Any) -> None:
        events = [(_type_of(key), f"{value}.{i}") for i in range(by)]
        told = self.log.append_many(RUN, events)
        attempt.events += [ToldEvent(*one, *event) for one, event in zip(told, events, strict=True)]

    def _clear(self, attempt: Attempt, _key: str, _value: str, _by: int, bounds: tuple[str, str]) -> None:
        attempt.steps.append(("clear", "", bounds, None))
        self.store.auto_commit.clear(*_engine_bounds(bounds))

    # --- transactions ---

    def _transaction(self, attempt: Attempt, steps: list[Operation]) -> None:
        with self.db.transaction(RUN) as txn:
            attempt.snapshot = self._begun.snapshot
            events = [told for step in steps if (told := self._perform(attempt, txn, *step))]
        attempt.events += events  # before the commit it is not true

    _blind = _transaction

    def _snapshot(self, attempt: Attempt, steps: list[Operation]) -> None:
        with self._any_snapshot(attempt) as view:
            attempt.snapshot = view.version
            for step in steps:
                self._perform(attempt, view, *step)

    def _any_snapshot(self, attempt: Attempt) -> shoal.Transaction:
        """A snapshot of now; if past versions are kept, half the time one of those, unless it is not kept any more."""
        info, rng = self.db.info(), random.Random(attempt.who)
        if info.history and rng.random() < 0.5:
            newest = info.commit_version
            version = rng.randint(max(0, newest - 20), newest)
            try:
                view = self.db.snapshot(RUN, version=version)
                attempt.start = 0  # what was committed before it began need not be in it
                return view
            except SnapshotExpiredError as error:
                if self.world.keeps_all and self.world.boot == 1:
                    self.world.problems.append(("history", f"{error}, and all is kept"))
        return self.db.snapshot(RUN)

    def _hold(self, attempt: Attempt, steps: list[Operation]) -> None:
        """A snapshot that stays open for long."""
        with self.db.snapshot(RUN) as view:
            attempt.snapshot = view.version
            for _ in range(3):
                for step in steps:
                    self._perform(attempt, view, *step)
                self.world.sleep(0.01)

    def _perform(
        self, attempt: Attempt, txn: Any, name: str, key: str, argument: Any, pause_s: float
    ) -> ToldEvent | None:
        if pause_s:
            self.world.sleep(pause_s)
        if name == "event":
            sequence, digest = txn.events.append(_type_of(key), argument)
            return ToldEvent(sequence, digest, _type_of(key), argument)
        kv, result = txn.kv, None
        if name == "get":
            result = kv.get(key)
        elif name == "scan":
            result = kv.list_with_values(key)
        elif name == "put":
            kv.put(key, argument)
        elif name == "delete":
            result = kv.delete(key)
        elif name == "increment":
            result = kv.increment(key, argument)
        elif name == "clear":
            self._begun.clear(*_engine_bounds(argument))
        attempt.steps.append((name, key, argument, result))
        return None

    def _list(self, attempt: Attempt, steps: list[Operation]) -> None:
        with self.db.transaction(RUN) as txn:
            attempt.snapshot = self._begun.snapshot
            for name, key, element, pause_s in steps:
                if pause_s:
                    self.world.sleep(pause_s)
                seen = txn.kv.get(key, [])
                attempt.list_operations.append(ListOperation("read", key, seen))
                if name == "append":
                    txn.kv.put(key, [*seen, element])
                    attempt.list_operations.append(ListOperation("append", key, element))

    # --- keys that expire ---

    def _expiring(self, attempt: Attempt, key: str, ttl_s: float | None, _other: str, _pause_s: float) -> None:
        del attempt
        self.kv.put(RUN, key, f"{key} {ttl_s}", ttl=ttl_s)

    def _counting_on_expiring(
        self, attempt: Attempt, key: str, ttl_s: float | None, other: str, pause_s: float
    ) -> None:
        """Write something because of what an expiring key holds."""
        with self.db.transaction(RUN) as txn:
            attempt.snapshot = self._begun.snapshot
            before_ms = self.world.now_ms()
            found = txn.kv.get(key)
            attempt.expiring.append(ExpiringRead(key, found, before_ms, self.world.now_ms()))
            self.world.sleep(pause_s + (ttl_s or 0) * 0.3)
            value = f"{attempt.who} saw {found}"
            txn.kv.put(other, value)
            attempt.steps.append(("put", other, value, None))


def open_store(world: World) -> SharedMemoryStore:
    """``shoal.open`` on the machine, without the database around it."""
    return SharedMemoryStore(
        "store",
        durability=None,
        max_bytes=None,
        timeout=TIMEOUT_S,
        linger=LINGER_S,
        read_only=False,
        host=SimulatedClientHost(world),
    )


def _engine_bounds(bounds: tuple[str, str]) -> tuple[bytes, bytes]:
    return KV_PREFIX + bounds[0].encode(), KV_PREFIX + bounds[1].encode()


def _type_of(key: str) -> str:
    """One of two types of events."""
    return f"type {key[:2]}"

"""The rules of task queues against a plain model."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.primitives.keys import Namespace
from shoal.primitives.rules.queues import queue_rules as rules
from shoal.primitives.rules.queues import records, task_record
from shoal.primitives.rules.registry import TABLE
from shoal.primitives.views.fleet.queue import Together
from shoal.primitives.views.fleet.tasks import base_of
from shoal.shm import codec, holder_index
from shoal.shm.errors import InvalidOperationError, NotFoundError, ShoalError
from shoal.shm.fleet_errors import FencedError, NothingReadyError
from shoal.shm.operation import Decision, VersionedValue, Write
from tests.support.present import present

_BASE = base_of(Namespace(), "run", "q")
_KEY = _BASE + records.QUEUE
_LONG = b"l" * 2_000
_STATUSES = {"waiting": 0, "claimed": 1, "done": 2, "dead": 3, "cancelled": 4}


class _Task(NamedTuple):
    """A task of the model."""

    order: tuple[int, int]  # minus priority, sequence
    status: str
    attempt: int
    most: int
    due_ms: int
    key: bytes | None
    holder: int
    token: int
    bodies: int  # how many of payload and result are too long for the task's record


class _Model:
    """What the rules must do, with a dict and a search over all of it; and the records beside it."""

    def __init__(self) -> None:
        self.tasks: dict[bytes, _Task] = {}
        self.store: dict[bytes, bytes] = {}
        self.now_ms = 1000
        self.puts = 0
        self.claims: dict[int, tuple[int, list[bytes], int]] = {}  # by ticket: holder, tasks, first token
        self.token = 0

    def read(self, key: bytes) -> VersionedValue | None:
        value = self.store.get(key)
        return None if value is None else VersionedValue(value, 1, 0)

    def perform(self, rule: Callable[..., Decision], *arguments: Any) -> Any:
        decision = rule(self.read, self.now_ms, _KEY, *arguments)
        self.write(decision.writes)
        return decision.result

    def write(self, writes: list[Write]) -> None:
        assert len({write.key for write in writes}) == len(writes)
        for write in writes:
            if write.value is None:
                self.store.pop(write.key, None)
            else:
                self.store[write.key] = write.value

    def put(self, priority: int, delay_ms: int, most: int, key: bytes | None) -> None:
        self.puts += 1
        task_id = self.puts.to_bytes(16, "big")
        there = [each for each, task in self.tasks.items() if key is not None and task.key == key]
        is_long = self.puts % 3 == 0
        tasks = [task_id, _LONG if is_long else b"p"]
        assert self.perform(rules.put, priority, delay_ms, most, key, False, tasks) == (there or [task_id])
        if not there:
            due_ms = self.now_ms + delay_ms if delay_ms else 0
            self.tasks[task_id] = _Task((-priority, self.puts), "waiting", 0, most, due_ms, key, 0, 0, is_long)

    def claim(self, holder: int, limit: int) -> None:
        ready = [
            (task.order, each)
            for each, task in self.tasks.items()
            if task.status == "waiting" and task.due_ms <= self.now_ms
        ]
        expected = [each for _, each in sorted(ready)[:limit]]
        ticket, former_token = self._ticket_of(holder)
        for _ in range(2):  # the second time it is sent again
            if not expected:
                due = [task.due_ms for task in self.tasks.values() if task.status == "waiting"]
                with pytest.raises(NothingReadyError) as caught:
                    self.perform(rules.claim, "q", holder, 4711, 30_000, ticket, former_token, limit)
                assert caught.value.passes_in_ms == (min(due) - self.now_ms if due else None)
                return
            told = self.perform(rules.claim, "q", holder, 4711, 30_000, ticket, former_token, limit)
            assert [each for each, *_ in told] == expected
        self.claims[ticket] = holder, expected, told[0][3]
        for task_id, _, attempt, token in told:
            assert token > self.token
            self.token = token
            task = self.tasks[task_id]
            assert attempt == task.attempt + 1
            self.tasks[task_id] = task._replace(status="claimed", attempt=attempt, holder=holder, token=token)

    def _ticket_of(self, holder: int) -> tuple[int, int]:
        """A ticket of which the holder has no task any more, with its first token; or a new one."""
        for ticket, (of, ids, token) in self.claims.items():
            if of == holder and not any(self._is_held(task_id, holder, ticket) for task_id in ids):
                return ticket, token
        return len(self.claims) + 1, 0

    def _is_held(self, task_id: bytes, holder: int, ticket: int) -> bool:
        found = records.Queue(self.read, _KEY).task(task_id)
        return found is not None and (found.holder, found.ticket) == (holder, ticket)

    def end(self, how: str, number: int, retry_ms: int) -> None:
        if not self.tasks:
            return
        task_id = sorted(self.tasks)[number % len(self.tasks)]
        task = self.tasks[task_id]
        is_long = number % 2 == 0
        ends: dict[str, tuple[Callable[..., Decision], list[Any]]] = {
            "complete": (rules.complete, [_LONG if is_long else b"r"]),
            "fail": (rules.fail, ["e", retry_ms]),
            "release": (rules.release, []),
        }
        rule, extra = ends[how]
        if task.status != "claimed":
            with pytest.raises(FencedError):
                self.perform(rule, "n", task_id, task.holder, task.token, *extra)
            return
        with pytest.raises(FencedError):
            self.perform(rule, "n", task_id, task.holder + 1, task.token, *extra)
        with pytest.raises(FencedError):
            self.perform(rule, "n", task_id, task.holder, task.token - 1, *extra)
        self.perform(rule, "n", task_id, task.holder, task.token, *extra)
        if how == "complete":
            self.tasks[task_id] = task._replace(status="done", bodies=task.bodies + is_long)
        elif how == "release":
            self.tasks[task_id] = task._replace(status="waiting", attempt=task.attempt - 1, due_ms=0)
        else:
            self._attempted(task_id, self.now_ms + retry_ms if retry_ms else 0)

    def end_holder(self, holder: int) -> None:
        for key in [key for key in self.store if key.startswith(holder_index.entries_of(holder))]:
            self.write(TABLE.ended(self.read, holder_index.decode_key(key)[1], holder, self.now_ms))
            del self.store[key]
        for task_id, task in self.tasks.items():
            if task.status == "claimed" and task.holder == holder:
                self._attempted(task_id, 0)

    def change(self, how: str, number: int) -> None:
        task_id = sorted(self.tasks)[number % len(self.tasks)] if self.tasks else bytes(16)
        task = self.tasks.get(task_id)
        if how == "cancel":
            may = task is not None and task.status in ("waiting", "claimed")
            assert self.perform(rules.cancel, task_id) is may
            if task is not None and may:
                self.tasks[task_id] = task._replace(status="cancelled")
        elif task is None or task.status != "dead":
            with pytest.raises((InvalidOperationError, NotFoundError)):
                self.perform(rules.retry, "n", task_id)
        else:
            self.perform(rules.retry, "n", task_id)
            self.tasks[task_id] = task._replace(status="waiting", attempt=0, due_ms=0)

    def purge(self, status: str) -> None:
        of_status = [each for each, task in self.tasks.items() if task.status == status]
        gone = [each for each in of_status if status != "waiting" or self.tasks[each].due_ms <= self.now_ms]
        assert self.perform(rules.purge, sorted(self.tasks), _STATUSES[status], False) == len(gone)
        for task_id in gone:
            del self.tasks[task_id]

    def _attempted(self, task_id: bytes, due_ms: int) -> None:
        task = self.tasks[task_id]
        if task.attempt < task.most:
            self.tasks[task_id] = task._replace(status="waiting", due_ms=due_ms)
        else:
            self.tasks[task_id] = task._replace(status="dead")

    def check(self) -> None:
        """The records say of each task what the model says, the sets and counts fit, and nothing else is there."""
        queue = records.Queue(self.read, _KEY)
        held: dict[int, set[bytes]] = {}
        for task_id, task in self.tasks.items():
            found = queue.task(task_id)
            assert found is not None
            assert (found.status, found.attempt) == (_STATUSES[task.status], task.attempt)
            if task.status == "claimed":
                held.setdefault(found.ticket, set()).add(task_id)
        statuses = [task.status for task in self.tasks.values()]
        assert queue.counts[2:] == [statuses.count(name) for name in list(_STATUSES)[1:]]
        waiting = {each for each, task in self.tasks.items() if task.status == "waiting"}
        ready = {task_record.entry_id(entry) for entry in queue.ready.entries()}
        delayed = {task_record.entry_id(entry) for entry in queue.delayed().entries()}
        assert (ready | delayed, ready & delayed) == (waiting, set())
        assert queue.counts[:2] == [len(ready), len(delayed)]
        entries = [key for key in self.store if key.startswith(holder_index.PREFIX)]
        assert len(entries) <= len(self.claims)
        for ticket, ids in held.items():
            base, token, listed = records.decode_claim(self.store[records.claim_key(self.claims[ticket][0], ticket)])
            assert (base, token) == (_BASE, self.claims[ticket][2])
            assert ids <= set(listed)
        kinds = (records.TASK, records.BODY, records.KEY)
        assert {kind: sum(key.startswith(_BASE + kind) for key in self.store) for kind in kinds} == {
            records.TASK: len(self.tasks),
            records.BODY: sum(task.bodies for task in self.tasks.values()),
            records.KEY: sum(task.key is not None for task in self.tasks.values()),
        }
        if not self.tasks:
            assert not [key for key in self.store if key.startswith(_BASE)]


_SMALL = st.integers(0, 12)
_STEPS = st.one_of(
    st.tuples(
        st.just("put"),
        st.integers(-1, 1),
        st.sampled_from((0, 0, 5, 20)),
        st.integers(1, 3),
        st.sampled_from((None, None, b"k", b"l")),
    ),
    st.tuples(st.just("claim"), st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.just("end"), st.sampled_from(("complete", "fail", "release")), _SMALL, st.sampled_from((0, 7))),
    st.tuples(st.just("end_holder"), st.integers(1, 3)),
    st.tuples(st.just("change"), st.sampled_from(("cancel", "retry")), _SMALL),
    st.tuples(st.just("purge"), st.sampled_from(list(_STATUSES))),
    st.tuples(st.just("pass"), st.integers(1, 15)),
)


@pytest.mark.long
@settings(max_examples=present(settings.default).max_examples)
@given(st.lists(_STEPS, min_size=10, max_size=60))
def test_rules_are_those_of_a_plain_model(steps: list[tuple[Any, ...]]) -> None:
    """Order, attempts, fences, keys, counts and what is left in the store, whatever is done."""
    model = _Model()
    for name, *arguments in steps:
        if name == "pass":
            model.now_ms += arguments[0]
        else:
            getattr(model, name)(*arguments)
        model.check()


def test_what_is_put_after_a_restore_comes_behind_it() -> None:
    """Tasks of an export keep their numbers, in whichever order they are restored; later puts get higher ones."""
    model = _Model()
    for sequence in (5, 3):
        fields = [sequence, _STATUSES["waiting"], 0, 0, 1, 1000, 0, b"p", None, None, None]
        model.perform(rules.restore, "n", sequence.to_bytes(16, "big"), fields)
    model.perform(rules.put, 0, 0, 1, None, False, [bytes(16), b"p"])
    claimed = model.perform(rules.claim, "q", 1, 4711, 30_000, 1, 0, 3)
    assert [int.from_bytes(task_id, "big") for task_id, *_ in claimed] == [3, 5, 0]


def test_a_claim_that_is_undone_leaves_nothing() -> None:
    """Its tasks are ready without an attempt, and nothing says that their holder holds anything."""
    model, ids = _Model(), [number.to_bytes(16, "big") for number in range(3)]
    for task_id in ids:
        model.perform(rules.put, 0, 0, 1, None, False, [task_id, b"p"])
    claimed = model.perform(rules.claim, "q", 1, 4711, 30_000, 7, 0, 2)
    model.perform(rules.complete, "n", ids[0], 1, claimed[0][3], b"r")
    model.perform(rules.unclaim, 1, 7)
    assert not [key for key in model.store if key.startswith(holder_index.PREFIX)]
    again = model.perform(rules.claim, "q", 1, 4711, 30_000, 8, 0, 3)
    assert [(task_id, attempt) for task_id, _, attempt, _ in again] == [(ids[1], 1), (ids[2], 1)]


def test_a_ticket_is_free_once() -> None:
    """When the last task of a claim has ended, however often and by whom that is said: two claims never share one."""
    holding = SimpleNamespace(holder=1, free_tickets=[], forget=lambda ticket: None)
    together = Together(holding, 7, 40, {b"a", b"b"})
    together.end(b"a", 1)
    together.end(b"a", 1)
    assert holding.free_tickets == []
    for _ in range(3):
        together.end(b"b", 1)
    assert holding.free_tickets == [(7, 40)]
    of_parent = Together(holding, 8, 40, {b"a"})
    holding.holder = 2  # in a forked child
    of_parent.end(b"a", 1)
    assert holding.free_tickets == [(7, 40)]


@pytest.mark.long
def test_operations_leave_no_cycles() -> None:
    """All that an operation makes is freed when it ends: the coordinator's garbage collector looks at little."""
    model, ids = _Model(), [number.to_bytes(16, "big") for number in range(200)]
    gc.collect()
    gc.disable()
    try:
        for number, task_id in enumerate(ids):
            model.perform(rules.put, 0, 1 + number % 2, 2, None, False, [task_id, b"payload"])
        model.now_ms += 10
        for ticket in range(1, 1 + len(ids)):
            ((task_id, _, _, token),) = model.perform(rules.claim, "q", 1, 1, 1000, ticket, 0, 1)
            model.perform((rules.complete, rules.fail)[ticket % 2], "q", task_id, 1, token, *_ENDINGS[ticket % 2])
        for task_id in ids:
            model.perform(rules.cancel, task_id)
        with pytest.raises(NothingReadyError):
            model.perform(rules.claim, "q", 1, 1, 1000, 0, 0, 1)
        found = gc.collect()
    finally:
        gc.enable()
    assert found < len(ids) / 10  # the exception above has some


_ENDINGS = [(b"result",), ("error", 10_000)]
_GARBAGE = st.one_of(
    st.binary(max_size=80),
    st.recursive(
        st.one_of(st.none(), st.integers(-(2**63), 2**64 - 1), st.binary(max_size=20), st.text(max_size=5)),
        lambda parts: st.lists(parts, max_size=16),
        max_leaves=20,
    ).map(codec.pack),
    st.lists(st.integers(-1, 9), min_size=14, max_size=15).map(codec.pack),
)


@pytest.mark.long
@given(st.lists(_STEPS, min_size=5, max_size=20), st.lists(st.tuples(st.integers(0, 60), _GARBAGE), max_size=3))
def test_damaged_records_are_refused(steps: list[tuple[Any, ...]], damage: list[tuple[int, bytes]]) -> None:
    """Whatever stands in the records, a rule ends, and raises what is answered to a client or passed over."""
    model = _Model()
    for name, *arguments in steps:
        if name != "pass":
            getattr(model, name)(*arguments)
    ids = sorted(model.tasks) or [bytes(16)]
    entries = [key for key in model.store if key.startswith(holder_index.PREFIX)]
    for number, raw in damage:
        if model.store:
            model.store[sorted(model.store)[number % len(model.store)]] = raw
    calls: list[tuple[Any, ...]] = [(rules.claim, "q", 9, 1, 1, 99, 0, 3), (rules.purge, ids, 0, False)]
    calls += [(rules.cancel, task_id) for task_id in ids] + [(rules.retry, "n", task_id) for task_id in ids]
    calls += [(rules.complete, "n", each, task.holder, task.token, b"") for each, task in model.tasks.items()]
    calls += [(rules.put, 0, 0, 1, b"k", False, [b"z" * 16, b""])]
    for rule, *arguments in calls:
        with contextlib.suppress(ShoalError, TypeError, ValueError):
            model.perform(rule, *arguments)
    for key in entries:
        holder, held_key = holder_index.decode_key(key)
        with contextlib.suppress(ShoalError, TypeError, ValueError):
            TABLE.ended(model.read, held_key, holder, model.now_ms)

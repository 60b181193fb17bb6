"""Operations of a queue that become one commit, against the same operations one after the other."""

from __future__ import annotations

import random
from typing import Any

import pytest

from shoal.primitives.rules import registry
from shoal.primitives.rules.queues.queue_batch import QueueBatch
from shoal.primitives.rules.queues.records import QUEUE, Queue
from shoal.shm.fleet_errors import FencedError, NothingReadyError
from shoal.shm.limits import MAX_ENGINE_KEY_BYTES
from shoal.shm.operation import VersionedValue

_KEY = b"\1a\1b\1c\1r\6\0\1q" + QUEUE
_NAMES = (registry.TASK_PUT, registry.TASK_CLAIM, registry.TASK_COMPLETE)


class _Store:
    """What a queue's operations read and write."""

    def __init__(self) -> None:
        self.held: dict[bytes, bytes] = {}
        self.now_ms = 1000

    def read(self, key: bytes) -> VersionedValue | None:
        value = self.held.get(key)
        return None if value is None else VersionedValue(value, 1, 0)

    def write(self, flat: list[Any]) -> None:
        assert len(set(flat[::3])) * 3 == len(flat)
        for key, value in zip(flat[::3], flat[1::3], strict=True):
            if value is None:
                self.held.pop(key, None)
            else:
                self.held[key] = value

    def one(self, name: str, arguments: list[Any]) -> Any:
        """An operation by itself; its result, or the error that it raises."""
        try:
            decision = registry.OPERATIONS[name](self.read, self.now_ms, *arguments)
        except (FencedError, NothingReadyError) as error:
            return type(error)
        self.write([part for write in decision.writes for part in write])
        return decision.result

    def together(self, batch: QueueBatch, operations: list[tuple[str, list[Any]]]) -> list[Any]:
        """Operations as one commit, by a batch that may have been used before."""
        batch.begin(self.now_ms)
        results = [batch.decide(name, arguments) for name, arguments in operations]
        self.write(batch.writes())
        return results


def _operations(rng: random.Random, store: _Store, claimed: list[Any], count: int) -> list[tuple[str, list[Any]]]:
    """Some that may follow each other: what is claimed among them is completed by a later call."""
    made: list[tuple[str, list[Any]]] = []
    for _ in range(count):
        name = rng.choice(_NAMES) if claimed else rng.choice(_NAMES[:2])
        if name == registry.TASK_PUT:
            size = rng.choice((1, 3, 1500))
            tasks = [part for _ in range(rng.choice((1, 1, 4))) for part in (rng.randbytes(16), rng.randbytes(size))]
            user_key = rng.choice((None, b"k", b"l")) if len(tasks) == 2 else None
            made.append((name, [_KEY, rng.randint(-1, 1), rng.choice((0, 0, 40)), 2, user_key, False, tasks]))
        elif name == registry.TASK_CLAIM:
            ticket = len(store.held) << 16 | len(made)  # new ones: a ticket is used for one claim at a time
            made.append((name, [_KEY, "q", rng.randint(1, 3), 11, 1000, ticket, 0, rng.choice((1, 1, 5))]))
        else:
            holder, (task_id, _, _, token) = claimed.pop(rng.randrange(len(claimed)))
            made.append((name, [_KEY, "n", task_id, holder, token, rng.randbytes(rng.choice((1, 1100)))]))
    return made


@pytest.mark.parametrize("seed", range(40))
def test_a_batch_is_the_same_as_its_operations(seed: int) -> None:
    """Results and records are those of the operations one after the other; so is the state that a batch keeps."""
    rng = random.Random(seed)
    alone, batched, claimed = _Store(), _Store(), list[Any]()
    batch = QueueBatch(batched.read, _KEY)
    for _ in range(60):
        alone.now_ms = batched.now_ms = alone.now_ms + rng.randint(0, 30)
        operations = _operations(rng, alone, claimed, rng.randint(1, 8))
        expected = [alone.one(*each) for each in operations]
        if FencedError in expected or NothingReadyError in expected:  # the batch would be thrown away
            for each, told in zip(operations, expected, strict=True):
                assert batched.one(*each) == told
            batch = QueueBatch(batched.read, _KEY)
        else:
            assert batched.together(batch, operations) == expected
        assert batched.held == alone.held
        for (name, arguments), told in zip(operations, expected, strict=True):
            if name == registry.TASK_CLAIM and told is not NothingReadyError:
                claimed += [(arguments[2], each) for each in told]
    assert Queue(alone.read, _KEY).counts[3] > 0


@pytest.mark.parametrize(
    "arguments",
    [
        [_KEY, 0, 0, 1, None, False, [b"short", b"p"]],
        [_KEY, 0, 0, 1, None, False, [b"i" * 16, "no bytes"]],
        [_KEY, 0, 0, 1, b"k" * MAX_ENGINE_KEY_BYTES, False, [b"i" * 16, b"p"]],
        [_KEY, 0, 0, 1, None, False, [b"i" * 16, b"p"] * 2000],
        [_KEY, 1 << 63, 0, 1, None, False, [b"i" * 16, b"p"]],
        [_KEY, 0, 0.5, 1, None, False, [b"i" * 16, b"p"]],
        [_KEY, 0, 0, 1 << 40, None, False, [b"i" * 16, b"p"]],
        [_KEY, 0, 0, 1],
    ],
)
def test_what_cannot_be_stored_is_in_no_batch(arguments: list[Any]) -> None:
    """Nobody checks what a batch writes: whatever a client sends, it is refused before."""
    batch = QueueBatch(lambda _key: None, _KEY)
    batch.begin(1000)
    with pytest.raises((ValueError, TypeError)):
        batch.decide(registry.TASK_PUT, arguments)


def test_a_long_key_has_no_batch() -> None:
    """The keys of its tasks would be longer than keys may be."""
    with pytest.raises(ValueError, match="too long"):
        QueueBatch(lambda _key: None, b"k" * (MAX_ENGINE_KEY_BYTES - 2))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (registry.TASK_PUT, [_KEY, 0, 0, 1, None, False, [b"short", b"p"]]),
        (registry.TASK_PUT, [_KEY, 0, 0, 1, None, False, [b"i" * 16, b"p", b"j" * 15, b"p"]]),
        (registry.TASK_PUT, [_KEY, 0, 0, 1, None, False, [b"i" * 16, "no bytes"]]),
        (registry.TASK_CLAIM, [_KEY, "q", 1, 11, "no number", 1, 0, 1]),
        (registry.TASK_CLAIM, [_KEY, "q", 1, 11, 0.5, 1, 0, 1]),
        (registry.TASK_CLAIM, [_KEY, "q", 1, 11, None, 1, 0, 1]),
    ],
)
def test_what_would_damage_a_queue_is_refused(name: str, arguments: list[Any]) -> None:
    """Also of an operation that is decided by itself: what it wrote could not be read again."""
    store = _Store()
    store.one(registry.TASK_PUT, [_KEY, 0, 0, 1, None, False, [b"a" * 16, b"p"]])
    with pytest.raises((ValueError, TypeError)):
        store.one(name, arguments)

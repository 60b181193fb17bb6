"""The sorted sets of task queues against a sorted list: pages, and the ready set over them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.primitives.rules.queues.ordered_pages import ENTRY_BYTES, OrderedPages, Pages
from shoal.primitives.rules.queues.ready_set import INLINE, ReadySet


class _Pages:
    """Pages in a dict; how many are read and written is counted."""

    def __init__(self) -> None:
        self.kept: dict[int, bytes] = {}
        self.calls = 0
        self.last = 0
        self.set = OrderedPages(Pages(self._get, self._put, self._new), 0, 0, 0)

    def _get(self, number: int) -> bytes:
        self.calls += 1
        return self.kept[number]

    def _put(self, number: int, page: bytes | None) -> None:
        self.calls += 1
        if page is None:
            del self.kept[number]
        else:
            assert page
            assert len(page) <= 4096
            self.kept[number] = page

    def _new(self) -> int:
        self.last += 1
        return self.last


def _entry(number: int) -> bytes:
    return number.to_bytes(ENTRY_BYTES, "big")


@pytest.mark.long
@given(st.lists(st.tuples(st.sampled_from(("add", "add", "take", "remove")), st.integers(0, 300)), max_size=400))
def test_pages_are_a_sorted_set(steps: list[tuple[str, int]]) -> None:
    """Whatever is added and removed, in whatever order; nothing is left of an empty set."""
    pages, model = _Pages(), set[bytes]()
    for step, number in steps:
        entry = _entry(number)
        if step == "take":
            least = min(model, default=None)
            assert pages.set.take_least() == least
            model -= {least}
        elif step == "remove":
            assert pages.set.remove(entry) is (entry in model)
            model -= {entry}
        elif entry not in model:
            pages.set.add(entry)
            model |= {entry}
        assert pages.set.least() == min(model, default=None)
    assert list(pages.set.entries()) == sorted(model)
    for entry in sorted(model):
        assert pages.set.take_least() == entry
    assert (pages.kept, pages.set.root, pages.set.depth, pages.set.first) == ({}, 0, 0, 0)


class _Ready:
    """A ready set, with its pages in a dict."""

    def __init__(self) -> None:
        self.pages = _Pages()
        self.set = ReadySet(self._open, 0, 0, 0, b"", b"")

    def _open(self, root: int, depth: int, first: int) -> OrderedPages:
        kept = self.pages.set
        kept.root, kept.depth, kept.first = root, depth, first
        return kept

    def check(self, expected: list[int]) -> None:
        assert list(self.set.entries()) == [_entry(number) for number in expected]
        assert max(len(self.set.head), len(self.set.tail)) <= INLINE * ENTRY_BYTES
        assert bool(self.set.head) is bool(expected)
        if not expected:
            assert (self.pages.kept, self.set.root, self.set.tail) == ({}, 0, b"")


@pytest.mark.long
@pytest.mark.parametrize("order", ["rising", "falling", "random"])
def test_a_ready_set_is_a_sorted_set(order: str) -> None:
    """Whatever is added, taken and removed, at either end and in between, while it grows and while it shrinks."""
    rng = random.Random(seed := random.randrange(1 << 32))
    print("seed", seed)
    ready, model, next_one = _Ready(), set[int](), {"rising": 0, "falling": 1 << 20, "random": 0}[order]
    for grows in (0.7, 0.3, 0.9, 0.1):
        for _ in range(1500):
            if rng.random() < grows:
                next_one += 1 if order == "rising" else -1 if order == "falling" else 0
                number = next_one if order != "random" and rng.random() < 0.8 else rng.randrange(1 << 20)
                if number not in model:
                    ready.set.add(_entry(number))
                    model.add(number)
            elif rng.random() < 0.6:
                least = min(model, default=None)
                assert ready.set.take_least() == (None if least is None else _entry(least))
                model.discard(-1 if least is None else least)
            else:
                ends = sorted(model)[:1] + sorted(model)[-1:]
                number = rng.choice([*ends, *rng.sample(sorted(model), min(len(model), 3)), rng.randrange(1 << 20)])
                assert ready.set.remove(_entry(number)) is (number in model)
                model.discard(number)
            if rng.random() < 0.05:
                ready.check(sorted(model))
    for number in sorted(model):
        assert ready.set.take_least() == _entry(number)
    ready.check([])


def test_most_puts_and_claims_touch_no_page() -> None:
    """In a set of many thousands as in a small one; also where a put follows each claim."""
    ready = _Ready()
    for number in range(30_000):
        ready.set.add(_entry(number))
    ready.pages.calls = 0
    for number in range(30_000, 40_000):
        assert ready.set.take_least() == _entry(number - 30_000)
        ready.set.add(_entry(number))
    assert ready.pages.calls < 6_000  # of them, and 20,000 changes
    ready.check(list(range(10_000, 40_000)))


@pytest.mark.long
@pytest.mark.parametrize("order", ["rising", "falling", "random"])
def test_a_large_set_costs_little_more_than_a_small_one(order: str) -> None:
    """What is taken from the front costs two pages, and more for one in 24; also where that many were taken before."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    numbers = list(range(30_000))
    if order == "random":
        random.Random(seed).shuffle(numbers)
    pages = _Pages()
    for number in numbers if order != "falling" else reversed(numbers):
        pages.set.add(_entry(number))
    for _ in range(2):
        pages.calls = 0
        first = [pages.set.take_least() for _ in range(5_000)]
        assert pages.calls < 5_000 * 3
        for entry in first:
            assert entry is not None
            pages.set.add(entry)
    assert list(pages.set.entries()) == [_entry(number) for number in range(30_000)]

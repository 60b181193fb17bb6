"""Checks the arguments of control requests; ValueError, TypeError or LookupError for bad ones. Forms the answers.

    check     [number, part, position]           a slice of a check (``checks``)
    wait      [since, [[lower, upper], ...], ms]  -> [1] once a range was written after version ``since``, [0] after
                                                 ``ms``. [1] may come too early: the client looks for itself
    changes   [watch, version, after, lower, upper, ms]
                                                 -> [version, after, is lost, [[version, key, value], ...]]: what
                                                 commits changed there after a position, and the position behind that
                                                 (``presence.changes``). Without changes, after ``ms`` at most
    keep      [watch, [version]]                 -> []; what a watch may ask for after ``version`` is kept; nothing
                                                 without a version
    in_line   [[[lower, upper], ...], ms, asked] with one operation, which is decided as in any commit; while it
                                                 raises an error that ``passes`` it stays in line, ``ms`` at most. Its
                                                 place is by ``asked``: when the client asked first, perhaps another
                                                 coordinator (monotonic, in us)
    leave     []                                 with one operation: leave the line, then decide the operation
    past      [version or nil, moment or nil]     -> [generation, version, bound]: the past version that is asked for by
                                                 its number or a moment in us (``History.answer``)
    renew     []                                 -> [1] if the client's database still holds something, else [0]
    ages      [holder, ...]                      -> ms since the last sign of life of each; -1: holds nothing

A client may send anything, so nothing of a request is used before it was checked here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal.coordinator.presence.changes import Page, Watched
from shoal.coordinator.presence.waiters import KeyRange
from shoal.shm.wire.answer import ANSWERED, encode_answer
from shoal.shm.wire.request import CommitSet

LONGEST_MS = 1 << 50  # a wait for longer is for ever


def understood(arguments: Any, *readers: Callable[[Any], Any]) -> list[Any]:
    """The arguments, each as its reader understands it; ValueError or TypeError if they are no such arguments."""
    return [read(argument) for read, argument in zip(readers, arguments, strict=True)]


def understood_changes(arguments: Any) -> list[Any]:
    """What ``changes`` asks for: what to watch, and for how many ms to wait."""
    *asked, longest_ms = understood(arguments, whole, whole, raw, raw, raw, wait_ms)
    return [Watched(*asked), longest_ms]


def understood_keep(arguments: Any) -> list[Any]:
    """What ``keep`` asks for: which watch, and after which versions."""
    return understood(arguments, whole, lambda each: [whole(version) for version in each])


def understood_in_line(request: CommitSet, arguments: Any) -> list[Any]:
    """What ``in_line`` asks for, which comes with one operation: its ranges, for how many ms to wait, and its place."""
    if len(request.operations) != 1:
        raise ValueError("not one operation")
    return understood(arguments, ranges, wait_ms, whole)


def understood_past(version: Any, moment_us: Any) -> list[Any]:
    """What asks for a past version: one of a version and a moment."""
    if (version is None) == (moment_us is None):
        raise ValueError("not one of a version and a moment")
    return [None if asked is None else whole(asked) for asked in (version, moment_us)]


def whole(asked: Any) -> int:
    """A whole number from 0 on."""
    if type(asked) is not int or asked < 0:
        raise ValueError("not a number")
    return asked


def raw(asked: Any) -> bytes:
    """Bytes."""
    if type(asked) is not bytes:
        raise TypeError("not bytes")
    return asked


def ranges(asked: Any) -> list[KeyRange]:
    """Ranges of keys."""
    found = [(lower, upper) for lower, upper in asked]
    if any(type(lower) is not bytes or type(upper) is not bytes for lower, upper in found):
        raise TypeError("a range is not two keys")
    return found


def wait_ms(asked: Any) -> int:
    """For how many ms to wait."""
    return min(whole(asked), LONGEST_MS)


def answered(request: CommitSet, answer: list[Any]) -> bytes:
    """The answer to a control request."""
    return encode_answer(request.commit_id, ANSWERED, 0, answer)


def told(request: CommitSet, page: Page) -> bytes:
    """The answer to one that asks what changed."""
    return answered(request, [page.version, page.after, int(page.is_lost), page.changes])

"""Moments of a task whose holder has lost it, decided by one coordinator's engine."""

from __future__ import annotations

from typing import Any

from shoal.primitives.keys import Namespace
from shoal.primitives.rules import registry
from shoal.primitives.rules.queues.records import QUEUE
from shoal.primitives.views.fleet.tasks import base_of
from shoal.shm.wire.answer import COMMITTED, REFUSED
from tests.mutants.catching.rig import Disk, Problem, Rig, compare, request

_KEY = base_of(Namespace(), "run", "q") + QUEUE
_TASK_ID = bytes(range(16))
_TTL_MS = 1_000


def lost_claim(_seed: int) -> list[Problem]:
    """A task that was released and claimed by another is completed, failed and used as a fence by that one alone."""
    rig = Rig(Disk())
    _ask(rig, 1, registry.TASK_PUT, 0, 0, 5, None, True, [_TASK_ID, b"\x01"])
    (first,) = _ask(rig, 1, registry.TASK_CLAIM, "q", 1, 11, _TTL_MS, 101, 0, 1)[1]
    _ask(rig, 1, registry.TASK_UNCLAIM, 1, 101)
    late = [_ask(rig, 1, name, "t", _TASK_ID, 1, first[3], *more)[0] for name, *more in _ENDINGS]
    problems = compare("fenced", late, [REFUSED] * len(late), "what was said of a task that was lost")
    if problems:
        return problems
    (second,) = _ask(rig, 2, registry.TASK_CLAIM, "q", 2, 22, _TTL_MS, 202, 0, 1)[1]
    late = [_ask(rig, 1, name, "t", _TASK_ID, 1, first[3], *more)[0] for name, *more in _ENDINGS]
    problems = compare("fenced", late, [REFUSED] * len(late), "what was said of a task that another had")
    problems += compare("fences rise", second[3] > first[3], True, f"the second token {second[3]} above {first[3]}")
    own = _ask(rig, 2, registry.TASK_COMPLETE, "t", _TASK_ID, 2, second[3], b"\x02")[0]
    return problems + compare("claimed once", own, COMMITTED, "the completion by who has it")


_ENDINGS: list[tuple[Any, ...]] = [
    (registry.TASK_FENCE,),
    (registry.TASK_FAIL, "no", 0),
    (registry.TASK_RELEASE,),
    (registry.TASK_COMPLETE, b"\x02"),
]
_sent = iter(range(1, 1 << 30))


def _ask(rig: Rig, client: int, name: str, *arguments: Any) -> tuple[int, Any]:
    """Status and result of one operation on the queue."""
    ((_, status, _, results),) = rig.submit((client, request(next(_sent), operations=[[name, [_KEY, *arguments]]])))
    return status, results[0] if status == COMMITTED and results else None

"""The audit of what processes of a fleet did with each other in a window that they have left."""

from __future__ import annotations

import time
from collections import Counter, defaultdict

import shoal
from shoal import TaskStatus
from shoal.primitives.views.fleet.positions import position_key, read_position
from tests.soak.auditing.breach import DOUBLED, LEFT_BEHIND, LOST, WRONG, Breach, Done
from tests.soak.ledger import Operation
from tests.soak.workload import names

_TRIMMED_WITHIN_S = 120.0  # the coordinator looks once a minute
_LOOK_EVERY_S = 0.1


def fleet_breaches(db: shoal.Database, run: str, by_kind: dict[str, list[Operation]]) -> list[Breach]:
    """Everything that is not as it was acknowledged. Nobody works in ``run`` any more.

    Something may still be held: what a process held that died while there was no coordinator ends with its ttl, which
    begins anew with each coordinator. That it does end is seen when the soak is over.
    """
    done: dict[str, Done] = defaultdict(lambda: Done([]), {kind: Done(each) for kind, each in by_kind.items()})
    return [
        *_tasks(db, run, done["task"], done["effect"]),
        *_turns(db, run, done["turn"]),
        *_budget(db, run),
        *_consumed(db, run, done["consume"]),
    ]


def _tasks(db: shoal.Database, run: str, put: Done, effects: Done) -> list[Breach]:
    """A task that was put is there; one that is done has had its effect once, and any other one had none."""
    tasks = {task.id: task.status for task in shoal.TaskQueue(db).list(run, names.QUEUE)}
    counts = {key.removeprefix(names.EFFECTS): n for key, n in shoal.KVStore(db).list_with_values(run, names.EFFECTS)}
    found = [Breach(LOST, f"task {o.result} was put and is not there") for o in put.told if o.result not in tasks]
    if len(tasks) > len(put.told) + len(put.open):
        found.append(Breach(DOUBLED, f"{len(tasks)} tasks of {len(put.told)} that were put (+{len(put.open)} untold)"))
    for task_id, status in tasks.items():
        count = counts.pop(task_id, 0)
        if count > 1:
            found.append(Breach(DOUBLED, f"task {task_id} took effect {count} times"))
        if (status is TaskStatus.Done) != (count > 0):
            found.append(Breach(WRONG, f"task {task_id} is {status} and took effect {count} times"))
    undone = {o.what for o in effects.told if tasks.get(o.what) is not TaskStatus.Done}
    found += [Breach(LOST, f"task {each} was completed and is not done") for each in undone]
    return found + [Breach(WRONG, f"an effect of task {each}, which is not there") for each in counts]


def _turns(db: shoal.Database, run: str, turns: Done) -> list[Breach]:
    """Each turn had a token of its own; the last is the highest; each was counted once."""
    kv = shoal.KVStore(db)
    last, count = kv.get(run, names.LAST_TOKEN, 0), kv.get(run, names.TURNS, 0)
    told = Counter(o.what for o in turns.told)
    found = [Breach(DOUBLED, f"token {token} was given {n} times") for token, n in told.items() if n > 1]
    if told and last < max(told):
        found.append(Breach(LOST, f"the last token is {last}, and there was a turn with {max(told)}"))
    if not len(turns.told) <= count <= len(turns.told) + len(turns.open):
        kind = LOST if count < len(turns.told) else DOUBLED
        found.append(Breach(kind, f"{count} turns of {len(turns.told)} (+{len(turns.open)} untold)"))
    return found


def _budget(db: shoal.Database, run: str) -> list[Breach]:
    """Never more was reserved than the limit, and all of it was settled for nothing, or refunded."""
    state = shoal.Budget(db).read(run, names.BUDGET)
    is_right = state.used == 0 and state.reserved <= names.BUDGET_LIMIT
    return [] if is_right else [Breach(WRONG, f"the budget is {state}")]


def _consumed(db: shoal.Database, run: str, consumed: Done) -> list[Breach]:
    """Each event that the consumer is done with had its effect once."""
    count = shoal.KVStore(db).get(run, names.CONSUMED, 0)
    key = position_key(shoal.Namespace(), run, names.CONSUMER)
    position = read_position(db._store.auto_commit, key)  # whoever holds the name
    found = []
    if count != position:
        kind = LOST if count < position else DOUBLED
        found.append(Breach(kind, f"{position} events were consumed, with {count} effects"))
    told = [o.what for o in consumed.told]
    if told and position <= max(told):
        found.append(Breach(LOST, f"event {max(told)} was consumed, and the consumer is at {position}"))
    return found


def trimmed(db: shoal.Database, within_s: float = _TRIMMED_WITHIN_S) -> list[Breach]:
    """The log of all windows, to which nobody appends any more, is trimmed to what its policy keeps, and is whole."""
    log, until_s = shoal.EventLog(db), time.monotonic() + within_s
    while (kept := log.len(names.ROLLING) - log.first_sequence(names.ROLLING)) > names.ROLLING_EVENTS:
        if time.monotonic() > until_s:
            return [Breach(LEFT_BEHIND, f"{kept} events of {names.ROLLING_EVENTS} are kept after {within_s:g} s")]
        time.sleep(_LOOK_EVERY_S)
    chain = log.verify_chain(names.ROLLING)
    return [] if chain.is_valid else [Breach(WRONG, f"the trimmed log: {chain}")]

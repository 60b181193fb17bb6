"""The audit of effects outside the store (``workload.effects``): once each, and doubt told exactly when there is one.

A call whose worker was killed may have left an intent; so may one that lost its lease, as it was stopped for too long.
These are the sources of doubt. Whatever was begun by one of them is not begun again by anybody who did not ask for
that, and without one nobody is told of a doubt. The truth of what took place is in the ledgers, not in the store.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import shoal
from shoal.primitives.facades.fleet import idempotency
from shoal.shm import codec
from tests.soak.auditing.breach import DOUBLED, LOST, WRONG, Breach
from tests.soak.ledger import Operation
from tests.soak.workload import names
from tests.soak.workload.effects import ACT, DOUBT, FENCED, FIND_OUT, FOUND_OUT, RETRY

_LAPSED_S = names.LEASE_TTL_S / 2  # who takes so long for an effect was stopped, and may have lost its lease


class Effect(NamedTuple):
    """Everything that was done about one effect: ``acts`` are the calls of its function, in order."""

    key: str
    calls: list[Operation]
    acts: list[Operation]

    def call_of(self, act: Operation) -> Operation:
        """The call of ``once`` that ran the function."""
        return next(call for call in self.calls if (call.who, call.number) == (act.who, act.number))

    def results(self) -> list[Any]:
        """What was told as its result, each once."""
        return [
            told for told, _ in itertools.groupby(sorted(call.result for call in self.calls if call.outcome == "a"))
        ]

    def has_lapsed(self, call: Operation) -> bool:
        """Whether the call came back, and may have lost its lease while it ran the function."""
        runs = [act for act in self.acts if call.outcome and self.call_of(act) is call]
        return any(call.end - act.start > _LAPSED_S for act in runs)

    def is_source(self, call: Operation) -> bool:
        """Whether the call may have left the effect in doubt."""
        return not call.outcome or _refusal(call) == FENCED or self.has_lapsed(call)

    def doubts(self) -> list[Operation]:
        """The calls that the store told of a doubt: by an error, or because it let them do something about it."""
        found = [call for call in self.calls if _refusal(call) == DOUBT]
        found += [call for call in self.calls if call.result == [FOUND_OUT, call.who, call.number]]
        return found


def effects(by_kind: dict[str, list[Operation]]) -> list[Effect]:
    """The effects of a window."""
    calls, acts = defaultdict(list), defaultdict(list)
    for call in by_kind["once"]:
        calls[call.what[0]].append(call)
    for act in sorted(by_kind["act"], key=lambda act: act.start):
        acts[act.what].append(act)
    return [Effect(key, calls[key], acts[key]) for key in calls]


def effect_breaches(db: shoal.Database, run: str, by_kind: dict[str, list[Operation]]) -> list[Breach]:
    """Everything that is not as it was told, or told as it is not."""
    engine = db._store.auto_commit
    records = {each.key: each.record for each in idempotency.effects(engine, shoal.Namespace(), run)}
    found = [
        Breach(kind, f"effect {effect.key}: {what}")
        for effect in effects(by_kind)
        for kind, what in itertools.chain(
            _runs(effect), _results(effect), _doubts(effect), _record(effect, records.pop(effect.key, None))
        )
    ]
    return found + [Breach(WRONG, f"effect {key} is recorded, and nobody asked for it") for key in records]


def _runs(effect: Effect) -> Iterator[tuple[str, str]]:
    """After a run that may have had its effect, nobody runs it but who was asked to do so in doubt."""
    for earlier, later in itertools.combinations(effect.acts, 2):
        if earlier.outcome == "f":
            continue
        first, second = effect.call_of(earlier), effect.call_of(later)
        if second.what[1] != RETRY:
            yield DOUBLED, f"{later.who} ran it after {earlier.who}, and was not asked to run it in doubt"
        elif not effect.is_source(first):
            yield DOUBLED, f"{later.who} ran it again, though {earlier.who} was told {first.result}"


def _results(effect: Effect) -> Iterator[tuple[str, str]]:
    """All are told one result, which says who had the effect, or who found it out."""
    results = effect.results()
    if len(results) > 1:
        yield WRONG, f"was told as {results}"
    for name, who, number in results:
        if name == ACT and not any((a.who, a.number, a.outcome) == (who, number, "a") for a in effect.acts):
            yield WRONG, f"its result is of call {number} of {who}, in which it did not take place"
        if name == FOUND_OUT and not any(
            (call.who, call.number, call.what[1]) == (who, number, FIND_OUT) for call in effect.calls
        ):
            yield WRONG, f"its result was found out by call {number} of {who}, which was not to do so"


def _doubts(effect: Effect) -> Iterator[tuple[str, str]]:
    """There is no doubt unless somebody left it, it began at one time, and it ends with a result."""
    for doubt in effect.doubts():
        if not any(effect.is_source(call) and call is not doubt and call.start < doubt.end for call in effect.calls):
            yield WRONG, f"call {doubt.number} of {doubt.who} was told of a doubt that nobody left"
        if any(call.outcome == "a" and call.end < doubt.start for call in effect.calls):
            yield WRONG, f"call {doubt.number} of {doubt.who} was told of a doubt after a result was told"
    began = {call.result[1] for call in effect.calls if _refusal(call) == DOUBT}
    if len(began) > 1 and not any(effect.has_lapsed(call) for call in effect.calls):
        yield WRONG, f"the doubt began at {sorted(began)}"


def _record(effect: Effect, record: idempotency.EffectRecord | None) -> Iterator[tuple[str, str]]:
    """The store says what was told, knows of whatever took place, and keeps a doubt that somebody left."""
    recorded = None if record is None or record.result is None else codec.decode(record.result)
    for told in effect.results():
        if told != recorded:
            yield LOST, f"was told as {told}, and is recorded as {recorded}"
    if record is None and any(act.outcome == "a" for act in effect.acts):
        yield LOST, "it took place, and nothing is recorded"
    if record is not None and recorded is None and not any(map(effect.is_source, effect.calls)):
        yield WRONG, "it is in doubt, and nobody left it so"


def _refusal(call: Operation) -> str | None:
    return call.result[0] if call.outcome == "f" else None

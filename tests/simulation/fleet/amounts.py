"""Checks of budgets, of what takes place once, of pipelines, and of what retention takes away."""

from __future__ import annotations

from typing import Any, NamedTuple

from shoal.primitives.keys import Tag
from shoal.primitives.rules.budget_rules import BUDGET, RESERVATION, UNITS, decode_record
from shoal.primitives.rules.event_rules import decode_metadata
from shoal.primitives.rules.trim_rules import decode_beginning
from shoal.shm import codec, holder_index
from tests.simulation.client import RUN_PREFIX
from tests.simulation.fleet.facts import KV, PREFIX, UNKNOWN, Fact
from tests.simulation.fleet.replay import Commit, State
from tests.simulation.truth import Problem

_BUDGETS = PREFIX + bytes((Tag.BUDGET,)) + BUDGET
_RESERVATIONS = PREFIX + bytes((Tag.BUDGET,)) + RESERVATION
_KEYED = PREFIX + bytes((Tag.IDEMPOTENCY, 0))
_ONCE = PREFIX + bytes((Tag.IDEMPOTENCY, 1))
_POSITION = RUN_PREFIX + bytes((Tag.CONSUMER, 0)) + b"consumer"
_METADATA, _BEGINNING = (PREFIX + bytes((Tag.EVENT, kind)) for kind in (0, 3))


class _Settlement(NamedTuple):
    """A client settled what it, ``holder``, had reserved."""

    fact: Fact
    name: str
    amount: int
    holder: int
    used: int

    def reserved(self) -> list[int]:
        """What the record of the reservation says."""
        return [self.amount * UNITS, self.holder]


class Budgets:
    """Reserved is the sum of the reservations, given within the limit; used is what was settled, less the refill."""

    def __init__(self, facts: list[Fact], done: dict[tuple[int, int], int]) -> None:
        self.problems: list[Problem] = []
        settled = [_Settlement(fact, *fact.about) for fact in facts if fact.kind == "settled"]
        self._done: dict[int, list[_Settlement]] = {}  # by the version that has its commit
        for each in settled:
            if each.fact.commit in done:
                self._done.setdefault(done[each.fact.commit], []).append(each)
        # Perhaps another commit than the one that its client saw sent: that of the thread which makes up for it.
        self._unsure = [each for each in settled if each.fact.commit not in done and each.fact.outcome == UNKNOWN]

    def see(self, commit: Commit, state: State) -> None:
        names = [key for key in commit.changed if key.startswith(_BUDGETS)]
        own = {key: change for key, change in commit.changed.items() if key.startswith(_RESERVATIONS)}
        if own and not names:
            self._say(commit, f"reservations changed without their budget: {own}")
        for key in names:
            after = commit.changed[key][1]
            assert after is not None
            mine = _RESERVATIONS + len(key[len(_BUDGETS) :]).to_bytes(2, "big") + key[len(_BUDGETS) :]
            changed = {each: change for each, change in own.items() if each.startswith(mine)}
            self._amounts(commit, state, key, decode_record(after), mine, changed)

    def _amounts(
        self, commit: Commit, state: State, key: bytes, after: Any, mine: bytes, own: dict[bytes, Any]
    ) -> None:
        reservations = {each: value for each, value in state.items() if each.startswith(mine)}
        for each, (_, value) in own.items():
            if value is None:
                reservations.pop(each, None)
            else:
                reservations[each] = value
        amounts = {each: codec.unpackb(value) for each, value in reservations.items()}
        if after.reserved != sum(amount for amount, _ in amounts.values()):
            self._say(commit, f"{after} has {amounts}")
        for each, (_, holder) in amounts.items():
            entry = holder_index.entry_key(holder, each)
            if (commit.changed[entry][1] if entry in commit.changed else state.get(entry)) is None:
                self._say(commit, f"{each!r} has no entry")
        if any(value is not None for _, value in own.values()) and after.available < 0:
            self._say(commit, f"{after} is passed by a reservation")
        if key not in state:
            return
        before = decode_record(state[key])
        if not max(commit.submitted_ms, before.refilled_at) <= after.refilled_at <= commit.logged_ms:
            self._say(commit, f"{after} was refilled at another time than {commit.submitted_ms} to {commit.logged_ms}")
        spent = after.used - before.at(after.refilled_at).used
        ended = [codec.unpackb(before) for before, value in own.values() if before is not None and value is None]
        self._spent(commit, key[len(_BUDGETS) :].decode(), spent, ended)

    def _spent(self, commit: Commit, name: str, spent: int, ended: list[list[int]]) -> None:
        """What was used is that of the settlements in this commit, which end no reservation but their own.

        ``ended``: amount and holder of each. A reservation may be gone before: its process did not answer.
        """
        settled = [each for each in self._done.get(commit.version, []) if each.name == name]
        if not settled and spent and not commit.is_own:
            fits = [each for each in self._unsure if (each.name, each.used * UNITS) == (name, spent)]
            settled = [each for each in fits if not ended or each.reserved() in ended][:1]
            self._unsure = [each for each in self._unsure if each not in settled]
        own = [each.reserved() for each in settled]
        is_alone = 0 < len(settled) == len(commit.ids)  # no refund of another in the same group of operations
        if spent != sum(each.used for each in settled) * UNITS or (is_alone and any(each not in own for each in ended)):
            self._say(commit, f"{spent / UNITS} was spent, by {settled}, and {ended} ended")

    def _say(self, commit: Commit, text: str) -> None:
        self.problems.append(("budgets", f"at {commit.version}: {text:.300}"))


class Once:
    """What has an idempotency key, a pipeline or a consumer is done once, and with what remembers that."""

    def __init__(self, facts: list[Fact], cuts: dict[int, int]) -> None:
        self.problems: list[Problem] = []
        self._facts = facts
        self._cuts = cuts
        self._versions: dict[bytes, int] = {}  # of what a pipeline did

    def see(self, commit: Commit, state: State) -> None:
        for key, (before, after) in commit.changed.items():
            if key.startswith((KV + b"i/", KV + b"n/", KV + b"p/")):
                self._counted(commit, key[len(KV) :], before, after)
            elif key.startswith(_KEYED) and KV + b"i/" + key[len(_KEYED) :] not in commit.changed:
                self._say("idempotency", commit, f"{key!r} was remembered without its effect")
            elif key.startswith(_ONCE) and before is not None and codec.unpackb(before)[2] is not None:
                self._say("once", commit, f"{key!r} was {before!r} and is {after!r}")

    def _counted(self, commit: Commit, name: bytes, before: bytes | None, after: bytes | None) -> None:
        if before is not None or after is None or codec.decode(after) != 1:
            self._say("once", commit, f"{name!r} was {before!r} and is {after!r}")
        if name.startswith(b"i/") and _KEYED + name[2:] not in commit.changed:
            self._say("idempotency", commit, f"{name!r} was done and is not remembered")
        if name.startswith(b"n/"):
            position = commit.changed.get(_POSITION, (None, None))[1]
            if position is None or codec.unpackb(position) != int(name[2:]) + 1:
                self._say("consumer", commit, f"{name!r} was done, and the position is {position!r}")
        self._versions[name] = commit.version

    def finish(self, state: State) -> None:
        """What clients were told, against what is there."""
        for fact in self._facts:
            last = self._cuts.get(fact.boot)
            if fact.kind == "keyed" and fact.seen and last is None:
                raw = state.get(_KEYED + fact.about[0].encode())
                if raw is None or codec.decode(raw) != fact.seen[0]:
                    self.problems.append(("idempotency", f"{fact}, and remembered is {raw!r}"))
            elif fact.kind == "once" and last is None:
                raw = state.get(_ONCE + fact.about[0].encode())
                stored = None if raw is None else codec.unpackb(raw)[2]
                if stored is None or codec.decode(stored) != fact.about[1]:
                    self.problems.append(("once", f"{fact}, and recorded is {raw!r}"))
            elif fact.kind == "pipelined":
                versions = [self._versions.get(key.encode(), 0) for key in fact.about[0]]
                there = [version for version in versions if version]
                if there != sorted(there):
                    self.problems.append(("pipeline", f"{fact} is done at {versions}"))
                for version, told in zip(versions, fact.seen, strict=False):
                    if told is not None and (told != 1 or not version) and last is None:
                        self.problems.append(("pipeline", f"{fact} is done at {versions}"))
        self._called()

    def _called(self) -> None:
        """An effect that nobody may run again was run once."""
        for key in ("x", "y"):
            calls = [fact for fact in self._facts if fact.kind == "called" and fact.about[0] == key]
            if len(calls) > 1 and all(fact.boot == calls[0].boot for fact in calls):
                self.problems.append(("once", f"{calls} are calls of an effect in doubt"))

    def _say(self, oracle: str, commit: Commit, text: str) -> None:
        self.problems.append((oracle, f"at {commit.version}: {text:.300}"))


class Retention:
    """The coordinator trims no event that a policy keeps, and a client none that it did not ask for."""

    def __init__(self, facts: list[Fact]) -> None:
        self.problems: list[Problem] = []
        self._kept = [fact.about[0] for fact in facts if fact.kind == "retained" and fact.about[0] is not None]
        self._asked = [fact.about[0] for fact in facts if fact.kind == "trimmed"]

    def see(self, commit: Commit, state: State) -> None:
        raw = commit.changed.get(_BEGINNING, (None, None))[1]
        if raw is None:
            return
        begins = decode_beginning(raw).sequence
        metadata = commit.changed[_METADATA][1] if _METADATA in commit.changed else state.get(_METADATA)
        ends = decode_metadata(metadata).next_sequence
        if commit.is_own:
            is_kept = bool(self._kept) and begins <= ends - min(self._kept)
        else:
            is_kept = bool(self._asked) and begins <= min(ends, max(self._asked))
        if not is_kept or begins <= decode_beginning(state.get(_BEGINNING)).sequence:
            text = f"a log of {ends} events begins at {begins}; asked was for {self._asked}, kept are {self._kept}"
            self.problems.append(("retention", f"at {commit.version}: {text}"))

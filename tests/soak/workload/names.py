"""What a window's keys are called and what is in them: workers write by it, the audit reads by it."""

from __future__ import annotations

UNIQUE, EXPIRING, LEFT, RIGHT, LISTS = "unique/", "expiring/", "left/", "right/", "list/"
SUM, SHARED, COUNTER, PAIRS_CELL = "sum", "shared", "counter", "pairs/"
QUEUE, LEASE, BUDGET, CONSUMER = "work", "turn", "few", "reader"
EFFECTS, LAST_TOKEN, TURNS, CONSUMED = "effect/", "last token", "turns", "consumed"
BUDGET_LIMIT = 3
# Of what is watched: the version from which on, what the auditor writes after all else, the name of a consumer.
SINCE, END, WATCHING = "since", "end", "watching"
# One run outlives all windows: its log is trimmed while all append to it.
ROLLING, ROLLING_EVENTS = "rolling", 2_000
LONGEST_TTL_S = 0.8
# Lists grow until all turn to the next few: a history is checked by what its reads saw, and short lists are read fast.
LIST_LIFE_S, LISTS_AT_A_TIME = 0.5, 4
# All ask for the same few effects at a time, so that those who wait ask for each again, and those who come late.
EFFECT_LIFE_S, EFFECTS_AT_A_TIME = 2.0, 3
LEASE_TTL_S = 4.0  # of who is at an effect, or a consumer that watches: longer than anybody is stopped


def run_of(window: int) -> str:
    """The run of a window."""
    return f"window-{window}"


def unique(who: str, number: int) -> str:
    """A key that is put once."""
    return f"{UNIQUE}{who}/{number}"


def content(who: str, number: int, size: int) -> int | str:
    """What is put there: the number, or so many characters that nothing else has."""
    if not size:
        return number
    piece = f"{who}.{number}/"
    return (piece * (size // len(piece) + 1))[:size]


def trace(who: str, number: int) -> str:
    """The id of a trace."""
    return f"trace-{who}-{number}"


def list_key(at: int, which: int) -> str:
    """One of the lists that all append to at a time."""
    return f"{LISTS}{at}/{which}"


def effect_key(at: int, which: int) -> str:
    """One of the effects outside the store that all ask for at a time."""
    return f"outside/{at}/{which}"


def child(run: str, who: str, number: int) -> str:
    """A run below a window's."""
    return f"{run}/{who}/{number}"


def fork(run: str, who: str, number: int) -> str:
    """A fork of that."""
    return f"{child(run, who, number)}/fork"


def scratch(run: str, who: str) -> str:
    """A run that its worker clears again."""
    return f"{run}/{who}/scratch"

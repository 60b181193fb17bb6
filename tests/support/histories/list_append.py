"""A checker for list-append histories, after Elle (Kingsbury and Alvaro, VLDB 2020). It knows nothing of shoal.

All it sees are transactions as their clients saw them: appends of elements that are unique per key, and reads of whole
lists. As lists only grow, the longest read of a key is the order of its versions, and from that follows who depends on
whom: ww (appended after), wr (read what was appended), rw (read before it was appended). A process's own order and real
time are added. A cycle is an anomaly, named after Adya by the dependencies in it:

    G0         ww only: writes of two transactions are interleaved
    G1a, G1b   read of an aborted transaction's append; of one that its transaction followed up
    G1c        ww and wr: each saw the other
    G-single   exactly one rw: read skew, lost update
    G2         several rw: write skew
    ...-process, ...-realtime   the cycle needs the order of a process, or of real time, to be one

One anomaly is told for each knot of transactions that depend on each other in a circle: the gravest, and of its cycles
the shortest.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import Literal, NamedTuple

from tests.support.histories.dependency_graph import DependencyGraph as Graph

Element = Hashable
Status = Literal["committed", "aborted", "unknown"]
WW, WR, RW, PROCESS, REALTIME = "ww", "wr", "rw", "process", "realtime"
# Each search looks for a cycle with an edge of the first kinds that is closed by a path over the second kinds.
_CYCLES = (("G0", (WW,), (WW,)), ("G1c", (WR,), (WW, WR)), ("G-single", (RW,), (WW, WR)), ("G2", (RW,), (WW, WR, RW)))
_ORDERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("", ()),
    ("-process", (PROCESS,)),
    ("-realtime", (PROCESS, REALTIME)),
)
# Edges of one knot that are tried for the shortest cycle: a broken history is one knot of thousands.
_MOST_TRIED = 200
_LONGEST_SHOWN = 12


class Operation(NamedTuple):
    """``append``: ``value`` is the element; ``read``: the list that was seen."""

    name: Literal["append", "read"]
    key: str
    value: Element | list[Element]


class ListTransaction(NamedTuple):
    """One transaction as its client saw it; ``unknown``: the client never learned whether it committed."""

    process: str
    status: Status
    invoke: float
    complete: float
    operations: list[Operation]


class Anomaly(NamedTuple):
    """What is wrong, and the transactions that show it."""

    name: str
    text: str


def anomalies(transactions: Sequence[ListTransaction]) -> list[Anomaly]:
    """Every way found in which the history is not strictly serializable; empty if none was."""
    history = _History(transactions)
    return [*history.problems, *_cycles(history, _dependencies(history))]


class _Read(NamedTuple):
    """One list as a transaction saw it, its own appends cut off."""

    reader: int
    key: str
    seen: list[Element]


class _History:
    """What the transactions say before any dependency is followed."""

    def __init__(self, transactions: Sequence[ListTransaction]) -> None:
        self.transactions = transactions
        self.problems: list[Anomaly] = []
        self._told: set[tuple[str, str, Element]] = set()
        self.appender: dict[tuple[str, Element], int] = {}
        self.appends: dict[int, dict[str, list[Element]]] = defaultdict(lambda: defaultdict(list))
        for number, transaction in enumerate(transactions):
            for name, key, value in transaction.operations:
                if name == "append":
                    assert not isinstance(value, list)
                    if self.appender.setdefault((key, value), number) != number or value in self.appends[number][key]:
                        raise ValueError(f"{value!r} is appended to {key!r} twice: elements must be unique per key")
                    self.appends[number][key].append(value)
        self.reads = list(self._external_reads())
        observed = {self.appender.get((read.key, element)) for read in self.reads for element in read.seen}
        # Who never learned its outcome has committed if anyone saw it.
        self.committed = {
            number
            for number, transaction in enumerate(transactions)
            if transaction.status == "committed" or (transaction.status == "unknown" and number in observed)
        }
        self.versions = self._version_orders()
        self._judge_reads()
        self._judge_lost()

    def _say(self, name: str, key: str, element: Element, text: str, *numbers: int) -> None:
        """Report what needs no cycle to be wrong, once for each element."""
        if (name, key, element) in self._told:
            return
        self._told.add((name, key, element))
        self.problems.append(Anomaly(name, "\n".join((text, *(self.show(number) for number in numbers)))))

    def show(self, number: int) -> str:
        """A transaction in one line."""
        process, status, invoke, complete, operations = self.transactions[number]
        steps = ", ".join(f"{name} {key} {_shown(value)}" for name, key, value in operations)
        return f"  T{number} = {process} {status} at {invoke:.6f}..{complete:.6f}: {steps}"

    def _external_reads(self) -> Iterator[_Read]:
        """The first list of each key that a committed transaction saw; what it saw of its own is judged at once."""
        for number, transaction in enumerate(self.transactions):
            if transaction.status != "committed":
                continue
            known: dict[str, list[Element]] = {}
            own: dict[str, list[Element]] = defaultdict(list)
            for name, key, value in transaction.operations:
                if name == "append":
                    assert not isinstance(value, list)
                    own[key].append(value)
                    continue
                assert isinstance(value, list)
                before = value[: len(value) - len(own[key])]
                if value[len(before) :] != own[key] or known.setdefault(key, before) != before:
                    expected = _shown(known.get(key, []) + own[key])
                    text = f"T{number} read {key} as {_shown(value)}, by what it had seen and done it was {expected}"
                    self._say("internal", key, number, text, number)
                    known.setdefault(key, [])
            for key, seen in known.items():
                yield _Read(number, key, seen)

    def _version_orders(self) -> dict[str, list[Element]]:
        """The longest read of each key that holds no element twice; all others must be its beginnings."""
        longest: dict[str, _Read] = {}
        for read in self.reads:
            if len(set(read.seen)) < len(read.seen):
                twice = next(element for element in read.seen if read.seen.count(element) > 1)
                text = f"{twice!r} stands in {read.key} more than once: {_shown(read.seen)}"
                self._say("duplicate-elements", read.key, twice, text, read.reader)
            elif read.key not in longest or len(read.seen) > len(longest[read.key].seen):
                longest[read.key] = read
        for read in self.reads:
            best = longest.get(read.key)
            if best is not None and best.seen[: len(read.seen)] != read.seen and len(set(read.seen)) == len(read.seen):
                text = f"{read.key} was read as {_shown(read.seen)} and as {_shown(best.seen)}"
                self._say("incompatible-order", read.key, best.reader, text, read.reader, best.reader)
        for read in longest.values():
            self._judge_own_order(read)
        return {key: read.seen for key, read in longest.items()}

    def _judge_own_order(self, read: _Read) -> None:
        """A transaction's own appends must stand in the order it made them."""
        places = {element: place for place, element in enumerate(read.seen)}
        for number in {self.appender.get((read.key, element), read.reader) for element in read.seen}:
            own = [element for element in self.appends[number][read.key] if element in places]
            if any(places[first] > places[second] for first, second in itertools.pairwise(own)):
                text = f"T{number} appended {_shown(own)} to {read.key}, which was read as {_shown(read.seen)}"
                self._say("incompatible-order", read.key, read.reader, text, number, read.reader)

    def _judge_reads(self) -> None:
        for reader, key, seen in self.reads:
            for element in seen:
                number = self.appender.get((key, element))
                if number is None:
                    self._say("unknown-element", key, element, f"{key} had {element!r}, which nobody appended", reader)
                elif number == reader:
                    text = f"T{reader} read {element!r} in {key} beside, or before, its own append of it"
                    self._say("internal", key, reader, text, reader)
                elif self.transactions[number].status == "aborted":
                    text = f"T{reader} read {element!r} in {key}, which T{number} appended and did not commit"
                    self._say("G1a", key, element, text, reader, number)
            last = self.appender.get((key, seen[-1])) if seen else None
            if last is not None and last != reader and self.appends[last][key][-1] != seen[-1]:
                text = f"T{reader} read {key} up to {seen[-1]!r}, after which T{last} appended more"
                self._say("G1b", key, seen[-1], text, reader, last)

    def _judge_lost(self) -> None:
        """A committed element must be in every list whose reading began after its transaction had ended."""
        last_read: dict[str, _Read] = {}
        for read in self.reads:
            best = last_read.get(read.key)
            if best is None or self._invoke(read) > self._invoke(best):
                last_read[read.key] = read
        seen = {(key, element) for key, elements in self.versions.items() for element in elements}
        for (key, element), number in self.appender.items():
            transaction = self.transactions[number]
            read = last_read.get(key, _Read(number, key, []))
            if transaction.status != "committed" or (key, element) in seen:
                continue
            if transaction.complete < self._invoke(read):
                text = f"T{number} committed {element!r} to {key}, and nobody ever read it, not even later"
                self._say("lost-element", key, element, text, number, read.reader)

    def _invoke(self, read: _Read) -> float:
        return self.transactions[read.reader].invoke


def _dependencies(history: _History) -> Graph:
    graph = Graph()
    committed = history.committed
    unseen: dict[str, list[tuple[Element, int]]] = defaultdict(list)  # whatever their order: after all that was seen
    for number in sorted(committed):
        for key, elements in history.appends[number].items():
            seen = set(history.versions.get(key, ()))
            unseen[key] += [(element, number) for element in elements if element not in seen]
    order: dict[str, list[tuple[Element, int | None]]] = {}
    for key, elements in history.versions.items():
        order[key] = [(element, history.appender.get((key, element))) for element in elements]
        for (before, first), (after, second) in itertools.pairwise(order[key]):
            if first is not None and second is not None and {first, second} <= committed:
                graph.add(WW, first, second, f"appended {before!r} to {key}, and after it {after!r} was")
        if order[key] and order[key][-1][1] in committed:
            for element, number in unseen[key]:
                last, appender = order[key][-1]
                assert appender is not None
                graph.add(WW, appender, number, f"appended {last!r} to {key}, and later {element!r} was")
    for reader, key, found in history.reads:
        if order.get(key, [])[: len(found)] != [(element, history.appender.get((key, element))) for element in found]:
            continue  # reported already, and of no version
        appender = history.appender.get((key, found[-1])) if found else None
        if appender is not None and appender in committed:
            graph.add(WR, appender, reader, f"appended {found[-1]!r} to {key}, which was read")
        following = order[key][len(found) : len(found) + 1] if key in order else []
        for element, writer in following or unseen[key]:
            if writer is not None and writer in committed:
                graph.add(RW, reader, writer, f"read {key} as {_shown(found)}, then {element!r} was appended")
    _add_orders(history, graph)
    return graph


def _add_orders(history: _History, graph: Graph) -> None:
    """The order of each process, and of real time: only from those that ended last before a transaction began."""
    transactions = history.transactions
    last: dict[str, int] = {}
    for number in sorted(history.committed, key=lambda n: transactions[n].invoke):
        process = transactions[number].process
        if process in last:
            graph.add(PROCESS, last[process], number, f"{process} did one after the other")
        last[process] = number
    moments: list[tuple[float, int, int]] = []
    for number in history.committed:
        moments.append((transactions[number].invoke, 0, number))  # a tie proves no order: who begins is taken first
        if transactions[number].status == "committed":
            moments.append((transactions[number].complete, 1, number))
    ended: set[int] = set()
    for _, is_end, number in sorted(moments):
        if is_end:
            ended = {n for n in ended if transactions[n].complete >= transactions[number].invoke}
            ended.add(number)
            continue
        for before in ended:
            graph.add(REALTIME, before, number, "had ended before the other began")


def _cycles(history: _History, graph: Graph) -> Iterator[Anomaly]:
    suspects = {node for knot in graph.knots((WW, WR, RW, PROCESS, REALTIME), history.committed) for node in knot}
    told: list[set[int]] = []
    for suffix, orders in _ORDERS:
        for name, must, may in _CYCLES:
            for knot in graph.knots((*dict.fromkeys((*may, *must)), *orders), suspects):
                if any(cycle.issubset(knot) for cycle in told):
                    continue
                cycle = _shortest_cycle(graph, must, (*may, *orders), knot)
                if cycle:
                    told.append(set(cycle))
                    yield Anomaly(name + suffix, _as_text(history, graph, must, (*may, *orders), cycle))


def _shortest_cycle(graph: Graph, must: Sequence[str], may: Sequence[str], knot: list[int]) -> list[int]:
    """Begins with an edge of the kinds ``must``, and comes back over ``may``."""
    within = set(knot)
    best: list[int] = []
    edges = [(a, b) for a in knot for b in graph.successors(must, a) if b in within]
    for tried, (first, second) in enumerate(edges):
        if best and tried >= _MOST_TRIED:
            break
        path = graph.shortest_path(may, second, first, within)
        if path and (not best or len(path) < len(best)):
            best = path
        if len(best) == 2:
            break
    return best[-1:] + best[:-1]


def _as_text(history: _History, graph: Graph, must: Sequence[str], may: Sequence[str], cycle: list[int]) -> str:
    lines = [history.show(number) for number in cycle]
    kinds = list(dict.fromkeys((*must, *may)))
    for i, number in enumerate(cycle):
        following = cycle[(i + 1) % len(cycle)]
        lines.append(graph.explain(kinds if i == 0 else may, number, following))
    return "\n".join(lines)


def _shown(value: object) -> str:
    if isinstance(value, list) and len(value) > _LONGEST_SHOWN:
        return f"[… {len(value) - _LONGEST_SHOWN} more, {', '.join(map(repr, value[-_LONGEST_SHOWN:]))}]"
    return repr(value)

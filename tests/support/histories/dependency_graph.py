"""Which transaction must come before which, and the cycles in that order."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence


class DependencyGraph:
    """Directed edges between numbered transactions, by kind, each with its reason in words."""

    def __init__(self) -> None:
        self._edges: dict[str, dict[int, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))

    def add(self, kind: str, first: int, second: int, reason: str) -> None:
        """``first`` comes before ``second``."""
        if first != second:
            self._edges[kind][first].setdefault(second, reason)

    def successors(self, kinds: Iterable[str], node: int) -> Iterator[int]:
        """Who comes after ``node``."""
        for kind in kinds:
            yield from self._edges[kind].get(node, ())

    def explain(self, kinds: Iterable[str], first: int, second: int) -> str:
        """The dependency between two, as a line."""
        kind = next(kind for kind in kinds if second in self._edges[kind].get(first, ()))
        return f"  T{first} -{kind}-> T{second}: {self._edges[kind][first][second]}"

    def knots(self, kinds: Sequence[str], nodes: Iterable[int]) -> list[list[int]]:
        """Strongly connected components of more than one node, by Tarjan's algorithm without recursion."""
        within = set(nodes)
        index: dict[int, int] = {}
        low: dict[int, int] = {}
        stack: list[int] = []
        on_stack: set[int] = set()
        found = []
        for root in sorted(within):
            work: list[tuple[int, Iterator[int]]] = []
            child: int | None = root if root not in index else None
            while child is not None or work:
                if child is not None:
                    index[child] = low[child] = len(index)
                    stack.append(child)
                    on_stack.add(child)
                    work.append((child, self.successors(kinds, child)))
                node, following = work[-1]
                child = None
                for other in following:
                    if other in within and other not in index:
                        child = other
                        break
                    if other in on_stack:
                        low[node] = min(low[node], index[other])
                if child is not None:
                    continue
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    knot = [stack.pop()]
                    while knot[-1] != node:
                        knot.append(stack.pop())
                    on_stack.difference_update(knot)
                    if len(knot) > 1:
                        found.append(sorted(knot))
        return found

    def shortest_path(self, kinds: Sequence[str], start: int, goal: int, within: set[int]) -> list[int]:
        """From ``start`` to ``goal``, both included; empty if there is none."""
        came_from = {start: start}
        queue = deque([start])
        while queue:
            node = queue.popleft()
            if node == goal:
                path = [node]
                while path[-1] != start:
                    path.append(came_from[path[-1]])
                return path[::-1]
            for following in self.successors(kinds, node):
                if following in within and following not in came_from:
                    came_from[following] = node
                    queue.append(following)
        return []

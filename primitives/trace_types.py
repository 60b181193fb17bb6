"""What a trace says: six kinds of it, the trace around them, and the tree traces form.

Each kind is a frozen dataclass and a ``TraceType``. What it is given is checked when it is made and again when it is
recorded (a list in it may have changed since); values inside are checked by the codec, when recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, ClassVar, TypeVar

from shoal.primitives.keys import encode_text
from shoal.shm.codec import Value
from shoal.shm.errors import shown


class TraceType:
    """What a trace says: one of the six kinds below, and the base of all of them.

    >>> thought = TraceType.Thought("the cache is stale", confidence=0.8)
    >>> thought
    TraceType.Thought(content='the cache is stale', confidence=0.8)
    >>> thought.type_name(), isinstance(thought, TraceType)
    ('Thought', True)
    >>> TraceType.Custom("benchmark", {"ops": 5}).type_name()
    'benchmark'
    """

    __slots__ = ()

    ToolCall: ClassVar[type[_ToolCall]]
    Decision: ClassVar[type[_Decision]]
    Query: ClassVar[type[_Query]]
    Thought: ClassVar[type[_Thought]]
    Error: ClassVar[type[_Error]]
    Custom: ClassVar[type[_Custom]]

    def __init__(self) -> None:
        raise TypeError(f"{type(self).__name__} says nothing by itself; make one of its kinds: {', '.join(KINDS)}")

    def __post_init__(self) -> None:
        self.check()

    def type_name(self) -> str:
        """What ``query_by_type`` finds it by: the kind's name, of a ``Custom`` its own ``trace_type``."""
        return type(self).__name__

    def check(self) -> None:
        """Raise ``TypeError`` or ``ValueError`` for a field that is not what it must be."""
        raise NotImplementedError


KINDS: dict[str, type[TraceType]] = {}
Kind = TypeVar("Kind", bound=TraceType)


def _kind(cls: type[Kind]) -> type[Kind]:
    """Make ``_Thought`` what users know as ``TraceType.Thought``, in messages and in pickles, too."""
    cls.__name__ = cls.__name__.removeprefix("_")
    cls.__qualname__ = f"{TraceType.__name__}.{cls.__name__}"
    setattr(TraceType, cls.__name__, cls)
    KINDS[cls.__name__] = cls
    return cls


@_kind
@dataclass(frozen=True, slots=True)
class _ToolCall(TraceType):
    """A tool was called: ``arguments`` and ``result`` any value, ``duration_ms`` milliseconds or None."""

    tool_name: str
    arguments: Value
    result: Value = None
    duration_ms: float | None = None

    def check(self) -> None:
        _expect_text("tool_name", self.tool_name)
        if self.duration_ms is not None:
            _expect_number("duration_ms", self.duration_ms)
            _expect_not_negative("duration_ms", self.duration_ms)


@_kind
@dataclass(frozen=True, slots=True)
class _Decision(TraceType):
    """A choice was made: ``options`` a list of str (a tuple becomes one)."""

    question: str
    options: list[str] | tuple[str, ...]
    chosen: str
    reasoning: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.options, tuple):
            object.__setattr__(self, "options", list(self.options))
        self.check()

    def check(self) -> None:
        _expect_text("question", self.question)
        if not isinstance(self.options, list):
            raise TypeError(f"options has type {type(self.options).__name__}; give a list of str")
        for option in self.options:
            _expect_text("an option", option)
        _expect_text("chosen", self.chosen)
        if self.reasoning is not None:
            _expect_text("reasoning", self.reasoning)


@_kind
@dataclass(frozen=True, slots=True)
class _Query(TraceType):
    """Something was searched for, and ``results_count`` found."""

    query_type: str
    query: str
    results_count: int

    def check(self) -> None:
        _expect_text("query_type", self.query_type)
        _expect_text("query", self.query)
        if isinstance(self.results_count, bool) or not isinstance(self.results_count, int):
            raise TypeError(f"results_count has type {type(self.results_count).__name__}; give an int")
        _expect_not_negative("results_count", self.results_count)


@_kind
@dataclass(frozen=True, slots=True)
class _Thought(TraceType):
    """A step of reasoning; ``confidence`` any number, or None."""

    content: str
    confidence: float | None = None

    def check(self) -> None:
        _expect_text("content", self.content)
        if self.confidence is not None:
            _expect_number("confidence", self.confidence)


@_kind
@dataclass(frozen=True, slots=True)
class _Error(TraceType):
    """Something failed."""

    error_type: str
    message: str
    recoverable: bool

    def check(self) -> None:
        _expect_text("error_type", self.error_type)
        _expect_text("message", self.message)
        if not isinstance(self.recoverable, bool):
            raise TypeError(f"recoverable has type {type(self.recoverable).__name__}; give a bool")


@_kind
@dataclass(frozen=True, slots=True)
class _Custom(TraceType):
    """A kind of the user's own: ``trace_type`` is its name, 1 to 1,024 bytes of UTF-8; ``data`` any value."""

    trace_type: str
    data: Value

    def type_name(self) -> str:
        return self.trace_type

    def check(self) -> None:
        encode_text("trace_type", self.trace_type)


@dataclass(frozen=True, slots=True)
class Trace:
    """A recorded trace. ``timestamp`` is integer ms since the epoch (UTC); ``parent_id`` of a root is None."""

    id: str
    parent_id: str | None
    trace_type: TraceType
    timestamp: int
    tags: list[str]
    metadata: Value


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """What ``record_with_options`` takes beside what the trace says: as ``record``'s arguments of the same names."""

    id: str | None = None
    parent_id: str | None = None
    tags: Iterable[str] = ()
    metadata: Value = None

    def __post_init__(self) -> None:
        if isinstance(self.tags, (str, bytes, Mapping)) or not isinstance(self.tags, Iterable):
            raise TypeError(f"tags has type {type(self.tags).__name__}; give a list of str")
        object.__setattr__(self, "tags", list(self.tags))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TraceTree:
    """A trace and the trees of its children, ordered by time, then id. Any depth: nothing here recurses.

    >>> leaf = TraceTree(Trace("b", "a", TraceType.Thought("then"), 2, [], None), [])
    >>> tree = TraceTree(Trace("a", None, TraceType.Thought("first"), 1, [], None), [leaf])
    >>> [(depth, trace.id) for depth, trace in tree.walk()]
    [(0, 'a'), (1, 'b')]
    """

    root: Trace
    children: list[TraceTree]

    __hash__ = None  # type: ignore[assignment]

    def walk(self) -> Iterator[tuple[int, Trace]]:
        """Depth (0 for the root) and trace of everything in the tree, each parent before its children."""
        pending = [(0, self)]
        while pending:
            depth, tree = pending.pop()
            yield depth, tree.root
            pending.extend((depth + 1, child) for child in reversed(tree.children))

    def __reduce__(self) -> tuple[Any, ...]:
        walked = list(self.walk())
        return _tree_of, ([depth for depth, _ in walked], [trace for _, trace in walked])

    def __copy__(self) -> TraceTree:
        return TraceTree(self.root, self.children)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TraceTree):
            return NotImplemented
        # Traces in this order, with their depths, are one tree only.
        return all(mine == theirs for mine, theirs in zip_longest(self.walk(), other.walk()))

    def __repr__(self) -> str:
        parts, before = [], -1
        for depth, trace in self.walk():
            if depth <= before:
                parts.append("])" * (before - depth + 1) + ", ")
            parts.append(f"TraceTree(root={trace!r}, children=[")
            before = depth
        return "".join(parts) + "])" * (before + 1)


def _tree_of(depths: list[int], traces: list[Trace]) -> TraceTree:
    """The tree that ``walk`` gives so: what a pickle holds, as a nested one would recurse."""
    path: list[TraceTree] = []  # from the root to the newest trace
    for depth, trace in zip(depths, traces, strict=True):
        tree = TraceTree(trace, [])
        del path[depth:]
        if path:
            path[-1].children.append(tree)
        path.append(tree)
    return path[0]


def _expect_text(what: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{what} has type {type(value).__name__}; give a str")


def _expect_number(what: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{what} has type {type(value).__name__}; give an int or a float")


def _expect_not_negative(what: str, value: Any) -> None:
    if not value >= 0:
        raise ValueError(f"{what} is {shown(value)}; give 0 or more")

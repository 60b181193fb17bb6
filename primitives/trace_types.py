"""The types of ``TraceStore``: the six kinds of traces, the recorded trace, and the tree that traces form.

Each kind is a frozen dataclass and a ``TraceType``. Its fields are checked when it is made and again when it is
recorded, as a list in it may have changed since. The codec checks the values inside, when it is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, ClassVar, TypeVar

from shoal.primitives.keys import encode_text
from shoal.shm.arguments import check_bool, check_int, check_number, check_str, check_type
from shoal.shm.codec import Value
from shoal.shm.errors import shown


class TraceType:
    """What a trace says: the base of the six kinds ``TraceType.ToolCall``, ``Decision``, ``Query`` and so on.

    A kind raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad field. This class itself has
    no instances: ``TypeError``.

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
        self._check()

    def type_name(self) -> str:
        """The name that ``query_by_type`` looks for: the kind's name; for a ``Custom`` its ``trace_type``."""
        return type(self).__name__

    def _check(self) -> None:
        """Raise ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad field."""
        raise NotImplementedError


KINDS: dict[str, type[TraceType]] = {}
Kind = TypeVar("Kind", bound=TraceType)


def _kind(cls: type[Kind]) -> type[Kind]:
    """Name the class ``_Thought`` ``TraceType.Thought``, as users know it, also in messages and pickles."""
    cls.__name__ = cls.__name__.removeprefix("_")
    cls.__qualname__ = f"{TraceType.__name__}.{cls.__name__}"
    setattr(TraceType, cls.__name__, cls)
    KINDS[cls.__name__] = cls
    return cls


@_kind
@dataclass(frozen=True, slots=True)
class _ToolCall(TraceType):
    """A tool was called.

    ``arguments`` and ``result``: any value. ``duration_ms``: milliseconds, 0 or more, or None.

    >>> TraceType.ToolCall("read", {"path": "log"}, "disk full", 3).duration_ms
    3
    """

    tool_name: str
    arguments: Value
    result: Value = None
    duration_ms: float | None = None

    def _check(self) -> None:
        check_str("tool_name", self.tool_name)
        if self.duration_ms is not None:
            check_number("duration_ms", self.duration_ms)
            _expect_not_negative("duration_ms", self.duration_ms)


@_kind
@dataclass(frozen=True, slots=True)
class _Decision(TraceType):
    """A choice was made. ``options``: a list of str; a tuple becomes one.

    >>> TraceType.Decision("which file?", ("a.py", "b.py"), "a.py").options
    ['a.py', 'b.py']
    """

    question: str
    options: list[str] | tuple[str, ...]
    chosen: str
    reasoning: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.options, tuple):
            object.__setattr__(self, "options", list(self.options))
        self._check()

    def _check(self) -> None:
        check_str("question", self.question)
        check_type("options", self.options, list, "a list of str")
        for option in self.options:
            check_str("an option", option)
        check_str("chosen", self.chosen)
        if self.reasoning is not None:
            check_str("reasoning", self.reasoning)


@_kind
@dataclass(frozen=True, slots=True)
class _Query(TraceType):
    """Something was searched for. ``results_count``: how much was found, 0 or more.

    >>> TraceType.Query("grep", "error", 3).results_count
    3
    """

    query_type: str
    query: str
    results_count: int

    def _check(self) -> None:
        check_str("query_type", self.query_type)
        check_str("query", self.query)
        check_int("results_count", self.results_count)
        _expect_not_negative("results_count", self.results_count)


@_kind
@dataclass(frozen=True, slots=True)
class _Thought(TraceType):
    """A step of reasoning. ``confidence``: any number, or None.

    >>> TraceType.Thought("the cache is stale", 0.8).confidence
    0.8
    """

    content: str
    confidence: float | None = None

    def _check(self) -> None:
        check_str("content", self.content)
        if self.confidence is not None:
            check_number("confidence", self.confidence)


@_kind
@dataclass(frozen=True, slots=True)
class _Error(TraceType):
    """Something failed. ``recoverable``: whether the agent can go on.

    >>> TraceType.Error("OSError", "disk full", recoverable=False).type_name()
    'Error'
    """

    error_type: str
    message: str
    recoverable: bool

    def _check(self) -> None:
        check_str("error_type", self.error_type)
        check_str("message", self.message)
        check_bool("recoverable", self.recoverable)


@_kind
@dataclass(frozen=True, slots=True)
class _Custom(TraceType):
    """A kind of the user's own. ``trace_type``: its name, 1 to 1,024 bytes of UTF-8. ``data``: any value.

    >>> TraceType.Custom("benchmark", {"ops": 5}).type_name()
    'benchmark'
    """

    trace_type: str
    data: Value

    def type_name(self) -> str:
        """The kind's own ``trace_type``."""
        return self.trace_type

    def _check(self) -> None:
        encode_text("trace_type", self.trace_type)


@dataclass(frozen=True, slots=True)
class Trace:
    """A recorded trace. ``timestamp``: integer ms since the epoch (UTC). ``parent_id``: None of a root.

    >>> Trace("a", None, TraceType.Thought("first"), 1_700_000_000_000, ["debug"], None).tags
    ['debug']
    """

    id: str
    parent_id: str | None
    trace_type: TraceType
    timestamp: int
    tags: list[str]
    metadata: Value


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """The keywords of ``record`` in one object, for ``record_with_options``.

    Raises ``TypeError`` if ``tags`` is no list of tags; ``record_with_options`` checks the rest.

    >>> TraceOptions(tags=("a", "b")).tags
    ['a', 'b']
    """

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
    """A trace and the trees of its children, ordered by time, then id. It may be of any depth: nothing here recurses.

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
    """The tree whose ``walk`` gives these: a pickle holds the walk, as pickling nested trees would recurse."""
    path: list[TraceTree] = []  # from the root to the newest trace
    for depth, trace in zip(depths, traces, strict=True):
        tree = TraceTree(trace, [])
        del path[depth:]
        if path:
            path[-1].children.append(tree)
        path.append(tree)
    return path[0]


def _expect_not_negative(what: str, value: Any) -> None:
    if not value >= 0:
        raise ValueError(f"{what} is {shown(value)}; give 0 or more")

"""Which errors a function can raise, as far as its source tells: by itself, or in what it calls."""

from __future__ import annotations

import ast
import builtins
import inspect
import textwrap
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any

from shoal.primitives.rules import registry, requests
from shoal.shm import errors

# Rules by the function that asks for them: what a rule raises comes back through ``Engine.perform``.
_RULES = {
    requests.delete: registry.DELETE,
    requests.increment: registry.INCREMENT,
    requests.insert: registry.INSERT,
    requests.init_cell: registry.CELL_INIT,
    requests.cas_cell: registry.CELL_CAS,
    requests.set_cell: registry.CELL_SET,
    requests.swap_cell: registry.CELL_SWAP,
    requests.delete_cell: registry.CELL_DELETE,
    requests.append_events: registry.EVENT_APPEND,
    requests.restore_events: registry.EVENT_RESTORE,
}
_SEEN_INTO = (
    "shoal.primitives.",
    "shoal.database",
    "shoal.shared_memory_store",
    "shoal.shm.arguments",
    "shoal.shm.codec",
    "shoal.shm.files.store_",
)


def raised_by(function: Callable[..., Any], owner: type | None, views: dict[str, type]) -> set[str]:
    """Names of the errors. ``views``: classes by the property of a transaction, or ``_views``, that gives one."""
    return _Search(views).errors_of(function, owner)


class _Search:
    def __init__(self, views: dict[str, type]) -> None:
        self._views = views
        self._found: dict[Any, set[str]] = {}

    def errors_of(self, function: Any, owner: type | None) -> set[str]:
        """What ``function`` raises; ``owner`` is the class of its ``self``."""
        function = inspect.unwrap(function)
        key = function, owner
        if key not in self._found:
            self._found[key] = set()  # of a recursion nothing is added
            written = isinstance(function, FunctionType) and not function.__code__.co_filename.startswith("<")
            if written and function.__globals__["__name__"].startswith(_SEEN_INTO):
                (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
                body = ast.Module(getattr(tree, "body", []), [])  # without defaults and decorators
                self._found[key] = set(self._errors_below(body, function, owner))
                if function in _RULES:
                    self._found[key] |= self.errors_of(registry.OPERATIONS[_RULES[function]], None)
        return self._found[key]

    def _errors_below(self, node: ast.AST, function: FunctionType, owner: type | None) -> Iterator[str]:
        if isinstance(node, ast.Try):
            caught = {name for handler in node.handlers for name in _caught_by(handler)}
            inside = {error for part in node.body for error in self._errors_below(part, function, owner)}
            yield from inside - caught
            rest: list[ast.AST] = [*node.handlers, *node.orelse, *node.finalbody]
        else:
            rest = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            name = raised.id if isinstance(raised, ast.Name) else ""
            if _is_error(name):
                yield name
        if isinstance(node, ast.Call):
            for called, of in self._called(node.func, function, owner):
                yield from self.errors_of(called, of)
        for child in rest:
            yield from self._errors_below(child, function, owner)

    def _called(self, call: ast.expr, function: FunctionType, owner: type | None) -> Iterator[tuple[Any, type | None]]:
        """The functions a call may mean: by a global name, of a module, of ``self``, or of a view."""
        if isinstance(call, ast.Name):
            called = function.__globals__.get(call.id)
            if inspect.isclass(called):
                yield from (
                    (vars(called)[name], called) for name in ("__init__", "__post_init__") if name in vars(called)
                )
            else:
                yield called, None
        elif isinstance(call, ast.Attribute):
            before = call.value
            name = before.id if isinstance(before, ast.Name) else ""
            module = function.__globals__.get(name)
            if isinstance(module, ModuleType):
                yield vars(module).get(call.attr), None
            elif name == "self" and owner is not None:
                yield inspect.getattr_static(owner, call.attr, None), owner
            elif (of := self._view_of(before, name, owner)) is not None:
                yield inspect.getattr_static(of, call.attr, None), of

    def _view_of(self, before: ast.expr, name: str, owner: type | None) -> type | None:
        if isinstance(before, ast.Subscript):  # self._views[run_id]
            before = before.value
        attribute = before.attr if isinstance(before, ast.Attribute) else name
        return self._views.get(attribute)


def _caught_by(handler: ast.ExceptHandler) -> Iterator[str]:
    raises_again = any(isinstance(node, ast.Raise) and node.exc is None for node in ast.walk(handler))
    if handler.type is not None and not raises_again:
        for node in ast.walk(handler.type):
            if isinstance(node, ast.Name):
                yield node.id


def _is_error(name: str) -> bool:
    found = getattr(errors, name, None) or getattr(builtins, name, None)
    return (
        inspect.isclass(found) and issubclass(found, Exception) and found not in (AssertionError, NotImplementedError)
    )

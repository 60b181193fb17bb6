"""Writes ``shoal/aio/__init__.pyi``, which tells type checkers what ``shoal.aio`` makes of the synchronous classes.

``python -m tests.support.aio_stub`` writes it anew; a test compares it with what this makes.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
from pathlib import Path
from typing import Any, TypeVar

import shoal
from shoal import aio
from shoal.aio import faces
from shoal.aio.faces import Face

STUB = Path(aio.__file__).with_suffix(".pyi")

_HEAD = '''"""Made by ``python -m tests.support.aio_stub`` from the synchronous classes: do not edit."""

'''
_CLASS_HEAD = {
    "Items": "from shoal.aio.calls import Entering, Items",
    "EnteredTransaction": "from shoal.aio.faces import EnteredTransaction",
}


def stub() -> str:
    """The text of the stub."""
    of_sync = faces._FACES
    needed: set[str] = set()
    bodies = [_class(sync, face, needed) for sync, face in of_sync.items()]
    opening = _function("open", shoal.open, needed, self_argument=False)
    opening = opening.replace("async def", "def").replace("-> Database", "-> Entering[Database]")
    own = {face.__name__ for face in of_sync.values()}
    same = sorted(name for name in aio.__all__ if name not in own and name != "open")
    lines = [_HEAD + "import builtins", "import os"]
    lines += sorted(needed)
    lines += [*_CLASS_HEAD.values(), "from collections.abc import Callable, Coroutine, Iterable"]
    lines += ["from types import TracebackType", "from typing import Any, NoReturn, TypeVar, overload", ""]
    lines += [f"from shoal import {name} as {name}" for name in same]
    lines += ["", 'T = TypeVar("T")', "", *bodies, opening, ""]
    lines += ["__all__ = [", *[f'    "{name}",' for name in aio.__all__], "]", ""]
    return "\n".join(lines)


def _class(sync: type, face: type[Face], needed: set[str]) -> str:
    lines = [f"class {face.__name__}:"]
    if "__init__" in vars(face):
        lines.append(_function("__init__", sync.__init__, needed).replace("db: Any", "db: Database"))  # type: ignore[misc]
        lines.append("    namespace: Namespace")
    for name, kind in _attributes(sync).items():
        lines.append(f"    {name}: {kind}")
    for name in dir(sync):
        member = inspect.getattr_static(sync, name)
        if name.startswith("_") or name not in vars(face) or isinstance(vars(face)[name], property):
            continue
        function = member.__func__ if isinstance(member, staticmethod) else member
        if isinstance(member, staticmethod):
            lines.append("    @staticmethod")
        made = _function(name, function, needed, made=vars(face)[name])
        if name == "once":  # a coroutine function is awaited
            awaited = made.replace("Callable[[], T]", "Callable[[], Coroutine[Any, Any, T]]")
            made = f"    @overload\n{awaited}\n    @overload\n{made}"
        lines.append(made)
    if hasattr(sync, "_require"):
        lines.append("    def _require(self, transaction: Any) -> None: ...")
    if hasattr(sync, "_commit_in"):
        lines.append("    _log_prefix: bytes\n    def _commit_in(self, transaction: Any, position: int) -> None: ...")
    if "__aenter__" in vars(face):
        lines.append(f"    async def __aenter__(self) -> {face.__name__}: ...")
        lines.append("    async def __aexit__(")
        lines.append("        self,")
        lines.append("        kind: type[BaseException] | None,")
        lines.append("        error: BaseException | None,")
        lines.append("        traceback: TracebackType | None,")
        lines.append("    ) -> bool | None: ...")
    if "__aiter__" in vars(face):
        item = re.sub(r"^Iterator\[(.*)\]$", r"\1", sync.__iter__.__annotations__["return"])  # type: ignore[attr-defined]
        lines.append(f"    def __aiter__(self) -> Items[{item}]: ...")
    return "\n".join(lines) + "\n"


def _attributes(sync: type) -> dict[str, str]:
    """Names and types of the public attributes of what is held: of slots, by the constructor's arguments."""
    found = {}
    for name, kind in {**_annotations(sync), **_annotations(sync.__init__)}.items():  # type: ignore[misc]
        kept = name in getattr(sync, "__slots__", ()) or name in vars(sync).get("__annotations__", {})
        if kept and not name.startswith("_"):
            found[name] = kind if isinstance(kind, str) else kind.__name__
    for name in getattr(sync, "__slots__", ()):
        if not name.startswith("_"):
            found.setdefault(name, "Any")
    for name, member in vars(sync).items():
        if isinstance(member, property) and not name.startswith("_"):
            assert member.fget is not None
            found[name] = member.fget.__annotations__["return"]
    return found


def _annotations(of: Any) -> dict[str, Any]:
    return {name: kind for name, kind in getattr(of, "__annotations__", {}).items() if name != "return"}


def _function(name: str, function: Any, needed: set[str], made: Any = None, self_argument: bool = True) -> str:
    signature = inspect.signature(function)
    arguments: list[str] = []
    starred = False
    for each in signature.parameters.values():
        if each.kind is each.KEYWORD_ONLY and not starred:
            arguments.append("*")
            starred = True
        stars = "*" if each.kind is each.VAR_POSITIONAL else "**" if each.kind is each.VAR_KEYWORD else ""
        starred = starred or stars == "*"
        text = stars + each.name
        if each.annotation is not each.empty:
            text += f": {_named(each.annotation, function, needed)}"
        if each.default is not each.empty:
            text += " = ..."
        arguments.append(text)
    returned = _named(signature.return_annotation, function, needed)
    indent = "    " if self_argument else ""
    is_plain = name == "__init__" or isinstance(made, staticmethod)
    if returned.startswith("Iterator["):
        is_plain, returned = True, returned.replace("Iterator[", "Items[", 1)
    elif made is not None and not is_plain and not inspect.iscoroutinefunction(made):
        is_plain = True
        returned = "EnteredTransaction" if name == "transaction" else f"Entering[{returned}]"
    definition = "def" if is_plain else "async def"
    inner = "".join(f"{indent}    {argument},\n" for argument in arguments)
    return f"{indent}{definition} {name}(\n{inner}{indent}) -> {returned}: ..."


def _named(annotation: str, function: Any, needed: set[str]) -> str:
    """The annotation; what it names is noted in ``needed`` as an import."""
    own = {sync.__name__ for sync in faces._FACES}
    for node in ast.walk(ast.parse(annotation, mode="eval")):
        if isinstance(node, ast.Name) and node.id not in own:
            value = function.__globals__.get(node.id, getattr(builtins, node.id, None))
            module = getattr(value, "__module__", "builtins")
            if node.id == "Value":
                needed.add("from shoal.shm.codec import Value")
            elif node.id == "Fence":
                needed.add("from shoal.primitives.transaction import Fence")
            elif node.id == "OnDoubt":
                needed.add("from shoal.primitives.facades.fleet.idempotency import OnDoubt")
            elif node.id == "timedelta":
                needed.add("from datetime import timedelta")
            elif node.id == "datetime":
                needed.add("from datetime import datetime")
            elif isinstance(value, TypeVar) or module in ("builtins", "typing", "collections.abc") or node.id == "Any":
                continue
            elif not hasattr(shoal, node.id):
                where = module if inspect.isclass(value) else function.__module__
                needed.add(f"from {where} import {node.id}")
    return annotation.replace("codec.Value", "Value")


if __name__ == "__main__":
    STUB.write_text(stub())

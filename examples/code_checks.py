"""The checks that ``code_review.py`` makes on one Python file. Nothing here uses shoal.

``check_file`` depends on the file alone: the same bytes always give the same ``FileReview``. So it is safe to review a
file again after a worker died during its review.

It works on names, not on types, and where it is in doubt it reports nothing: a name that is mentioned anywhere in a
file counts as used, and only calls of imported names count as calls into other files. A call is written
``module.name``, with the last part of the module's name, as the name of a file has only that.
"""

from __future__ import annotations

import ast
import builtins
import re
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

COMPLEX = "complex function"
BARE_EXCEPT = "bare except"
MUTABLE_DEFAULT = "mutable default"
NO_DOCSTRING = "missing docstring"
UNUSED_IMPORT = "unused import"
UNPARSABLE = "unparsable file"
CUT_SHORT = "review cut short"

# The weight of one finding when files are ranked.
WEIGHTS = {
    UNPARSABLE: 20,
    MUTABLE_DEFAULT: 5,
    BARE_EXCEPT: 4,
    COMPLEX: 3,
    UNUSED_IMPORT: 2,
    NO_DOCSTRING: 1,
    CUT_SHORT: 1,
}

MOST_COMPLEXITY = 10
# The most findings, definitions and calls of one file that are stored: a generated file may have any number.
MOST_ENTRIES = 2000

_MUTABLE_DISPLAYS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
_MUTABLE_TYPES = frozenset({"list", "dict", "set", "bytearray", "defaultdict", "deque", "OrderedDict"})
_DECISIONS = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.comprehension, ast.match_case)
_BUILTIN_NAMES = frozenset(dir(builtins))
_IDENTIFIER = re.compile(r"[^\W\d]\w*")

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Finding(NamedTuple):
    """One finding. ``amount`` is the complexity of a complex function, else 0."""

    line: int
    kind: str
    name: str
    amount: int = 0


@dataclass
class FileReview:
    """The review of one file; all lists are sorted, so that equal files give equal reviews."""

    lines: int = 0
    functions: int = 0
    classes: int = 0
    findings: list[Finding] = field(default_factory=list)
    definitions: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)  # module.name

    def facts(self) -> dict[str, Any]:
        """Everything but the findings, as a value to store; ``FileReview(**facts)`` is the review without findings."""
        facts = asdict(self)
        del facts["findings"]
        return facts


def check_file(path: Path) -> FileReview:
    """Review one file. A file that is no valid Python is a finding; one that cannot be read is an ``OSError``."""
    try:
        with tokenize.open(path) as file:
            source = file.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as for invalid escapes in the reviewed file
            tree = ast.parse(source)
    except SyntaxError as error:
        # The tokenizer's messages name the file, the parser's do not. The finding is stored under the file's name.
        return _unparsable(error.lineno or 0, error.msg.replace(f" for {str(path)!r}", ""))
    except RecursionError:
        return _unparsable(0, "nested too deeply")
    except MemoryError:  # some versions of the parser raise this for the same reason
        return _unparsable(0, "nested too deeply")
    except (ValueError, LookupError) as error:  # NUL bytes; bytes that are wrong in the declared encoding
        return _unparsable(0, type(error).__name__)
    checker = _Checker(path)
    checker.check(tree)
    return checker.review(lines=len(source.splitlines()))


def module_name(path: Path) -> str:
    """The last part of the name a file is imported by."""
    return path.parent.name if path.stem == "__init__" else path.stem


def _unparsable(line: int, why: str) -> FileReview:
    return FileReview(findings=[Finding(line, UNPARSABLE, why)])


@dataclass
class _Scope:
    """A module, class or function, and the number of independent paths through it so far."""

    name: str
    public: bool
    node: ast.AST
    complexity: int = 1

    def named(self, name: str) -> str:
        return f"{self.name}.{name}" if self.name else name


class _Checker:
    """Walks a syntax tree with a stack of its own, so that no tree of the parser is too deep for it."""

    def __init__(self, path: Path) -> None:
        # Everything in ``_name.py`` is private; ``__init__.py`` is the public face of its package.
        self._path = path
        self._public = not path.stem.startswith("_") or path.stem == "__init__"
        self._is_package = path.stem == "__init__"
        self._findings: list[Finding] = []
        self._functions: list[_Scope] = []
        self._classes = 0
        self._definitions: set[str] = set()
        self._imports: dict[str, int] = {}  # bound name -> line
        self._modules: dict[str, str] = {}  # bound name -> module it is, or may be
        self._members: dict[str, tuple[str, str]] = {}  # bound name -> module it comes from, its name there
        self._star_modules: set[str] = set()
        self._calls: set[tuple[str, str]] = set()  # bound name of a module or "", name called
        self._mentioned: set[str] = set()

    def check(self, tree: ast.Module) -> None:
        module = _Scope("", self._public, tree)
        if tree.body and self._public and ast.get_docstring(tree, clean=False) is None:
            self._find(1, NO_DOCSTRING, "module")
        stack: list[tuple[ast.AST, _Scope]] = [(node, module) for node in tree.body]
        while stack:
            node, scope = stack.pop()
            inner = self._visit(node, scope)
            own = set(map(id, node.body)) if isinstance(node, Function | ast.ClassDef) else set()
            # Decorators, defaults and annotations belong to the scope outside, only the body to the one inside.
            stack.extend((child, inner if id(child) in own else scope) for child in ast.iter_child_nodes(node))

    def review(self, lines: int) -> FileReview:
        for scope in self._functions:
            if scope.complexity > MOST_COMPLEXITY:
                line = getattr(scope.node, "lineno", 0)
                self._find(line, COMPLEX, scope.name, scope.complexity)
        if not self._is_package:  # a package imports names to export them
            for bound, line in self._imports.items():
                if bound not in self._mentioned:
                    self._find(line, UNUSED_IMPORT, bound)
        findings, definitions, calls = sorted(self._findings), sorted(self._definitions), sorted(self._called())
        longest = max(len(findings), len(definitions), len(calls))
        if longest > MOST_ENTRIES:
            findings = [*findings[: MOST_ENTRIES - 1], Finding(0, CUT_SHORT, f"{longest} entries of a kind")]
        return FileReview(
            lines=lines,
            functions=len(self._functions),
            classes=self._classes,
            findings=findings,
            definitions=definitions[:MOST_ENTRIES],
            calls=calls[:MOST_ENTRIES],
        )

    def _find(self, line: int, kind: str, name: str, amount: int = 0) -> None:
        self._findings.append(Finding(line, kind, name, amount))

    def _visit(self, node: ast.AST, scope: _Scope) -> _Scope:
        """Record what one node shows; return the scope of its body."""
        if isinstance(node, Function | ast.ClassDef):
            return self._visit_definition(node, scope)
        if isinstance(node, _DECISIONS):
            scope.complexity += 1
        if isinstance(node, ast.comprehension):
            scope.complexity += len(node.ifs)
        elif isinstance(node, ast.BoolOp):
            scope.complexity += len(node.values) - 1
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            self._find(node.lineno, BARE_EXCEPT, scope.name or "module")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self._visit_import(node)
        elif isinstance(node, ast.Name):
            self._mentioned.add(node.id)
        elif isinstance(node, ast.Call):
            self._visit_call(node.func)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # The string may be an annotation in quotes, or an entry of __all__.
            self._mentioned.update(_IDENTIFIER.findall(node.value))
        return scope

    def _visit_definition(self, node: Function | ast.ClassDef, scope: _Scope) -> _Scope:
        inside_function = isinstance(scope.node, Function)
        public = scope.public and not inside_function and not node.name.startswith("_")
        inner = _Scope(scope.named(node.name), public, node)
        if isinstance(scope.node, ast.Module):
            self._definitions.add(node.name)
        if public and ast.get_docstring(node, clean=False) is None and not _is_accessor(node):
            self._find(node.lineno, NO_DOCSTRING, inner.name)
        if isinstance(node, ast.ClassDef):
            self._classes += 1
            return inner
        self._functions.append(inner)
        for parameter, default in _defaults(node.args):
            if _is_mutable(default):
                self._find(node.lineno, MUTABLE_DEFAULT, f"{inner.name}({parameter})")
        return inner

    def _visit_import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            return
        for alias in node.names:
            if isinstance(node, ast.ImportFrom):
                source = self._source(node)
                if alias.name == "*":
                    self._star_modules.add(source)
                    continue
                bound = alias.asname or alias.name
                self._members[bound] = source, alias.name
                self._modules[bound] = alias.name
            else:
                bound = alias.asname or alias.name.partition(".")[0]
                self._modules[bound] = alias.name.rpartition(".")[2] if alias.asname else bound
            self._imports.setdefault(bound, node.lineno)
            if alias.asname == alias.name:  # "import x as x" marks x for export
                self._mentioned.add(bound)

    def _source(self, node: ast.ImportFrom) -> str:
        """The last part of the name of the module that a ``from`` import names."""
        if node.module:
            return node.module.rpartition(".")[2]
        above = self._path.parents
        return above[min(node.level, len(above)) - 1].name

    def _visit_call(self, called: ast.expr) -> None:
        if isinstance(called, ast.Name):
            self._calls.add(("", called.id))
        elif isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            self._calls.add((called.value.id, called.attr))

    def _called(self) -> set[str]:
        """``module.name`` of every called name that another file may define."""
        called = set()
        for module, name in self._calls:
            if module:
                if module in self._modules:
                    called.add(f"{self._modules[module]}.{name}")
            elif name in self._members:
                called.add(".".join(self._members[name]))
            elif name not in self._definitions and name not in _BUILTIN_NAMES:
                called.update(f"{star}.{name}" for star in self._star_modules)
        return called


def _defaults(parameters: ast.arguments) -> Iterator[tuple[str, ast.expr]]:
    positional = [*parameters.posonlyargs, *parameters.args]
    with_default = positional[len(positional) - len(parameters.defaults) :]
    for parameter, default in [
        *zip(with_default, parameters.defaults, strict=True),
        *zip(parameters.kwonlyargs, parameters.kw_defaults, strict=True),
    ]:
        if default is not None:
            yield parameter.arg, default


def _is_mutable(default: ast.expr) -> bool:
    if isinstance(default, ast.Call) and isinstance(default.func, ast.Name):
        return default.func.id in _MUTABLE_TYPES
    return isinstance(default, _MUTABLE_DISPLAYS)


def _is_accessor(node: Function | ast.ClassDef) -> bool:
    """Whether ``node`` is the setter or deleter of a property, which needs no docstring: the getter has it."""
    return any(isinstance(mark, ast.Attribute) and mark.attr in {"setter", "deleter"} for mark in node.decorator_list)

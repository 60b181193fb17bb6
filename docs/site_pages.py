"""For the site: what Markdown does not know of docstrings, and what a site does not have of a repository.

- Markdown takes ``>>>`` for a quotation. So each doctest example, from its ``>>>`` to the next empty line, is put
  between fences, in docstrings and in pages.
- Pages may link to files outside ``docs/``, for readers of the repository. On the site only the link's text stays.

mkdocs runs this file as a hook for pages, mkdocstrings as an extension of griffe for docstrings (``mkdocs.yml``).
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

import griffe

_FENCE = "```"
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)]+)\)")


def fenced(text: str) -> str:
    r"""``text`` with every doctest example between fences.

    >>> fenced("Adds.\n\n>>> 1 + 1\n2\n\nDone.").splitlines()
    ['Adds.', '', '```python', '>>> 1 + 1', '2', '```', '', 'Done.']
    """
    lines: list[str] = []
    in_example = in_block = False
    for line in text.splitlines():
        if line.startswith(_FENCE):
            in_block = not in_block
        elif in_example and not line.strip():
            lines.append(_FENCE)
            in_example = False
        elif not in_example and not in_block and line.startswith(">>> "):
            lines.append(f"{_FENCE}python")
            in_example = True
        lines.append(line)
    if in_example:
        lines.append(_FENCE)
    return "\n".join(lines)


def without_outer_links(text: str, page: str) -> str:
    """``text`` of a page, its path below ``docs/``, in which links that lead out of ``docs/`` are plain text.

    >>> without_outer_links("[a test](../../tests/test_x.py), [ports](../design.md#ports)", "design/commits.md")
    'a test, [ports](../design.md#ports)'
    """

    def keep_or_drop(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), link[2]))
        return link[1] if target.startswith("../") else link[0]

    return _LINK.sub(keep_or_drop, text)


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The text of a page, as mkdocs goes on with it."""
    return without_outer_links(fenced(markdown), page.file.src_uri)


class DocstringExamples(griffe.Extension):
    """Changes the docstring of every object that griffe finds."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)

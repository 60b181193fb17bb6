"""For the site: doctest examples, in docstrings and in pages, become code blocks.

Markdown takes ``>>>`` for a quotation. So each example, from its ``>>>`` to the next empty line, is put between fences.
mkdocs runs this file as a hook for pages, mkdocstrings as an extension of griffe for docstrings (``mkdocs.yml``).
"""

from __future__ import annotations

from typing import Any

import griffe

_FENCE = "```"


def fenced(text: str) -> str:
    r"""``text`` with every doctest example between fences.

    >>> print(fenced("Adds.\n\n>>> 1 + 1\n2\n\nDone."))
    Adds.
    <BLANKLINE>
    ```python
    >>> 1 + 1
    2
    ```
    <BLANKLINE>
    Done.
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


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The text of a page, as mkdocs goes on with it."""
    return fenced(markdown)


class DocstringExamples(griffe.Extension):
    """Changes the docstring of every object that griffe finds."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)

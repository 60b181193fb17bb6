"""The keys of the runs of a namespace. ``views.run_records`` keeps them up to date.

All stand at the level of the namespace (``Namespace._runs_prefix``) behind the tag RUN, by kind:

    0  run id                                   the record of a run (``run_types``)
    1  status, 1 byte · created · run id        by status
    2  sized tag · created · run id             by tag
    3  sized parent id · created · run id       by parent
    4  created · run id                         all

``created`` is the number ``created_at``, so every index is in the order of results: by created_at, then id. Index keys
have empty values.
"""

from __future__ import annotations

from collections.abc import Iterable

from shoal.primitives.rules.layouts.parts import number, sized
from shoal.primitives.rules.tags import Tag

RECORD, _BY_STATUS, _BY_TAG, _BY_PARENT, ALL = (bytes((Tag.RUN, kind)) for kind in range(5))


def by_status(status: int) -> bytes:
    """The index of the runs of a status, given by its number."""
    return _BY_STATUS + bytes((status,))


def by_tag(tag: bytes) -> bytes:
    """The index of the runs that have a tag, given as UTF-8."""
    return _BY_TAG + sized(tag)


def by_parent(parent_run: bytes) -> bytes:
    """The index of the children of a run, given as UTF-8."""
    return _BY_PARENT + sized(parent_run)


def index_keys(
    prefix: bytes, run_id: bytes, created_at: int, status: int, tags: Iterable[bytes], parent_run: bytes | None
) -> set[bytes]:
    """The index keys of a run; texts as UTF-8. ``prefix`` is that of the namespace's runs."""
    indices = [ALL, by_status(status), *map(by_tag, tags)]
    if parent_run is not None:
        indices.append(by_parent(parent_run))
    rest = number(created_at) + run_id
    return {prefix + index + rest for index in indices}

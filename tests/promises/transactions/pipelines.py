"""What tests of pipelines share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import shoal

RUN = "run"
TIMEOUT_S = 30.0


@contextlib.contextmanager
def pipeline_with_errors(db: shoal.Database, depth: int) -> Iterator[shoal.Pipeline]:
    """A pipeline in which calls fail: the exit raises the first of their errors."""
    pipe = db.pipeline(RUN, depth=depth).__enter__()
    yield pipe
    with contextlib.suppress(TypeError, shoal.ShoalError):
        pipe.__exit__(None, None, None)

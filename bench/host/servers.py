"""The server of a peer: a process of its own session, in the directory of its files."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from . import signals


def start_server(
    command: Sequence[str], directory: Path, output: str, prepare: Callable[[], None] = signals.end_with_parent
) -> subprocess.Popen[bytes]:
    """Start ``command``; what it prints goes to the end of the file ``output`` there.

    ``prepare`` runs in the new process before its program does.
    """
    with open(directory / output, "ab") as out, signals.held_back():
        return subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=prepare,
        )

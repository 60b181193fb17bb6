"""What was promised, and what a kill, a power cut, a flipped byte or a checkpoint leave of it."""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shoal.coordinator.checkpoint.checkpointer import Checkpointer
from shoal.coordinator.host import Host
from shoal.coordinator.log import format as wal_format
from shoal.primitives.rules.registry import INCREMENT
from shoal.shm import codec
from shoal.shm.errors import CorruptionError
from shoal.shm.files import checkpoint
from shoal.shm.memory.reader import Reader
from shoal.shm.memory.segment import Segment
from tests.mutants.catching.rig import COUNTER, LOG_FILE_BYTES, Disk, Problem, Rig, compare, fill, request, sound
from tests.support.stores.damaged import STORE_ID

_COMMITS_MEANWHILE = 40


def acknowledged_after_kill(seed: int) -> list[Problem]:
    """What was answered is there after the coordinator is killed, no more and no less, and indexes agree."""
    rig = Rig(Disk())
    states = fill(rig, random.Random(seed), 60)
    following = Rig(rig.disk.after_kill())
    problems = compare("acknowledged", following.found.version, len(states) - 1, "versions after a kill")
    problems += compare("acknowledged", following.state(), states[-1], "state after a kill")
    return problems + sound(following)


def acknowledged_after_power_cut(seed: int) -> list[Problem]:
    """What a strict store answered is there after a power cut that took everything that was not synced."""
    rng = random.Random(seed)
    rig = Rig(Disk())
    count = 20 + rng.randrange(60)
    states = fill(rig, rng, count)
    following = Rig(rig.disk.after_power_cut(rng), boot=2)
    return compare("acknowledged", following.state(), states[-1], "state after a power cut")


def torn_tail(seed: int) -> list[Problem]:
    """After a power cut that took some unsynced pages, the store opens at a committed prefix, the synced in it."""
    rng = random.Random(seed)
    rig = Rig(Disk())
    states = fill(rig, rng, 20)
    rig.engine._sync_each_group = False
    rig.disk.on_sync = lambda: None
    for number in range(21, 60):
        key, value = f"k{rng.randrange(20):02}", f"{number}:" + "y" * rng.randrange(3_000)
        rig.put(number, **{key: value})
        states.append({**states[-1], key: value})
    following = Rig(rig.disk.after_power_cut(rng, survival=0.6), boot=2)
    version = following.found.version
    if version < 20:
        return [("acknowledged", f"20 versions were synced, {version} are there")]
    return compare("committed prefix", following.state(), states[version], f"state at version {version}")


def damage_before_acknowledged(seed: int) -> list[Problem]:
    """A flipped byte in a record with acknowledged ones behind it is CorruptionError, never a shorter log."""
    rng = random.Random(seed)
    rig = Rig(Disk())
    states = fill(rig, rng, 20)
    name = wal_format.file_name(1)
    place = rng.randrange(wal_format.FILE_HEAD_BYTES, LOG_FILE_BYTES // 4)
    rig.disk.files[name][place] ^= 1 << rng.randrange(8)
    try:
        following = Rig(rig.disk.after_kill())
    except CorruptionError:
        return []
    if following.found.version == len(states) - 1 and following.state() == states[-1]:
        return []  # it hit padding
    return [
        ("damage is told", f"byte {place} was flipped: {following.found.version} of {len(states) - 1} commits are left")
    ]


def failed_sync(seed: int) -> list[Problem]:
    """After a failed sync nothing is acknowledged that a power cut may take."""
    rng = random.Random(seed)
    rig = Rig(Disk())
    states = fill(rig, rng, 10)
    rig.disk.fails = True
    try:
        rig.put(11, k00="eleven")
    except OSError:
        return []
    states.append({**states[-1], "k00": "eleven"})
    rig.disk.fails = False
    following = Rig(rig.disk.after_power_cut(rng), boot=2)
    return compare("acknowledged", following.state(), states[-1], "state after a failed sync and a power cut")


def visible_only_when_durable(seed: int) -> list[Problem]:
    """While a record is being written or synced, readers do not see its commit."""
    problems: list[Problem] = []
    rig = Rig(Disk())

    def look(what: str) -> None:
        if rig.published > rig.engine.published:
            problems.append(("visible only when durable", f"version {rig.published} is visible while it is {what}"))

    rig.disk.on_write = lambda _data: look("written to the log")
    rig.disk.on_sync = lambda: look("synced")
    fill(rig, random.Random(seed), 20)
    return problems


class _Helper:
    """The checkpoint's process as a call in this one; one that ``hangs`` is killed before it has written anything."""

    hangs = False

    def __init__(self, arguments: list[str], content: bytes) -> None:
        self.returncode: int | None = None
        directory, store_id, segment_fd, version, _ = arguments
        if not _Helper.hangs:
            reader = Reader(Segment.attach(os.dup(int(segment_fd))))
            checkpoint.write_checkpoint(
                Path(directory), reader, int(version), codec.decode(content), bytes.fromhex(store_id)
            )
            self.returncode = 0

    def poll(self) -> int | None:
        return self.returncode


class _HelperHost(Host):
    """This machine, with that helper."""

    def start_checkpoint_helper(self, arguments: list[str], content: bytes, segment_fd: int) -> Any:
        return _Helper(arguments, content)


def _checkpoint(rig: Rig, directory: Path, hangs: bool) -> None:
    """Have the rig's coordinator make a checkpoint in ``directory``, and put that on its disk."""
    _Helper.hangs = hangs
    sessions = [[client, *outcome] for client, outcome in rig.engine.sessions.items()]
    made = Checkpointer(
        *(directory, rig.disk, rig.log, rig.writer, rig.reclaimer, lambda: sessions, 0, STORE_ID),
        host=_HelperHost(),
    )
    made.start()
    for path in directory.glob("checkpoint-*"):
        rig.disk.replace(path.name, path.read_bytes())
    if not hangs:
        for number in range(_COMMITS_MEANWHILE):  # while the helper was at work, into more than one log file
            rig.put(number + 1, 9, after=f"{number}" * 200)
        made.maintain(0.0)


def checkpointed(seed: int) -> list[Problem]:
    """Killed while or after a checkpoint is made, the store has every commit, and knows every outcome."""
    problems: list[Problem] = []
    for hangs in (True, False):
        rig = Rig(Disk())
        states = fill(rig, random.Random(seed), 100)
        asked = (5, request(1, operations=[[INCREMENT, [COUNTER, 5]]]))
        told = rig.submit(asked)
        with tempfile.TemporaryDirectory() as directory:
            _checkpoint(rig, Path(directory), hangs)
        meanwhile = {} if hangs else {"after": f"{_COMMITS_MEANWHILE - 1}" * 200}
        expected = {**states[-1], "counter": codec.encode(5).decode(), **meanwhile}
        when = "a kill before the checkpoint was written" if hangs else "a checkpoint"
        following = Rig(rig.disk.after_kill())
        problems += compare("acknowledged", following.state(), expected, f"state after {when}")
        problems += compare("exactly once", following.submit(asked), told, f"a commit sent again after {when}")
    return problems


def checkpoint_and_power_cut(seed: int) -> list[Problem]:
    """A checkpoint has its content on disk before it has its name."""
    rig = Rig(Disk())
    fill(rig, random.Random(seed), 10)
    order: list[str] = []
    with tempfile.TemporaryDirectory() as directory, _watched_os(order):
        checkpoint.write_checkpoint(Path(directory), rig.reader, rig.published, [])
    synced = "fsync" in order and order.index("fsync") < order.index("replace")
    return [] if synced else [("durable before its name", f"the calls were {', '.join(order)}")]


@contextlib.contextmanager
def _watched_os(order: list[str]) -> Iterator[None]:
    """Note in ``order`` what ``checkpoint`` asks of the system."""
    sound = checkpoint.os

    class Watched:
        def __getattr__(self, name: str) -> Any:
            found = getattr(sound, name)
            if name not in ("fsync", "replace"):
                return found

            def call(*arguments: Any) -> Any:
                if getattr(found, "__name__", "") == name:  # a mutant's stand-in is none of the system's calls
                    order.append(name)
                return found(*arguments)

            return call

    checkpoint.os = Watched()
    try:
        yield
    finally:
        checkpoint.os = sound

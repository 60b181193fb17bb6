"""The honest side of a store that is attacked, and what an attacker needs to be understood at all."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import msgpack

import shoal
from shoal.shm.wire import answer as wire_answer
from shoal.shm.wire import handshake
from shoal.shm.wire import request as wire_request
from shoal.shm.wire.frames import FrameBuffer, frame

MIB = 1 << 20


def private_kib(pid: int, what: str = "RssAnon") -> int:
    """Memory of a process that is not the segment, in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1])
    raise AssertionError(f"no {what}")


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


class Watch:
    """The honest side: it commits all the while, and what the coordinator holds is compared."""

    def __init__(self, db: shoal.Database) -> None:
        self.db = db
        self.kv = shoal.KVStore(db)
        self.kv.put("honest", "n", 0)
        self.pid = db.info().coordinator_pid
        self.descriptors = descriptors(self.pid)
        self.memory_kib = private_kib(self.pid)
        self.commits = 0

    def commit(self, times: int = 5) -> None:
        for _ in range(times):
            self.commits += 1
            assert self.kv.increment("honest", "n") == self.commits

    def unharmed(self, most_kib: int = 30 * 1024) -> None:
        """The same coordinator, sound, with no descriptor and little memory more than before."""
        self.commit()
        deadline_s = time.monotonic() + 20
        while descriptors(self.pid) > self.descriptors and time.monotonic() < deadline_s:
            time.sleep(0.02)
        assert descriptors(self.pid) <= self.descriptors
        assert self.db.info().coordinator_pid == self.pid
        assert self.db.check() == []
        assert private_kib(self.pid) - self.memory_kib < most_kib
        assert self.kv.get("honest", "n") == self.commits


def request(mutations: list[Any], reads: bytes = b"", snapshot: int = 0, commit_id: int = 1) -> bytes:
    return frame(wire_request.encode_request(commit_id, snapshot, 0, reads, msgpack.packb(mutations)))


def close(welcome: handshake.Welcome) -> None:
    for fd in welcome.descriptors:
        os.close(fd)


def answers(welcome: handshake.Welcome, count: int) -> list[tuple[Any, ...]]:
    buffer = FrameBuffer()
    found: list[tuple[Any, ...]] = []
    while len(found) < count:
        data = os.read(welcome.answer_fd, MIB)
        assert data, "the coordinator has hung up"
        found += [wire_answer.decode_answer(message) for message in buffer.feed(data)]
    return found

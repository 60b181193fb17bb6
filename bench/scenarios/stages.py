"""Where the time of one put goes: every stage of its way timed in this process, without waiting for anything.

The stages are the functions that a client and a coordinator call for a put, in their order, over a segment and a log of
their own. Deciding is what ``CommitEngine.submit`` takes beyond the stages that are timed one by one. A whole put
through a coordinator in its own process, measured last, takes longer: each process waits for the other and wakes it.
"""

from __future__ import annotations

import os
import secrets
import select
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import shoal
from shoal.coordinator.commit.apply import ClientSessions, apply_commit
from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.host import THIS_MACHINE
from shoal.coordinator.log.format import Outcome
from shoal.coordinator.log.writer import WalWriter
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.primitives.rules.registry import TABLE
from shoal.shm.files.store_files import STORE_ID_BYTES
from shoal.shm.limits import MIN_STORE_BYTES
from shoal.shm.wire import request as wire_request
from shoal.shm.wire.answer import COMMITTED, decode_answer, encode_answer
from shoal.shm.wire.frames import LENGTH_BYTES, FrameBuffer, frame

from .base import RUN, Result, Scenario, fill, key_of, median, opened, timed, value_of

_PUTS = 20_000
_KEYS = 1_000
_CLIENT_ID = 1
_READ_BYTES = 65_536
_MAINTAIN_EVERY = 500  # puts: reclaiming and preparing of log files, which are not on the way of a put
_ANSWER = encode_answer(1, COMMITTED, 1)[LENGTH_BYTES:]
_CLIENT, _PIPE, _DECODE = "client: the whole call but for the exchange", "pipe, one direction", "take in and decode"
_PLAN, _APPLY, _LOG, _WINDOW, _ANSWERING = "plan", "apply", "log", "window and session", "answer"
_FINISH, _DECIDE = "end and publish the group", "decide, and all else of submit"
_STAGES = (_PIPE, _DECODE, _PLAN, _APPLY, _LOG, _WINDOW, _ANSWERING, _FINISH)


class Stages(Scenario):
    """Medians of many puts, one after the other."""

    name = "stages"
    title = "stages: where the time of one buffered put goes, in this process; medians"
    note = (
        "Clock readings are taken off. The sum counts the pipe twice. The last row is a put through a coordinator in "
        "its own process: what it takes beyond the sum is waiting, waking, and system calls of the loop."
    )

    def run(self, directory: Path) -> Result:
        """The client's part, the stages, the engine as a whole, and a real put beside them."""
        client, requests = _client_us()
        found = {_CLIENT: client, **_stages_us(directory / "stages", requests)}
        submit_us = _submit_us(directory / "submit", requests)
        engine_us = sum(found[stage] for stage in (_PLAN, _APPLY, _LOG, _WINDOW, _ANSWERING))
        found[_DECIDE] = max(0.0, submit_us - engine_us)
        for stage in (_CLIENT, _PIPE, _DECODE, _DECIDE, *_STAGES[2:]):
            self.add(stage, "time", found[stage], "us")
        self.add("sum", "time", sum(found.values()) + found[_PIPE], "us")
        self.add("a put, median", "time", _whole_us(directory / "store"), "us")
        return self.result


class _Exchange:
    """Stands where a connection does: encodes a request, keeps it, and decodes an answer that was made beforehand."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []

    def put(self, key: bytes, value: bytes, expires_ms: int = 0) -> None:
        mutations = wire_request.encode_mutations([key, value, expires_ms])
        request = wire_request.encode_request(len(self.requests) + 1, 0, 0, wire_request.NO_READS, mutations)
        self.requests.append(frame(request))
        decode_answer(_ANSWER)


def _client_us() -> tuple[float, list[bytes]]:
    """The client's part of a put, and the framed requests that it made."""
    exchange = _Exchange()
    kv = shoal.KVStore(SimpleNamespace(_store=SimpleNamespace(auto_commit=exchange), transaction=None))
    keys, value, put = [key_of(number) for number in range(_KEYS)], value_of(1), kv.put
    marks = [time.perf_counter_ns()]
    for number in range(_PUTS):
        put(RUN, keys[number % _KEYS], value)
        marks.append(time.perf_counter_ns())
    return _between_us(marks), exchange.requests


class _Parts:
    """What a coordinator puts together to do commits."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.segment = THIS_MACHINE.new_segment(8 * MIN_STORE_BYTES)
        self.writer = Writer(self.segment)
        self.reclaimer = Reclaimer(self.writer, list)
        self.window = ConflictWindow(0)
        self.sessions = ClientSessions()
        self.log = WalWriter(THIS_MACHINE.storage(directory), 1, 0, secrets.token_bytes(STORE_ID_BYTES))

    def maintain(self) -> None:
        """What a coordinator does between groups."""
        self.log.prepare()
        self.reclaimer.step(time.monotonic())

    def close(self) -> None:
        self.log.close()


def _stages_us(directory: Path, framed: list[bytes]) -> dict[str, float]:
    parts = _Parts(directory)
    writer, log, window, sessions = parts.writer, parts.log, parts.window, parts.sessions
    frames, clock, marks = FrameBuffer(), time.perf_counter_ns, []
    read_fd, write_fd = os.pipe()
    epoll = select.epoll()
    epoll.register(read_fd, select.EPOLLIN)
    try:
        for version, message in enumerate(framed, 1):
            at = [clock()]
            os.write(write_fd, message)
            epoll.poll(0)
            data = os.read(read_fd, _READ_BYTES)
            at.append(clock())
            request = wire_request.decode_request(frames.feed(data)[0], TABLE.rules)
            at.append(clock())
            plan = writer.plan(request.writes, request.clears)
            at.append(clock())
            writer.apply(version, request.clears, request.writes, plan)
            at.append(clock())
            if not log.has_room(len(request.mutations)):
                log.reserve(len(request.mutations), False)
            outcome: Outcome = (_CLIENT_ID, request.commit_id, [])
            log.append(version, _CLIENT_ID, request.commit_id, request.mutations, b"")
            at.append(clock())
            apply_commit(window, sessions, version, request.clears, request.writes, [outcome])
            at.append(clock())
            encode_answer(request.commit_id, COMMITTED, version, [])
            at.append(clock())
            writer.end_group(version)
            writer.publish(version)
            at.append(clock())
            marks.append(at)
            if version % _MAINTAIN_EVERY == 0:
                parts.maintain()
    finally:
        epoll.close()
        os.close(read_fd)
        os.close(write_fd)
        parts.close()
    clock_us = _clock_us()
    return {
        stage: max(0.0, median(at[place + 1] - at[place] for at in marks) / 1e3 - clock_us)
        for place, stage in enumerate(_STAGES)
    }


def _submit_us(directory: Path, framed: list[bytes]) -> float:
    """The whole of ``submit``, over parts of its own."""
    parts = _Parts(directory)
    engine = CommitEngine(
        *(parts.writer, parts.reclaimer, parts.window, parts.log, THIS_MACHINE, 0, parts.sessions),
        sync_each_group=False,
        operations=TABLE,
    )
    requests = [wire_request.decode_request(message[LENGTH_BYTES:], TABLE.rules) for message in framed]
    clock, took_ns = time.perf_counter_ns, []
    try:
        for number, request in enumerate(requests, 1):
            before_ns = clock()
            engine.submit(_CLIENT_ID, request)
            took_ns.append(clock() - before_ns)
            engine.finish_group()
            if number % _MAINTAIN_EVERY == 0:
                parts.maintain()
    finally:
        parts.close()
    return max(0.0, median(took_ns) / 1e3 - _clock_us())


def _whole_us(path: Path) -> float:
    with opened(path) as db:
        fill(db, RUN, range(_KEYS))
        kv, value = shoal.KVStore(db), value_of(1)
        keys = [key_of(number % _KEYS) for number in range(_PUTS // 4)]
        return median([timed(lambda key=key: kv.put(RUN, key, value)) for key in keys]) * 1e6  # type: ignore[misc]


def _between_us(marks: list[int]) -> float:
    return max(0.0, median(after - before for before, after in pairwise(marks)) / 1e3 - _clock_us())


def _clock_us() -> float:
    """What reading the clock adds to a measured time."""
    marks = [time.perf_counter_ns() for _ in range(_KEYS)]
    return median(after - before for before, after in pairwise(marks)) / 1e3

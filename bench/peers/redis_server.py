"""Redis through redis-py and a unix socket: a server process that keeps everything in memory and logs every write.

A transaction whose work is known beforehand (append, rmw) is a script here, which the server runs in one round trip.
The hash of an append is SHA-1, the only one that scripts have. Computing shoal's hash in the client would need WATCH,
three round trips and retries, and is slower. Where the worker's own code runs between read and write (think, hot), it
takes WATCH and MULTI. Answers are parsed by hiredis, which redis-py uses by itself when it is installed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

import msgpack
import redis

from ..host.servers import start_server
from .base import BenchError, Peer, Session
from .hash_chain import now_ms

_PROGRAM = "redis-server"
_SOCKET = "redis.sock"
_OUTPUT = "redis.out"
_APPENDFSYNC = {"buffered": "everysec", "strict": "always"}
_START_S = 20.0
_POLL_S = 0.01
_LOAD_KEYS_PER_COMMAND = 2_000
_EVENTS_PER_PAGE = 10_000

_GENESIS_HASH = b"0" * 40
_ADD_ONE = "redis.call('SET', KEYS[1], cmsgpack.pack(cmsgpack.unpack(redis.call('GET', KEYS[1])) + 1))"
_APPEND = f"""
local head = redis.call('GET', KEYS[1])
local sequence, prev, last = 0, '{_GENESIS_HASH.decode()}', 0
if head then sequence, prev, last = unpack(cmsgpack.unpack(head)) end
local timestamp = math.max(tonumber(ARGV[3]), last)
local event = cmsgpack.pack({{sequence, ARGV[1], ARGV[2], timestamp, prev}})
local hash = redis.sha1hex(event)
redis.call('RPUSH', KEYS[2], event .. hash)
redis.call('RPUSH', KEYS[3], sequence)
redis.call('SET', KEYS[1], cmsgpack.pack({{sequence + 1, hash, timestamp}}))
return {{sequence, hash}}
"""


class RedisSession(Session):
    """One connection."""

    pipelines = True

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._append: str = client.script_load(_APPEND)
        self._add_one: str = client.script_load(_ADD_ONE)
        self._tasks_of = os.urandom(8)
        self._put_tasks = 0

    def get(self, key: str) -> Any:
        """``Session.get``."""
        return msgpack.unpackb(self._client.get(key))

    def put(self, key: str, value: Any) -> None:
        """``Session.put``."""
        self._client.set(key, msgpack.packb(value))

    def rmw(self, key: str) -> None:
        """``Session.rmw``: a script, which no other command interrupts."""
        self._client.evalsha(self._add_one, 1, key)

    def think(self, key: str, seconds: float) -> None:
        """``Session.think``: optimistic, since nothing is locked while a client thinks."""

        def think(value: int) -> int:
            time.sleep(seconds)
            return value + 1

        self._watched(key, think)

    def pipelined(self, pairs: Sequence[tuple[str, Any]]) -> None:
        """``Session.pipelined``: all in one write, then all answers."""
        with self._client.pipeline(transaction=False) as pipe:
            for key, value in pairs:
                pipe.set(key, msgpack.packb(value))
            pipe.execute()

    def hot(self, key: str, function: Callable[[int], int]) -> None:
        """``Session.hot``: optimistic, since Python code cannot run in the server."""
        self._watched(key, function)

    def _watched(self, key: str, function: Callable[[int], int]) -> None:
        """Replace a value by what ``function`` makes of it, again after each conflict."""
        with self._client.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(key)
                    value = msgpack.unpackb(pipe.get(key))
                    pipe.multi()
                    pipe.set(key, msgpack.packb(function(value)))
                    pipe.execute()
                    return
                except redis.WatchError:
                    continue

    def append(self, run: str, event_type: str, payload: Any) -> None:
        """``Session.append``: writes the head, the list of events and the event type's list of sequences."""
        keys = (f"log/{run}/head", f"log/{run}/events", f"log/{run}/type/{event_type}")
        self._client.evalsha(self._append, 3, *keys, event_type, msgpack.packb(payload), now_ms())

    def log_length(self, run: str) -> int:
        """``Session.log_length``."""
        length, head_hash = 0, _GENESIS_HASH
        for stored in self._events(run):
            event, found_hash = stored[:-40], stored[-40:]
            sequence, _, _, _, prev_hash = msgpack.unpackb(event, raw=True)
            expected = hashlib.sha1(event, usedforsecurity=False).hexdigest().encode()
            if (sequence, prev_hash, found_hash) != (length, head_hash, expected):
                raise BenchError(f"the log is broken at event {length}")
            length, head_hash = length + 1, expected
        return length

    def queue(self, queue: str, payload: Any) -> None:
        """``Session.queue``: a list of tasks and one of claimed tasks, from which nothing is fenced.

        A task has a number of its own, as ``LREM`` looks for its bytes.
        """
        self._put_tasks += 1
        task = msgpack.packb([self._tasks_of, self._put_tasks, payload])
        self._client.lpush(f"queue/{queue}", task)
        claimed = self._client.lmove(f"queue/{queue}", f"queue/{queue}/claimed", "RIGHT", "LEFT")
        owner, number, _ = msgpack.unpackb(claimed)
        with self._client.pipeline() as pipe:
            pipe.lrem(f"queue/{queue}/claimed", 1, claimed)
            pipe.hset(f"queue/{queue}/done", f"{owner.hex()}/{number}", msgpack.packb(True))
            pipe.execute()

    def tasks(self, queue: str) -> tuple[int, int]:
        """``Session.tasks``."""
        others = self._client.llen(f"queue/{queue}") + self._client.llen(f"queue/{queue}/claimed")
        return self._client.hlen(f"queue/{queue}/done"), others

    def close(self) -> None:
        """``Session.close``."""
        self._client.close()

    def _events(self, run: str) -> Iterator[bytes]:
        start = 0
        while page := self._client.lrange(f"log/{run}/events", start, start + _EVENTS_PER_PAGE - 1):
            yield from page
            start += len(page)


class RedisServer(Peer):
    """Each start runs a server of its own, which no other user can reach: no port, and a socket in the directory."""

    name = "Redis"
    session_type = RedisSession
    missing: ClassVar[Mapping[str, str]] = {"scan": "its keys have no order to scan in"}
    settings: ClassVar[Mapping[str, str]] = {
        "buffered": "AOF, appendfsync=everysec",
        "strict": "AOF, appendfsync=always",
    }
    caches_reads = False

    _process: subprocess.Popen[bytes] | None = None
    _directory_fd = -1

    @classmethod
    def lacks(cls, operation: str, durability: str) -> str | None:
        """As in every peer; also, the server may not be installed."""
        return f"{_PROGRAM} is not installed" if program() is None else super().lacks(operation, durability)

    def start(self, items: Mapping[str, Any]) -> None:
        """Start a server without the machine's configuration, wait for it, and load."""
        path = program()
        if path is None:
            raise BenchError(f"{_PROGRAM} is not installed")
        self._directory_fd = os.open(self.directory, os.O_PATH | os.O_DIRECTORY)
        options = {
            "port": "0",
            "unixsocket": _SOCKET,
            "unixsocketperm": "600",
            "save": "",
            "appendonly": "yes",
            "appendfsync": _APPENDFSYNC[self.durability],
        }
        command = [path, *(part for name, value in options.items() for part in (f"--{name}", value))]
        self._process = start_server(command, self.directory, _OUTPUT)
        client = self._await(self._process)
        try:
            remaining = iter(items.items())
            while group := list(islice(remaining, _LOAD_KEYS_PER_COMMAND)):
                client.mset({key: msgpack.packb(value) for key, value in group})
        finally:
            client.close()

    def connect(self) -> Session:
        """A connection of the worker's own."""
        return RedisSession(self._client())

    def stop(self) -> None:
        """Kill the server, and a child it may have for rewriting its log: nothing of it is kept."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._directory_fd >= 0:
            os.close(self._directory_fd)

    def _client(self) -> redis.Redis:
        # Through the descriptor: a socket's path has 107 bytes at most, and the directory's path may be longer.
        return redis.Redis(
            unix_socket_path=f"/proc/self/fd/{self._directory_fd}/{_SOCKET}", single_connection_client=True
        )

    def _await(self, process: subprocess.Popen[bytes]) -> redis.Redis:
        give_up_s = time.monotonic() + _START_S
        while True:
            try:
                client = self._client()
                client.ping()
                return client
            except redis.ConnectionError as error:
                if process.poll() is not None:
                    output = (self.directory / _OUTPUT).read_text(errors="replace").strip().splitlines()
                    raise BenchError(
                        f"{_PROGRAM} ended at once: {output[-1] if output else 'it printed nothing'}"
                    ) from error
                if time.monotonic() > give_up_s:
                    raise BenchError(f"{_PROGRAM} has not answered for {_START_S:.0f} s") from error
            time.sleep(_POLL_S)


def program() -> str | None:
    """Where the server is, if it is installed."""
    return shutil.which(_PROGRAM)


def version() -> str | None:
    """The server's version, None if it is not installed."""
    path = program()
    if path is None:
        return None
    output = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\bv=(\S+)", output)
    return found[1] if found else "of unknown version"

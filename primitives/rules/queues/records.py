"""The records of a queue and its tasks, and their keys.

    base        the run's prefix, the tag QUEUE, the queue's name with its length in front (``keys.sized``)
    queue       base, 0               the fields of ``Queue``, 8 bytes each; then the head and the tail of the ready set
    task        base, 1, id           see ``task_record``; id: the 16 bytes of a UUID
    body        base, 2, id, which    a payload (0) or result (1) of more than 1 KiB; a shorter one is in the task
    page        base, 3, number       a page of a set (``ordered_pages``); the number has 8 bytes
    key         base, 4, user's key   the id of the task that was put under it
    claim       0x00, QUEUE, ticket   not a record: the held key in the index of holders, of no run. Its entry is
                                      msgpack [ttl in ms, base, first token, id, ...]: the tasks claimed together, and
                                      where. The ticket has 8 bytes

Sets. A task that waits is in one of two: the ready one (``ready_set``), in the order of (priority, high first; sequence
number), or the delayed one, in the order of (time when it is due; sequence number). A claim moves what is due from the
second to the first. The record of the task does not say in which it is: that would cost a write.

Tokens of claims rise in a queue. A queue takes ``TOKENS`` of them at a time from those of the whole store
(``lease_rules.TOKEN_KEY``), so no two are the same, and they rise also if the queue was removed in between.

An entry of a claim may have tasks that the holder has no more, as it has ended them: what holds is what the task says.
So the end of a claim does not touch the entry. The holder uses its ticket again, for a claim in any queue, and that
overwrites the entry; else it goes with the holder.

Invariants: each operation leaves counts, sets and tasks as one whole, in one commit, and a task that is claimed is in
the entry of its holder and ticket. A queue without tasks has no record at all.
"""

from __future__ import annotations

import struct
from typing import Any

from shoal.primitives.rules.lease_rules import TOKEN_KEY, next_token
from shoal.primitives.rules.queues.ordered_pages import ENTRY_BYTES, OrderedPages, Pages
from shoal.primitives.rules.queues.ready_set import ReadySet
from shoal.primitives.rules.queues.task_record import (
    ID_BYTES,
    LATEST_MS,
    Task,
    decode_task,
    encode_task,
    entry_order,
)
from shoal.primitives.rules.tags import Tag
from shoal.shm import codec
from shoal.shm.errors import CorruptionError
from shoal.shm.holder_index import entry_key
from shoal.shm.operation import Read, Write

try:
    import cython
except ModuleNotFoundError:
    from shoal.shm import cython_shim as cython  # type: ignore[no-redef]

if cython.compiled:
    from cython.cimports.small_words import packed_words, unpacked_words

QUEUE, TASK, BODY, PAGE, KEY = (bytes((kind,)) for kind in range(5))
PAYLOAD, RESULT = b"\0", b"\1"
TOKENS = 1024
_CLAIM = bytes((0, Tag.QUEUE))
_NUMBER_BYTES = 8
_INLINE_BYTES = 1024
_CLAIM_FIELDS = 3  # of a claim's entry, before the ids
_DEEPEST = 32  # levels of pages; more entries than could ever be there
_FIELDS = 19
_QUEUE = struct.Struct(f"<{_FIELDS}q")
_new_tuple = tuple.__new__  # a named tuple without its Python frame


def claim_key(holder: int, ticket: int) -> bytes:
    """The key of a claim's entry in the index of holders."""
    return entry_key(holder, _CLAIM + ticket.to_bytes(_NUMBER_BYTES, "big"))


def claim_entry(ttl_ms: int, base: bytes, token: int, ids: list[bytes]) -> bytes:
    """The entry of a claim."""
    return codec.pack([ttl_ms, base, token, *ids])


def decode_claim(raw: bytes) -> tuple[bytes, int, list[bytes]]:
    """The base of the queue, the first token and the ids of the tasks, of a claim's entry in the index of holders."""
    try:
        fields = codec.unpackb(raw)
    except ValueError:
        fields = None
    if type(fields) is list and len(fields) >= _CLAIM_FIELDS:
        base, token, ids = fields[1], fields[2], fields[_CLAIM_FIELDS:]
        if type(fields[0]) is int and type(base) is bytes and type(token) is int and _are_ids(ids):
            return base, token, ids
    raise CorruptionError("the entry of a claim", 0, "a ttl, a queue and ids", f"{len(raw)} bytes of something else")


def ticket_of(held_key: bytes) -> int:
    """The ticket in the held key of a claim."""
    return int.from_bytes(held_key[-_NUMBER_BYTES:], "big")


def _are_ids(ids: list[Any]) -> bool:
    for each in ids:  # noqa: SIM110 (a generator takes longer than all else here)
        if type(each) is not bytes or len(each) != ID_BYTES:
            return False
    return True


def body_key(base: bytes, task_id: bytes, which: bytes) -> bytes:
    """The key of a long payload or result."""
    return base + BODY + task_id + which


class WriteSet:
    """What an operation reads and writes of a queue: the state it was given, with its own changes over it.

    Neither this nor what it opens refers to the ``Queue``. So a queue is freed when its operation is done, and the
    garbage collector, which the coordinator hardly runs, has nothing to find.
    """

    def __init__(self, read: Read, base: bytes, last_page: int) -> None:
        self.base = base
        self.last_page = last_page
        self._read = read
        self.writes: dict[bytes, bytes | None] = {}  # None: deleted

    def get(self, key: bytes) -> bytes | None:
        """What a key holds, the changes of this operation included."""
        if key in self.writes:
            return self.writes[key]
        found = self._read(key)
        return None if found is None else found.value

    def open(self, root: int, depth: int, first: int) -> OrderedPages:
        """The set of entries whose state these numbers are."""
        return OrderedPages(Pages(self._page, self._put_page, self._new_page), root, depth, first)

    def _page(self, number: int) -> bytes:
        page = self.get(self._page_key(number))
        if not page:
            raise CorruptionError("the record of a queue", 0, f"page {number}", "none")
        return page

    def _put_page(self, number: int, page: bytes | None) -> None:
        self.writes[self._page_key(number)] = page

    def _new_page(self) -> int:
        self.last_page += 1
        return self.last_page

    def _page_key(self, number: int) -> bytes:
        return self.base + PAGE + number.to_bytes(_NUMBER_BYTES, "big")


class Queue:
    """A queue while operations are decided, or while it is read. ``writes`` has what they change."""

    def __init__(self, read: Read, key: bytes) -> None:
        self.key = key
        self.base = key[:-1]
        self._read = read
        found = read(key)
        if found is None:
            fields: tuple[int, ...] = (0,) * _FIELDS
            head = tail = b""
        else:
            fields, head, tail = _decode_queue(found.value)
        self.sequence, last_page, self._token, self._last_token = fields[:4]
        self._write_set = WriteSet(read, self.base, last_page)
        self.ready = ReadySet(self._write_set.open, fields[4], fields[5], fields[6], head, tail)
        self._delayed = fields[7:10]
        self.due_ms = fields[10]  # when the first delayed task is due, 0 if there is none
        # How many tasks wait in each set, and how many there are of each other status.
        self.counts: list[int] = list(fields[11:17])

    def begin(self) -> None:
        """Begin another commit, behind the one that has written what was changed so far."""
        self._write_set.writes = {}

    def writes(self) -> list[Write]:
        """What was changed, the queue's own record last; nothing if no key was."""
        return [_new_tuple(Write, (key, value, 0)) for key, value in self._changed().items()]

    def flat_writes(self) -> list[Any]:
        """The same as key, value and expiry of each write, flat."""
        flat: list[Any] = []
        for key, value in self._changed().items():
            flat += (key, value, 0)
        return flat

    def _changed(self) -> dict[bytes, bytes | None]:
        """What was changed. Of a queue without tasks nothing is left."""
        writes = self._write_set.writes
        if writes:
            writes[self.key] = self._record() if any(self.counts) else None
        return writes

    def _record(self) -> bytes:
        ready, delayed = self.ready, self._delayed
        fields = [self.sequence, self._write_set.last_page, self._token, self._last_token]
        fields += [ready.root, ready.depth, ready.first, *delayed, self.due_ms, *self.counts]
        fields += [len(ready.head), len(ready.tail)]
        if cython.compiled:  # noqa: SIM108 (as an expression mypy checks both)
            raw = packed_words(fields)
        else:
            raw = _QUEUE.pack(*fields)
        return raw + ready.head + ready.tail

    def get(self, key: bytes) -> bytes | None:
        """What a key holds, the changes so far included."""
        return self._write_set.get(key)

    def put(self, key: bytes, value: bytes | None) -> None:
        """Write a key, or delete it."""
        self._write_set.writes[key] = value

    def task(self, task_id: bytes) -> Task | None:
        """A task of this queue."""
        raw = self._write_set.get(self.base + TASK + task_id)
        return None if raw is None else decode_task(raw)

    def put_task(self, task_id: bytes, task: Task) -> None:
        """Write the record of a task."""
        self._write_set.writes[self.base + TASK + task_id] = encode_task(task)

    def store_body(self, task_id: bytes, which: bytes, body: bytes) -> bytes | None:
        """What the task's record has of a payload or result: a long one is written beside it, and is None there."""
        if len(body) <= _INLINE_BYTES:
            return body
        self.put(body_key(self.base, task_id, which), body)
        return None

    def take_tokens(self, count: int) -> int:
        """The first of ``count`` tokens, ``TOKENS`` at most, that were never given."""
        if self._token + count > self._last_token:
            self._token = next_token(self._read) - 1
            self._last_token = self._token + TOKENS
            self.put(TOKEN_KEY, codec.pack(self._last_token))
        token = self._token + 1
        self._token += count
        return token

    def first_delayed(self) -> bytes | None:
        """The entry of the delayed task that is due first."""
        return self.delayed().least()

    def delayed(self) -> OrderedPages:
        """The set of delayed tasks, to be looked at."""
        return self._write_set.open(*self._delayed)

    def add_delayed(self, entry: bytes) -> None:
        """Add an entry to the set of delayed tasks."""
        delayed = self.delayed()
        delayed.add(entry)
        self._keep_delayed(delayed)

    def remove_delayed(self, entry: bytes) -> bool:
        """Remove an entry from the set of delayed tasks; whether it was there."""
        delayed = self.delayed()
        found = delayed.remove(entry)
        self._keep_delayed(delayed)
        return found

    def _keep_delayed(self, delayed: OrderedPages) -> None:
        self._delayed = delayed.root, delayed.depth, delayed.first
        first = delayed.least()
        self.due_ms = 0 if first is None else entry_order(first)
        if self.due_ms > LATEST_MS:
            raise CorruptionError("the record of a queue", 0, "entries of delayed tasks", "another")


def _decode_queue(raw: bytes) -> tuple[tuple[int, ...], bytes, bytes]:
    """The numbers of a queue's record, and head and tail of its ready set."""
    if cython.compiled:
        fields = unpacked_words(raw, _FIELDS, LATEST_MS)
    else:
        fields = _QUEUE.unpack_from(raw) if len(raw) >= _QUEUE.size else None
        fields = None if fields is None or min(fields) < 0 or max(fields) > LATEST_MS else fields
    if fields is not None:
        head_bytes, tail_bytes = fields[17], fields[18]
        behind = _QUEUE.size + head_bytes
        are_entries = not (head_bytes % ENTRY_BYTES or tail_bytes % ENTRY_BYTES) and behind + tail_bytes == len(raw)
        if are_entries and fields[5] <= _DEEPEST and fields[8] <= _DEEPEST:
            return fields, raw[_QUEUE.size : behind], raw[behind:]
    raise CorruptionError("the record of a queue", 0, "its fields", f"{len(raw)} bytes of something else")

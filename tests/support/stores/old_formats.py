"""Rewrites a store at rest as a shoal that wrote an older format would have left it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from xxhash import xxh3_64_intdigest

from shoal.coordinator.log import format as wal_format
from shoal.shm import codec
from shoal.shm.files import checkpoint, store_files
from shoal.shm.wire.request import decode_mutations, encode_mutations

_HEAD = struct.Struct("<QIIQ")
_OWN_KEYS = {b"\0\1": 10, b"\0\3": 2}


def rewrite(path: Path, version: int) -> None:
    """Rewrite ``store.json``, every log file and every checkpoint in format 1 or 2."""
    fields = json.loads((path / store_files.META_FILE).read_bytes())
    if version == 1:
        del fields["store_id"]
    (path / store_files.META_FILE).write_text(json.dumps(fields | {"format": version}))
    for log in path.glob("wal-*.log"):
        data = log.read_bytes()
        if data.strip(b"\0"):
            log.write_bytes(_old_log(data, version))
    for entry in path.glob("*.ckpt"):
        entry.write_bytes(_old_checkpoint(entry.read_bytes(), version))


def old_key(key: bytes) -> bytes:
    """A key as formats 1 and 2 have it: the name "default" is written out."""
    begin = _OWN_KEYS.get(key[:2], 0)
    if key[:1] == b"\0" and not begin:
        return key
    parts = [key[:begin]]
    for _ in range(3):
        is_default = key[begin] == 0x81
        end = begin + 1 + (0 if is_default else key[begin])
        parts.append(b"\x07default" if is_default else key[begin:end])
        begin = end
    return b"".join(parts) + key[begin:]


def _old_log(data: bytes, version: int) -> bytes:
    head = wal_format.decode_file_head(data)
    assert head is not None
    store_id = None if version == 1 else head.store_id
    old = wal_format.encode_file_head(head._replace(store_id=store_id, format_version=version))
    offset = head.size_bytes
    while (found := wal_format.decode_record(data, offset)) is not None:
        record, offset = found
        mutations, decided = record.mutations, record.decided
        if not record.is_close_mark:
            writes, clears, operations, _ = decode_mutations(mutations)
            bounds = [old_key(bound) for pair in clears for bound in pair]
            mutations = encode_mutations(_old_writes(writes), bounds or None, [*map(list, operations)] or None)
        if decided:
            writes, *others = codec.decode(decided)
            decided = codec.pack([_old_writes(writes), *others])
        old += wal_format.encode_record(*record[:5], mutations, decided)
    return old + bytes(len(data) - offset)


def _old_writes(writes: list[Any]) -> list[Any]:
    return [old_key(field) if at % 3 == 0 else field for at, field in enumerate(writes)]


def _old_checkpoint(data: bytes, version: int) -> bytes:
    old, offset, entries = b"", 0, []
    while offset < len(data):
        _, kind, length, _ = _HEAD.unpack_from(data, offset)
        content = codec.unpackb(data[offset + _HEAD.size : offset + _HEAD.size + length])
        offset += _HEAD.size + length
        if kind == checkpoint.HEAD:
            old += _block(version, kind, content[:2] if version == 1 else content)
        elif kind == checkpoint.KEYS:
            entries += [[old_key(content[at]), *content[at + 1 : at + 4]] for at in range(0, len(content), 4)]
        else:
            entries.sort()
            middle = len(entries) // 2
            for part in (entries[:middle], entries[middle:]):
                old += _block(version, checkpoint.KEYS, [field for entry in part for field in entry])
            old += _block(version, kind, content)
    return old


def _block(version: int, kind: int, content: Any) -> bytes:
    raw: bytes = codec.pack(content)
    checked = struct.pack("<II", kind, len(raw))
    return b"shoalck" + bytes((version,)) + checked + struct.pack("<Q", xxh3_64_intdigest(checked + raw)) + raw

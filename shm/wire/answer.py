"""An answer: what the coordinator sends for a request, as bytes.

answer     8 bytes  commit id
           8 bytes  status: COMMITTED, CONFLICT, REFUSED or ANSWERED
           8 bytes  commit version of a COMMITTED, else 0
           details  COMMITTED  nothing, or msgpack of the operations' results
                    CONFLICT   msgpack [key, read version, found version]
                    REFUSED    msgpack [name of the error's class, its arguments]
                    ANSWERED   msgpack of the answer to the control request
"""

from __future__ import annotations

import struct
from typing import Any

from shoal.shm import codec
from shoal.shm.errors import StoreFullError
from shoal.shm.wire.frames import FrameError
from shoal.shm.wire.wire_errors import error_from, error_parts

try:
    import cython
except ModuleNotFoundError:
    from shoal.shm import cython_shim as cython  # type: ignore[no-redef]

if cython.compiled:
    from cython.cimports.frame_bytes import framed_answer, usual_answer

_ANSWER = struct.Struct("<QQQ")
_FRAMED_ANSWER = struct.Struct("<IQQQ")  # with the frame's length in front

COMMITTED = 0
CONFLICT = 1
REFUSED = 2
ANSWERED = 3


def encode_answer(commit_id: int, status: int, version: int = 0, details: Any = None) -> bytes:
    """An answer, framed."""
    body = codec.pack(details) if details or status != COMMITTED else b""
    if cython.compiled:
        return framed_answer(commit_id, status, version, body)
    return _FRAMED_ANSWER.pack(_ANSWER.size + len(body), commit_id, status, version) + body


def no_memory_answer(message: bytes) -> bytes:
    """The answer to a request that the coordinator has no memory to decode."""
    (commit_id,) = struct.unpack_from("<Q", message)
    error = StoreFullError("the coordinator has no memory to decode the commit; free memory or commit less at a time")
    return encode_answer(commit_id, REFUSED, 0, error_parts(error))


def decode_answer(message: bytes) -> tuple[int, int, int, Any]:
    """Commit id, status, version and details of an answer; FrameError for what no coordinator sends."""
    if cython.compiled:
        usual = usual_answer(message, ANSWERED)
        if usual is not None:
            return usual
    try:
        commit_id, status, version = _ANSWER.unpack_from(message)
        details = codec.unpackb(message[_ANSWER.size :]) if len(message) > _ANSWER.size else []
    except (ValueError, struct.error) as error:
        raise FrameError(f"not an answer: {error}") from error
    if type(details) is not list or status not in (COMMITTED, CONFLICT, REFUSED, ANSWERED):
        raise FrameError(f"an answer of status {status} with details of type {type(details).__name__}")
    return commit_id, status, version, details


def failure_of(status: int, details: Any) -> Exception | None:
    """What a commit failed with, by its decoded answer; None if it is done."""
    if status == COMMITTED:
        return None
    try:
        if status == CONFLICT:
            return error_from("ConflictError", details)
        if status == REFUSED and len(details) == 2:
            return error_from(*details)
    except FrameError as error:
        return error
    return FrameError(f"the coordinator answered with status {status}")

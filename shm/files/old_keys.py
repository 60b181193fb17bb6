"""The keys of stores that were written in format 1 or 2 of the log and of checkpoints, as keys of today.

There a tenant, app or agent named "default" was written out, with its length in front; today it is the byte 0x81
(``primitives.keys``). The readers of both files rename each key that they read, so a store of mixed files is read as
one. The next checkpoint has all keys as they are today.

    a user's key           namespace (three parts), run, ...    the three parts are renamed
    0x00 0x01, 8 bytes     the index of holders; then a user's key
    0x00 0x03              the index of retention policies; then what users' keys begin with
"""

from __future__ import annotations

_NAMESPACE_PARTS = 3
_OLD_DEFAULT, _DEFAULT = b"\x07default", b"\x81"
_HEADS = {b"\0\1": 10, b"\0\3": 2}  # of the store's own keys that name a user's: how many bytes stand before that


def renamed(key: bytes) -> bytes:
    """The key of today for ``key``; a bound of a range of keys is renamed likewise."""
    if _OLD_DEFAULT not in key:
        return key
    head = _HEADS.get(key[:2], 0)
    begin, parts = head, [key[:head]]
    for _ in range(_NAMESPACE_PARTS):
        end = begin + 1 + (key[begin] if begin < len(key) else 0)
        part = key[begin:end]
        parts.append(_DEFAULT if part == _OLD_DEFAULT else part)
        begin = end
    return b"".join(parts) + key[begin:]

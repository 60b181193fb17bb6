"""shm.files.old_keys: keys of formats 1 and 2 are read as those of today."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shoal.primitives.keys import Namespace, after
from shoal.primitives.rules.retention.policies import index_key
from shoal.shm.files.old_keys import renamed
from shoal.shm.holder_index import entry_key
from tests.support.stores.old_formats import old_key

NAMES = st.sampled_from(["default", "defaul", "a", "default\0", "\x07default", "0123456"])


@given(NAMES, NAMES, NAMES, NAMES, st.binary(max_size=12), st.integers(0, 2**64 - 1))
def test_every_key_is_renamed(tenant: str, app: str, agent: str, run: str, rest: bytes, holder: int) -> None:
    """Of users, of namespaces, and of the store itself where they name a user's; and the bounds of a run."""
    space = Namespace(tenant, app, agent)
    prefix = space._run_prefix(run)
    key = prefix + b"\1" + rest
    keys = [key, space._runs_prefix() + rest, prefix, after(prefix)]
    keys += [entry_key(holder, key), index_key(prefix), index_key(space._runs_prefix())]
    for each in keys:
        assert renamed(old_key(each)) == each
        assert renamed(each) == each


@given(st.binary(max_size=40).filter(lambda key: b"\x07default" not in key))
def test_other_bytes_stay(key: bytes) -> None:
    """What is no key of a primitive is read as it is."""
    assert renamed(key) == key
    assert renamed(b"\0import" + key) == b"\0import" + key

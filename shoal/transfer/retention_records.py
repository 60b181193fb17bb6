"""The record of a retention policy in an export.

    retention   events event_age trace_age archived_age task_age        run_id null: of the namespace

Ages are in seconds. A policy of a namespace is imported where the namespace has none yet: a store keeps its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from shoal.primitives.engine import Engine
from shoal.primitives.keys import Namespace
from shoal.primitives.run_types import RetentionPolicy
from shoal.primitives.views.retention import policy_of, set_policy
from shoal.transfer.fields import Fields, RecordKind, check_names

_NAMES = ("events", "event_age", "trace_age", "archived_age", "task_age")


def facts(engine: Engine, namespace: Namespace, run_id: str) -> Iterator[RetentionPolicy]:
    """The policy that was set for a run; with "" for a run, for the namespace."""
    policy = policy_of(engine, namespace, run_id or None)
    if policy is not None:
        yield policy


def show(policy: RetentionPolicy) -> Fields:
    """Its fields."""
    return {name: getattr(policy, name) for name in _NAMES}


def make(run_id: str, fields: Fields) -> RetentionPolicy:
    """The record whose fields these are."""
    check_names("retention", fields, _NAMES)
    return RetentionPolicy(**fields)


def size(prefix: bytes, policy: RetentionPolicy) -> int:
    """A bound of the bytes it takes in a commit."""
    return 2 * len(prefix) + 256


def restore(engine: Engine, namespace: Namespace, run_id: str, policy: RetentionPolicy) -> None:
    """Set it."""
    if run_id or policy_of(engine, namespace, None) is None:
        set_policy(engine, namespace, policy, run_id or None)


KIND = RecordKind(show, make, size, facts, restore, lambda policy: ("", 0))

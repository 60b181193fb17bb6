"""The retention policies of a namespace and its runs over one engine. ``rules.retention`` has their records."""

from __future__ import annotations

from collections.abc import Iterator

from shoal.primitives.engine import Engine
from shoal.primitives.keys import Namespace, texts_of
from shoal.primitives.rules.retention.policies import (
    BEHIND_INDEX,
    INDEX,
    Policy,
    decode_policy,
    encode_policy,
    index_key,
    policy_key,
)
from shoal.primitives.run_types import RetentionPolicy
from shoal.primitives.views.view import View
from shoal.shm.arguments import check_type


class RetentionView(View):
    """The methods of ``RunsView`` for policies."""

    __slots__ = ("_namespace",)

    _namespace: Namespace

    def set_retention(self, policy: RetentionPolicy | None, run_id: str | None = None) -> None:
        """Set what is kept of the runs of the namespace, or of one run; None takes the policy away.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        set_policy(self._engine, self._namespace, policy, run_id)

    def get_retention(self, run_id: str | None = None) -> RetentionPolicy | None:
        """The policy of the namespace, or the one that holds for a run; None if there is none.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        return holding_policy(self._engine, self._namespace, run_id)


def set_policy(engine: Engine, namespace: Namespace, policy: RetentionPolicy | None, run_id: str | None) -> None:
    """``RunIndex.set_retention``."""
    owner = _owner(namespace, run_id)
    if policy is None:
        engine.delete(policy_key(owner))
        engine.delete(index_key(owner))
        return
    check_type("policy", policy, RetentionPolicy, "a shoal.RetentionPolicy, or None to take it away")
    ages = (policy.event_age, policy.trace_age, policy.archived_age, policy.task_age)
    engine.put(policy_key(owner), encode_policy(Policy(policy.events, *ages)))  # type: ignore[arg-type]
    engine.put(index_key(owner), b"")


def policy_of(engine: Engine, namespace: Namespace, run_id: str | None) -> RetentionPolicy | None:
    """The policy that was set for a run, or for the namespace."""
    found = engine.find(policy_key(_owner(namespace, run_id)))
    return None if found is None else RetentionPolicy(*decode_policy(found.value))


def holding_policy(engine: Engine, namespace: Namespace, run_id: str | None) -> RetentionPolicy | None:
    """``RunIndex.get_retention``."""
    own = policy_of(engine, namespace, run_id)
    return own if own is not None or run_id is None else policy_of(engine, namespace, None)


def all_policies(engine: Engine) -> Iterator[tuple[Namespace, str | None, RetentionPolicy]]:
    """Every policy of a store, each with its namespace and run; a namespace's own, without a run, comes first."""
    for key, _ in engine.scan(INDEX, BEHIND_INDEX):
        tenant, app, agent, run = texts_of(key[len(INDEX) :])
        namespace = Namespace(tenant, app, agent)
        policy = policy_of(engine, namespace, run or None)
        if policy is not None:  # else its run was deleted
            yield namespace, run or None, policy


def _owner(namespace: Namespace, run_id: str | None) -> bytes:
    return namespace._runs_prefix() if run_id is None else namespace._run_prefix(run_id)

"""Bad arguments, limits and the messages they come with: section 9 of the contract."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

import shoal
from shoal import LimitExceededError

KIB, MIB = 1024, 1024 * 1024


class TestTree:
    def test_every_error_is_a_shoal_error(self) -> None:
        """All are importable from shoal and subclasses of ShoalError, none of another of them."""
        names = [
            "ConflictError",
            "SnapshotExpiredError",
            "CASConflictError",
            "NotFoundError",
            "AlreadyExistsError",
            "InvalidOperationError",
            "LimitExceededError",
            "StoreFullError",
            "ConfigurationError",
            "CoordinatorLostError",
            "WorkerLostError",
            "WorkerTaskError",
            "TaskTimeoutError",
            "CorruptionError",
        ]
        for name in names:
            assert getattr(shoal, name).__bases__ == (shoal.ShoalError,)
            assert name in shoal.__all__
        assert issubclass(shoal.ShoalError, Exception)

    def test_messages_tell_fact_value_and_remedy(self) -> None:
        """What the errors with fields say."""
        assert str(shoal.CASConflictError("k", 3, 5)) == "'k' has version 5, expected 3; read it again and decide"
        assert "snapshot 3 was revoked" in str(shoal.SnapshotExpiredError(3, 9))
        assert str(LimitExceededError("size", 1000, 2000)).startswith("size is 2,000; the limit is 1,000; ")
        damage = shoal.CorruptionError("wal-1.log", 64, "a record", "zeros")
        assert (damage.file, damage.offset, damage.expected, damage.found) == ("wal-1.log", 64, "a record", "zeros")
        assert "wal-1.log is damaged at byte 64: expected a record, found zeros; " in str(damage)


CALLS = {
    "get": lambda kv, run, key: kv.get(run, key),
    "put": lambda kv, run, key: kv.put(run, key, 1),
    "put_with_ttl": lambda kv, run, key: kv.put_with_ttl(run, key, 1, 5),
    "ttl": lambda kv, run, key: kv.ttl(run, key),
    "delete": lambda kv, run, key: kv.delete(run, key),
    "exists": lambda kv, run, key: kv.exists(run, key),
    "increment": lambda kv, run, key: kv.increment(run, key),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
class TestKeysAndRuns:
    def test_key_of_1024_bytes(self, kv: shoal.KVStore, run: str, call: Any) -> None:
        """1,024 bytes of UTF-8 are a key, for every call."""
        call(kv, run, "é" * 512)

    def test_key_of_1025_bytes(self, kv: shoal.KVStore, run: str, call: Any) -> None:
        """1,025 bytes are LimitExceededError naming limit and size; bytes count, not characters."""
        for key in ("k" * 1025, "é" * 512 + "k"):
            with pytest.raises(LimitExceededError) as caught:
                call(kv, run, key)
            assert (caught.value.limit, caught.value.size) == (1024, 1025)
            assert "1,024" in str(caught.value)
            assert "1,025" in str(caught.value)

    def test_empty_key(self, kv: shoal.KVStore, run: str, call: Any) -> None:
        """An empty key is ValueError."""
        with pytest.raises(ValueError, match="key is empty"):
            call(kv, run, "")

    @pytest.mark.parametrize("key", [None, 1, b"k", ("k",), ["k"], {"k": 1}], ids=repr)
    def test_key_of_another_type(self, kv: shoal.KVStore, run: str, call: Any, key: Any) -> None:
        """A key that is no str is TypeError naming its type."""
        with pytest.raises(TypeError, match=f"key has type {type(key).__name__}"):
            call(kv, run, key)

    def test_lone_surrogate(self, kv: shoal.KVStore, run: str, call: Any) -> None:
        """Text that has no UTF-8 form is ValueError, as key and as run id."""
        with pytest.raises(ValueError, match="key"):
            call(kv, run, "a\ud800")
        with pytest.raises(ValueError, match="run_id"):
            call(kv, "\udfff", "k")

    def test_run_id(self, kv: shoal.KVStore, run: str, call: Any) -> None:
        """A run id is 1 to 128 bytes of text: else ValueError, LimitExceededError or TypeError, naming run_id."""
        call(kv, "x" * 128, "k")
        with pytest.raises(ValueError, match="run_id is empty"):
            call(kv, "", "k")
        for run_id in ("x" * 129, "é" * 64 + "x"):
            with pytest.raises(LimitExceededError, match="run_id") as caught:
                call(kv, run_id, "k")
            assert (caught.value.limit, caught.value.size) == (128, 129)
        no_texts: list[Any] = [None, 1, b"r", ["r"]]
        for no_text in no_texts:
            with pytest.raises(TypeError, match=r"run_id has type|unhashable type: 'list'"):
                call(kv, no_text, "k")

    def test_a_run_in_place_of_its_id(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str, call: Any) -> None:
        """A TypeError that names run_id. A run has a hash, as it is equal to itself read again."""
        runs = shoal.RunIndex(memory_db)
        made: Any = runs.create_run(run_id=run, tags=["a"], metadata={"b": [1]})
        with pytest.raises(TypeError, match="run_id has type RunMetadata; give a str"):
            call(kv, made, "k")
        assert {made, runs.get_run(run)} == {made}


class _Any(str):
    """A text that says that it equals every other one."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("a")


class TestOtherNames:
    def test_a_str_of_a_users_own_type(self, memory_db: shoal.Database) -> None:
        """Who uses one as run id or queue takes nothing from those who use the text that it says it equals."""
        kv, queue = shoal.KVStore(memory_db), shoal.TaskQueue(memory_db)
        kv.put(_Any("b"), "k", 1)
        queue.put("r", _Any("b"), 1)
        queue.put("r", "a", 2)
        assert [kv.get(run, "k") for run in ("a", "b")] == [None, 1]
        assert [shoal.KVStore(memory_db).get(run, "k") for run in ("a", "b")] == [None, 1]
        assert [[task.payload for task in queue.list("r", name)] for name in ("a", "b")] == [[2], [1]]

    @pytest.mark.parametrize(
        ("prefix", "error"), [(1, TypeError), (None, TypeError), (b"", TypeError), ("\ud800", ValueError)]
    )
    def test_prefix(self, kv: shoal.KVStore, run: str, prefix: Any, error: type[Exception]) -> None:
        """A prefix that is no text is refused by list and list_with_values."""
        for call in (kv.list, kv.list_with_values):
            with pytest.raises(error, match="prefix"):
                call(run, prefix)

    def test_run_ids_of_transactions(self, memory_db: shoal.Database) -> None:
        """transaction, snapshot, transact and on() refuse a bad run id at once."""
        calls: list[Callable[[Any], Any]] = [
            memory_db.transaction,
            memory_db.snapshot,
            lambda run: memory_db.transact(run, lambda txn: None),
        ]
        for call in calls:
            with pytest.raises(ValueError, match="run_id is empty"):
                call("")
            with pytest.raises(TypeError, match="run_id has type int"):
                call(5)
        with memory_db.transaction("r") as txn, pytest.raises(LimitExceededError):
            txn.on("x" * 129)

    @pytest.mark.parametrize("namespace", [None, "tenant", {}, ("a", "b", "c")])
    def test_what_is_no_namespace(self, memory_db: shoal.Database, namespace: Any) -> None:
        """TypeError that says what to give, from each method of a database that takes one, before ``fn`` runs."""
        calls: list[object] = []
        call: Callable[[], object]
        for call in (
            lambda: memory_db.transaction("run", namespace=namespace),
            lambda: memory_db.snapshot("run", namespace=namespace),
            lambda: memory_db.transact("run", calls.append, namespace=namespace),
            lambda: shoal.KVStore(memory_db, namespace=namespace),
        ):
            with pytest.raises(TypeError, match=r"namespace has type .*; give a shoal\.Namespace"):
                call()
        assert calls == []

    @pytest.mark.parametrize("part", ["tenant", "app", "agent"])
    def test_namespace_parts(self, part: str) -> None:
        """Each part of a Namespace is 1 to 128 bytes of text; errors name the part."""
        assert getattr(shoal.Namespace(**{part: "x" * 128}), part) == "x" * 128
        with pytest.raises(ValueError, match=f"{part} is empty"):
            shoal.Namespace(**{part: ""})
        with pytest.raises(TypeError, match=f"{part} has type int"):
            shoal.Namespace(**{part: 1})  # type: ignore[arg-type]  # it is refused
        with pytest.raises(LimitExceededError, match=part):
            shoal.Namespace(**{part: "x" * 129})


class TestValues:
    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (object(), "value at $ has type object"),
            ({"steps": [1, 2, 3, {"fn": lambda: 0}]}, "value at $.steps[3].fn has type function"),
            ([[], [{1}]], "value at $[1][0] has type set"),
            ((1, 2j), "value at $[1] has type complex"),
            ({"a": {1: 2}}, "value at $.a has key 1 of type int"),
            ({b"a": 1}, "value at $ has key b'a' of type bytes"),
            (bytearray(b"x"), "value at $ has type bytearray"),
            ([memoryview(b"x")], "value at $[0] has type memoryview"),
            ({"when": datetime(2026, 1, 1)}, "value at $.when is a datetime without a time zone"),
            ([2**64], f"value at $[0] is {2**64}"),
            (-(2**63) - 1, f"value at $ is {-(2**63) - 1}"),
            (range(3), "value at $ has type range"),
            ({"e": ValueError("x")}, "value at $.e has type ValueError"),
        ],
        ids=lambda value: value[:40] if isinstance(value, str) else "",
    )
    def test_what_cannot_be_stored_is_named_with_its_path(
        self, memory_db: shoal.Database, kv: shoal.KVStore, run: str, value: Any, message: str
    ) -> None:
        """TypeError says where in the value and what it is; nothing is written, by a facade or in a transaction."""
        put: Callable[[], object]
        for put in (
            lambda: kv.put(run, "k", value),
            lambda: memory_db.transact(run, lambda txn: txn.kv.put("k", value)),
        ):
            with pytest.raises(TypeError) as caught:
                put()
            assert str(caught.value).startswith(message)
        assert not kv.exists(run, "k")

    def test_a_value_in_itself(self, kv: shoal.KVStore, run: str) -> None:
        """A list that holds itself is refused, with a limit and not with a crash."""
        value: list[Any] = []
        value.append(value)
        with pytest.raises(LimitExceededError, match="nesting"):
            kv.put(run, "k", value)

    @pytest.mark.long
    def test_value_of_16_mib(self, kv: shoal.KVStore, run: str) -> None:
        """Bytes and text of 16 MiB are stored; one byte more is LimitExceededError naming limit and size."""
        with pytest.raises(LimitExceededError) as caught:
            kv.put(run, "k", bytes(16 * MIB + 1))
        assert (caught.value.limit, caught.value.size) == (16 * MIB, 16 * MIB + 1)
        assert "16,777,216" in str(caught.value)
        assert not kv.exists(run, "k")
        with pytest.raises(LimitExceededError):
            kv.put(run, "k", "x" * (16 * MIB + 1))
        assert not kv.exists(run, "k")
        kv.put(run, "k", bytes(16 * MIB))
        assert kv.get(run, "k") == bytes(16 * MIB)
        kv.put(run, "k", "x" * 16 * MIB)
        assert kv.get(run, "k") == "x" * 16 * MIB
        kv.delete(run, "k")

    @pytest.mark.long
    def test_commit_of_64_mib(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """A commit of more than 64 MiB is LimitExceededError with nothing written; just below it is committed."""
        with pytest.raises(LimitExceededError) as caught, memory_db.transaction(run) as txn:  # noqa: PT012
            for number in range(5):
                txn.kv.put(str(number), bytes(16 * MIB - 5))
        assert caught.value.limit == 64 * MIB
        assert 80 * MIB <= caught.value.size < 81 * MIB
        assert kv.list(run) == []
        with memory_db.transaction(run) as txn:
            for number in range(4):
                txn.kv.put(str(number), bytes(15 * MIB))
        assert kv.list(run) == ["0", "1", "2", "3"]
        assert memory_db.check() == []
        for key in kv.list(run):
            kv.delete(run, key)


class NoRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def _deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(10_000):
        value = [value]
    return value


CANNOT_BE_SHOWN: dict[str, Callable[[shoal.Database, Any], Any]] = {
    "retries is": lambda db, bad: db.transact("run", lambda txn: txn, retries=bad),
    "depth is": lambda db, bad: db.pipeline("run", depth=bad),
    r"events\[0\] is": lambda db, bad: shoal.EventLog(db).append_many("run", [bad]),
    "fn returned": lambda db, bad: shoal.StateCell(db).transition("run", "cell", lambda _: bad),
    "durability is": lambda db, bad: shoal.open("never-made", durability=bad),
}


class TestWhatCannotBeShown:
    """A value without a ``repr``, as it is nested too deep or raises, is refused as any other, named by its type."""

    @pytest.mark.parametrize("message", CANNOT_BE_SHOWN)
    @pytest.mark.parametrize("make", [_deep, NoRepr])
    def test_an_argument(self, memory_db: shoal.Database, message: str, make: Callable[[], Any]) -> None:
        """The error is the one for a bad argument, not what the ``repr`` failed with."""
        shoal.StateCell(memory_db).set("run", "cell", 1)
        bad = make()
        with pytest.raises(
            (TypeError, ValueError, shoal.ConfigurationError), match=rf"{message} <{type(bad).__name__}>"
        ):
            CANNOT_BE_SHOWN[message](memory_db, bad)

    def test_a_key_in_a_value(self, kv: shoal.KVStore, run: str) -> None:
        """The same for a key of a dict that is to be stored."""
        with pytest.raises(TypeError, match=r"value at \$ has key <NoRepr> of type NoRepr"):
            kv.put(run, "k", {NoRepr(): 1})

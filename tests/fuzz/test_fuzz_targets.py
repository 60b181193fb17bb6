"""Every decoder of what another process wrote, given what no process of shoal writes: it refuses, and nothing else.

The targets are those of ``python -m tests.fuzz``, which goes on for as long as it is told, guided by coverage.
"""

from __future__ import annotations

import base64
import gc
import os
import random
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.coordinator.commit import engine as commit_engine
from shoal.primitives.rules import registry as operations
from shoal.shm import codec
from shoal.shm.errors import AlreadyExistsError, CASConflictError
from shoal.shm.files import checkpoint, epoch_file, store_files
from shoal.shm.wire import answer as wire_answer
from shoal.shm.wire import frames, handshake, wire_errors
from shoal.shm.wire import request as wire_request
from shoal.shm.wire.frames import FrameError
from tests.fuzz.all_targets import TARGETS
from tests.fuzz.mutation import BOMBS, mutated
from tests.fuzz.target import script
from tests.support.present import present
from tests.support.repository import ROOT

NAMES = list(TARGETS)
# Each input of these is a store of its own: so many times fewer of them.
SLOW = {"engine": 10, "operation": 10, "log": 4, "checkpoints": 4}
QUICK = [name for name in NAMES if name not in SLOW]

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=12)
    | st.sampled_from(BOMBS[:6] + BOMBS[8:])
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=4))
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=4) | st.binary(max_size=4), inner),
    max_leaves=12,
)
# 100 by default, 2,000 with --slow.
EXAMPLES = present(hypothesis.settings.default).max_examples


def _run(name: str, data: bytes) -> None:
    """Run one input; what fails says how to run it again."""
    try:
        TARGETS[name].run(data)
    except BaseException as error:
        error.add_note(f"again: python -m tests.fuzz {name} --input {base64.b64encode(data).decode()}")
        raise


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_what_is_whole(name: str) -> None:
    """The inputs that fuzzing starts from are taken or refused."""
    for seed in TARGETS[name].seeds():
        _run(name, seed)
    gc.collect()


@pytest.mark.parametrize("name", [name for name in QUICK if name not in ("store_json", "epoch", "keys", "frames")])
def test_what_is_announced_takes_no_memory(name: str) -> None:
    """A length field of 4 GiB, or 4 billion items, costs what was sent, not what was said."""
    _run(name, TARGETS[name].seeds()[0])
    tracemalloc.start()
    try:
        for bomb in BOMBS:
            for data in (bomb, script(bomb, bomb, bomb, bomb, bomb)):
                _run(name, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_what_is_nearly_whole(name: str) -> None:
    """A valid input with a few of its parts changed, at any depth."""
    seeds = TARGETS[name].seeds()

    @given(st.integers(0, 2**32), st.integers(0, len(seeds) - 1))
    @hypothesis.settings(max_examples=max(3, EXAMPLES // 5 // SLOW.get(name, 1)), database=None)
    def run(seed: int, i: int) -> None:
        _run(name, mutated(seeds[i], random.Random(seed)))

    run()
    gc.collect()


@given(TREES.map(msgpack.packb) | st.lists(TREES, max_size=6).map(msgpack.packb) | st.binary(max_size=80))
@hypothesis.settings(max_examples=EXAMPLES // 8, database=None)
def test_any_msgpack(data: bytes) -> None:
    """Msgpack of any shape, and any bytes, at every decoder."""
    for name in QUICK:
        _run(name, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SLOW))
def test_any_msgpack_in_a_store(name: str) -> None:
    """The same where each input is a store of its own."""

    @given(st.lists(TREES, max_size=6).map(msgpack.packb))
    @hypothesis.settings(max_examples=EXAMPLES // SLOW[name], database=None)
    def run(data: bytes) -> None:
        _run(name, data)

    run()


class TestFound:
    """Inputs that once did what they must not, one each."""

    def engine(self, *messages: object) -> None:
        _run("engine", script(*messages))

    def test_writes_that_are_a_map(self) -> None:
        """Were logged, and then refused."""
        self.engine([1, 0, 0, b"", [{}, None, None, None]])

    def test_a_key_written_twice(self) -> None:
        """Stood in the indexes twice."""
        self.engine([1, 0, 0, b"", [[b"new", b"1", 0, b"new", b"2", 0], None, None, None]])

    @pytest.mark.parametrize(
        ("key", "value"),
        [("text", b"v"), (b"k", "text"), (b"k" * 5000, b"v"), (b"", b"v"), (b"k", b"v" * (17 << 20)), (b"first", b"v")],
        ids=["text as key", "text as value", "long key", "empty key", "long value", "key twice"],
    )
    def test_an_insert_of_what_is_no_key_or_value(self, key: Any, value: Any) -> None:
        """Was applied in part, or made every scan fail for good."""
        self.engine([1, 0, 0, b"", [[], None, [["insert", [b"a", "there", [], [b"first", b"1", key, value]]]], None]])

    @pytest.mark.parametrize("name", sorted(operations.OPERATIONS))
    def test_an_operation_without_arguments(self, name: str) -> None:
        """Ended the coordinator, if it was an append."""
        self.engine([1, 0, 0, b"", [[], None, [[name, []]], None]])

    def test_reads_with_a_moment_beyond_all_years(self) -> None:
        """Ended the coordinator: as a value they raised OverflowError."""
        self.engine([1, 0, 0, BOMBS[12], [[], None, None, None]])
        _run("request", script(1, 0, 0, BOMBS[12], [[], None, None, None]))

    def test_keys_read_that_are_a_map(self) -> None:
        """Ended the coordinator, once its window had forgotten the snapshot."""
        _run("request", script(1, 0, 0, [{b"key": None}, []], [[], None, None, None]))

    @pytest.mark.parametrize("text", [b"[" * 100_000, b"\xff", b'{"format":1,"durability":5,"max_bytes":9000000}'])
    def test_a_store_json_of_something_else(self, text: bytes) -> None:
        """Raised RecursionError and UnicodeDecodeError, or was served without ever syncing."""
        _run("store_json", text)

    def test_the_last_generation(self) -> None:
        """No coordinator could start after it, and none said why."""
        _run("epoch", b"\xff" * 8 + bytes(4088))

    @pytest.mark.parametrize("name", ["checkpoint-x.ckpt", "checkpoint-1 copy.ckpt", "checkpoint-\u0661.ckpt"])
    def test_a_file_named_nearly_as_a_checkpoint(self, name: str) -> None:
        """Kept the store from opening."""
        assert checkpoint.version_of(name) is None

    def test_an_error_that_says_what_it_was_sent(self) -> None:
        """Ended the coordinator, where msgpack packs less deep than it unpacks."""
        nested = codec.unpackb(b"\x91" * 900 + b"\xc0")
        for error in (AlreadyExistsError(nested), CASConflictError(nested, nested, 1)):
            _, arguments = wire_errors.error_parts(error)
            assert all(part is None or isinstance(part, (str, int)) for part in arguments)

    def test_an_answer_cut_short(self) -> None:
        """Was struct.error."""
        with pytest.raises(FrameError, match="not an answer"):
            wire_answer.decode_answer(b"\0" * 23)


def _no_check(*_: object) -> None:
    return None


def _half_a_hello(message: bytes) -> handshake.Hello:
    return handshake.Hello(*codec.unpackb(message))


class _Greedy(frames.FrameBuffer):
    """Believes every length."""

    __slots__ = ()

    def feed(self, data: bytes) -> list[bytes]:
        try:
            return super().feed(data)
        except FrameError:
            return []


def _leaky_welcome(connection: socket.socket) -> handshake.Welcome:
    try:
        return handshake._decode_welcome(*_received(connection))
    except (ValueError, TypeError, LookupError, FrameError) as error:
        raise EOFError from error


def _received(connection: socket.socket) -> tuple[bytes, list[int]]:
    import socket

    data, descriptors, _, _ = socket.recv_fds(connection, 4096, 4)
    return data[4:], descriptors


def _unchecked_decode_mutations(mutations: bytes) -> tuple[Any, ...]:
    writes, clears, operations_, control = codec.unpackb(mutations)
    flat = clears or []
    pairs = [(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)]
    return writes, pairs, operations_ or [], control


def _late_refusal(sound: Any) -> Callable[..., bytes]:
    """Takes the version before it is sure of the commit."""

    def submit(self: Any, client_id: Any, request: Any) -> bytes:
        before = self.version
        raw: bytes = sound(self, client_id, request)
        if wire_answer.decode_answer(raw[4:])[1] == wire_answer.REFUSED:
            self.version = before + 1
        return raw

    return submit


# Target, what is replaced, by what: a decoder that trusts what it reads.
MUTANTS = [
    ("hello", handshake, "decode_hello", _half_a_hello),
    ("welcome", handshake, "receive_welcome", _leaky_welcome),
    ("frames", frames, "MAX_FRAME_BYTES", 2**33),
    ("request", wire_request, "decode_mutations", _unchecked_decode_mutations),
    ("request", wire_request, "_check_keys", _no_check),
    ("engine", wire_request, "check_writes", _no_check),
    ("operation", commit_engine.CommitEngine, "submit", _late_refusal(commit_engine.CommitEngine.submit)),
    ("answer", wire_errors, "_BY_NAME", {"ConflictError": KeyError, "NotFoundError": OSError}),
    ("checkpoints", checkpoint, "_is_sound", lambda block, after, newest: True),
    ("checkpoints", checkpoint, "_is_end", lambda content: True),
    ("log", wire_request, "check_writes", _no_check),
    ("store_json", store_files, "DURABILITIES", ("memory", "buffered", "strict", None)),
    ("epoch", epoch_file, "_LAST_GENERATION", -1),
    ("value", codec, "unpackb", lambda raw, **options: msgpack.unpackb(raw, strict_map_key=False, **options)),
]


@pytest.mark.plain  # it replaces what compiled modules call in C
@pytest.mark.parametrize(
    ("name", "where", "what", "mutant"),
    [pytest.param(*p, id=f"{p[0]}-{p[2]}", marks=[pytest.mark.slow] if p[0] in SLOW else []) for p in MUTANTS],
)
def test_a_mutant_is_found(name: str, where: Any, what: str, mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that trusts its input is caught by its target within 4,000 changed inputs."""
    seeds = TARGETS[name].seeds()
    monkeypatch.setattr(where, what, mutant)
    with pytest.raises(BaseException) as caught:  # noqa: PT011, PT012 (whatever a fault makes of it)
        for seed in range(4000):
            TARGETS[name].run(mutated(seeds[seed % len(seeds)], random.Random(seed)))
        pytest.fail(f"{what} went unnoticed")
    assert "went unnoticed" not in str(caught.value)


class TestCommand:
    """``python -m tests.fuzz``."""

    def run(self, *arguments: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.fuzz", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    @pytest.mark.long
    def test_replay(self, tmp_path: Path) -> None:
        """A kept input runs again without atheris."""
        (tmp_path / "input").write_bytes(TARGETS["hello"].seeds()[0])
        done = self.run("hello", "--replay", "input", tmp_path=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert "nothing wrong" in done.stdout

    @pytest.mark.slow
    def test_guided_by_coverage(self, tmp_path: Path) -> None:
        """Every target for 20 seconds, with atheris."""
        pytest.importorskip("atheris", reason="needs atheris: pip install -e '.[fuzz]'")
        done = self.run("--all", "--seconds", "20", tmp_path=tmp_path)
        assert done.returncode == 0, done.stdout

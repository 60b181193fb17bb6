"""``shoal import`` of what it must refuse: nothing of it is imported."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.primitives.views.fleet.tasks import split_name
from shoal.shm.limits import MAX_IMPORTED_COUNT
from shoal.transfer import json_lines, records
from shoal.transfer.import_check import ExportFormatError
from shoal.transfer.import_file import import_store
from tests.support.stores.full_store import bring, sealed

# By kind of record: fields of a wrong type, out of bounds, unknown, or not what the hash says.
WRONG: dict[str, list[dict[str, Any]]] = {
    "run": [
        {"status": "Done"}, {"status": ["Active"]}, {"created_at": 1.5}, {"created_at": -1}, {"created_at": 2**63},
        {"updated_at": None}, {"tags": "t"}, {"tags": ["t", "t"]}, {"tags": [1]}, {"tags": [""]}, {"run_id": ""},
        {"run_id": "x" * 129}, {"run_id": None}, {"parent_run": ""}, {"error": 1}, {"more": 1}, {"kind": "rum"},
        {"kind": []}, {"namespace": "a"}, {"namespace": ["a", "b"]}, {"namespace": ["", "b", "c"]},
        {"namespace": [1, "b", "c"]}, {"namespace": None},
    ],
    "kv": [
        {"key": ""}, {"key": 1}, {"key": "k" * 1025}, {"key": "\ud800"}, {"value": 2**64 - 1, "key": None},
        {"expires_at": 0}, {"expires_at": "5"}, {"expires_at": 2**64 - 1}, {"expires_at": True},
    ],
    "event": [
        {"payload": "other"}, {"sequence": 1}, {"sequence": "0"}, {"event_type": ""}, {"event_type": None},
        {"timestamp": 2**63}, {"timestamp": 0}, {"hash": "00"}, {"hash": 5}, {"hash": "zz" * 32},
        {"prev_hash": "11" * 32},
    ],
    "state": [
        {"version": 0}, {"version": 1.0}, {"version": 2**63}, {"updated_at": "x"}, {"name": ""}, {"deleted": True},
    ],
    "trace": [
        {"type": "Thinking"}, {"type": []}, {"fields": []}, {"fields": {}}, {"fields": {"trace_type": "", "data": 1}},
        {"fields": {"trace_type": "x", "data": 1, "x": 2}}, {"id": ""}, {"id": None}, {"parent_id": "unknown"},
        {"parent_id": 1}, {"parent_id": "trace-0"}, {"timestamp": None}, {"tags": {}},
    ],
    "consumer": [
        {"name": ""}, {"name": 1}, {"position": -1}, {"position": "1"}, {"position": True}, {"position": 2**64},
        {"token": 1},
    ],
    "task": [
        {"id": "q"}, {"id": 1}, {"sequence": 0}, {"status": "Delayed"}, {"status": 1}, {"priority": "1"},
        {"attempt": -1}, {"max_attempts": 0}, {"due_at": None}, {"error": 1}, {"key": ""}, {"sequence": 2**62},
        {"due_at": 2**62 + 1},
    ],
    "lease": [
        {"name": ""}, {"name": 1}, {"token": -1}, {"token": "1"}, {"token": 2**62}, {"slot": None}, {"pid": 1.5},
        {"ttl_ms": {}},
    ],
    "result": [{"key": ""}, {"key": None}, {"expires_at": 0}, {"expires_at": 1.5}, {"expires_at": 2**63}, {"more": 1}],
    "budget": [
        {"name": ""}, {"name": None}, {"limit": 5}, {"limit": "-1"}, {"used": "nan"}, {"used": "1e3"}, {"more": "1"},
        {"used": "0.1234567890123"}, {"refill_per_s": "0.0000000001"}, {"refilled_at": "0"}, {"refilled_at": -1},
    ],
    "effect": [{"key": ""}, {"key": 5}, {"started_at": -1}, {"started_at": "now"}, {"token": 1}],
}  # fmt: skip


class TestDamage:
    """Whatever is wrong with a file, nothing of it is imported, and one line says what and where."""

    def refused(self, raw: bytes, tmp_path: Path, pattern: str) -> None:
        (tmp_path / "f").write_bytes(raw)
        with (tmp_path / "f").open("rb") as file, pytest.raises(ExportFormatError, match=pattern) as caught:
            import_store(lambda: pytest.fail("the store was opened"), file, "f")
        assert "nothing was imported" in str(caught.value)

    @pytest.mark.long
    def test_cut_short_anywhere(self, exported: bytes, tmp_path: Path) -> None:
        """After any line, in the middle of any line."""
        ends = [i + 1 for i, byte in enumerate(exported) if byte == 10][:-1]
        for end in random.Random(1).sample(ends, 10):
            self.refused(exported[:end], tmp_path, "the end of the file")
            self.refused(exported[: end + 5], tmp_path, "ends in the middle")
        self.refused(b"", tmp_path, "line 1 of f")

    @pytest.mark.long
    def test_a_flipped_bit_anywhere(self, exported: bytes, tmp_path: Path) -> None:
        """The checksum knows of what else makes sense."""
        places = random.Random(2)
        for _ in range(25):
            raw = bytearray(exported)
            raw[places.randrange(len(raw) - 1)] ^= 1 << places.randrange(7)
            self.refused(bytes(raw), tmp_path, "line [0-9]+ of f is not as an export has it")

    @pytest.mark.parametrize("raw", [b"\0" * 100, b"\n\n", b"PK\3\4", b"{}\n", b"[]\n", b'{"shoal_export":"1"}\n'])
    def test_something_else(self, raw: bytes, tmp_path: Path) -> None:
        """A file that is no export."""
        self.refused(raw, tmp_path, "line 1 of f")

    def test_another_format(self, tmp_path: Path) -> None:
        """Of a shoal to come."""
        self.refused(b'{"shoal_export":2}\n', tmp_path, "its format is 2, and this shoal reads 1")

    @pytest.mark.long
    def test_more_after_the_end(self, exported: bytes, tmp_path: Path) -> None:
        """Two exports one behind the other are none."""
        self.refused(exported + exported, tmp_path, "more after the closing line")

    def lines(self, exported: bytes) -> list[bytes]:
        return exported.splitlines(keepends=True)[:-1]

    def test_lines_missing_repeated_or_moved(self, leased: bytes, tmp_path: Path) -> None:
        """With a checksum that fits: a record twice, an event or a parent missing, lines in another order."""
        lines = self.lines(leased)
        kinds = [json.loads(line).get("kind") for line in lines]
        for kind in records.KINDS:
            at = kinds.index(kind)
            self.refused(sealed([*lines[: at + 1], *lines[at:]]), tmp_path, f"line {at + 2} of f")
        event = kinds.index("event")
        self.refused(sealed([*lines[:event], *lines[event + 1 :]]), tmp_path, "event 0 is missing")
        # The first trace need not be a parent: those of one millisecond are sorted by id.
        parents = {json.loads(line).get("parent_id") for line in lines}
        trace = next(i for i, line in enumerate(lines) if kinds[i] == "trace" and json.loads(line)["id"] in parents)
        self.refused(sealed([*lines[:trace], *lines[trace + 1 :]]), tmp_path, "before its parent")
        self.refused(sealed([lines[0], *lines[2:], lines[1]]), tmp_path, "records are sorted")
        pair = kinds.index("kv")
        swapped = [*lines[:pair], lines[pair + 1], lines[pair], *lines[pair + 2 :]]
        self.refused(sealed(swapped), tmp_path, "records are sorted")

    @pytest.mark.parametrize(
        ("kind", "change"),
        [(kind, change) for kind in WRONG for change in WRONG[kind]],
        ids=lambda part: str(part)[:60],
    )
    def test_a_wrong_field(self, leased: bytes, tmp_path: Path, kind: str, change: Any) -> None:
        """Of a wrong type, out of bounds, unknown, or not what the hash says; the checksum fits."""
        lines = self.lines(leased)
        at = next(i for i, line in enumerate(lines) if json.loads(line).get("kind") == kind)
        lines[at] = json_lines.dump(json_lines.load(lines[at]) | change)
        self.refused(sealed(lines), tmp_path, f"line {at + 1} of f")

    def test_what_a_store_counts_on_from(self, leased: bytes, empty: shoal.Database, tmp_path: Path) -> None:
        """Tokens and sequence numbers are refused from where queues could not count on; before that they can."""
        lines = self.lines(leased)
        for kind, name in (("task", "sequence"), ("lease", "token")):
            at = next(i for i, line in enumerate(lines) if json.loads(line).get("kind") == kind)
            fields = json_lines.load(lines[at])
            assert isinstance(fields, dict)
            forged = json_lines.dump(fields | {name: MAX_IMPORTED_COUNT + 1})
            self.refused(sealed([*lines[:at], forged, *lines[at + 1 :]]), tmp_path, f"line {at + 1} of f.*{name}")
            lines[at] = json_lines.dump(fields | {name: MAX_IMPORTED_COUNT})
            if kind == "task":
                task = fields
        bring(empty, tmp_path, sealed(lines))
        run_id, queue = str(task["run_id"]), split_name(str(task["id"]))
        assert queue is not None
        tasks = shoal.TaskQueue(empty)
        put = tasks.put(run_id, queue[0], 1, priority=100)
        claimed = tasks.claim(run_id, queue[0])
        assert claimed is not None
        assert (claimed.id, claimed.token > MAX_IMPORTED_COUNT) == (put, True)
        claimed.complete()
        assert empty.check() == []

    @pytest.mark.parametrize("kind", records.KINDS)
    def test_a_missing_field(self, leased: bytes, tmp_path: Path, kind: str) -> None:
        """Each of them; a cell without value is a deleted one, an effect without result is in doubt."""
        lines = self.lines(leased)
        at = next(i for i, line in enumerate(lines) if json.loads(line).get("kind") == kind)
        for name in json_lines.load(lines[at]).keys() - {"namespace", {"state": "value", "effect": "result"}.get(kind)}:
            fields = json_lines.load(lines[at])
            del fields[name]
            self.refused(
                sealed([*lines[:at], json_lines.dump(fields), *lines[at + 1 :]]), tmp_path, f"line {at + 1} of f"
            )

    @pytest.mark.long
    def test_a_record_too_large_for_a_commit(self, tmp_path: Path) -> None:
        """Found before anything is written, not in the middle."""
        fields: dict[str, Any] = {
            "kind": "run",
            "run_id": "r",
            "parent_run": None,
            "status": "Active",
            "created_at": 1,
            "updated_at": 1,
        }
        fields |= {"completed_at": None, "tags": [str(i) for i in range(300_000)], "metadata": None, "error": None}
        self.refused(sealed([json_lines.dump(records.HEADER), json_lines.dump(fields)]), tmp_path, "limit")

    def test_a_value_too_large(self, tmp_path: Path) -> None:
        """One byte more than can be stored."""
        fields = {"kind": "kv", "run_id": "r", "key": "k", "value": "x" * (16 * 2**20 + 1), "expires_at": None}
        self.refused(sealed([json_lines.dump(records.HEADER), json_lines.dump(fields)]), tmp_path, "line 2 of f.*limit")

"""What open snapshots read, what is validated and decided, and who is told what."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from shoal.primitives.rules.event_rules import METADATA, decode_metadata
from shoal.primitives.rules.registry import EVENT_APPEND, INCREMENT
from shoal.shm.errors import CorruptionError, SnapshotExpiredError
from shoal.shm.wire.answer import COMMITTED, CONFLICT
from shoal.shm.wire.request import CommitSet
from tests.mutants.catching.rig import COUNTER, Disk, Problem, Rig, compare, fill, request, sound

_LOG_KEY = b"log" + METADATA


def open_snapshots(seed: int) -> list[Problem]:
    """Through overwrites, deletes, clears and reclaiming an open snapshot reads what was committed at its version."""
    rng = random.Random(seed)
    rig = Rig(Disk())
    slots = [rig.attach() for _ in range(2)]
    states: dict[int, dict[str, str]] = {0: {}}
    held: list[tuple[Any, Any, int]] = []
    state: dict[str, str] = {}
    problems: list[Problem] = []
    for number in range(1, 150):
        if rng.random() < 0.3 and len(held) < 5:
            mine = rng.choice(slots)
            held.append((mine, *mine.pin(rig.words)))
            problems += compare("real time", held[-1][2], rig.published, "the version of a snapshot taken now")
        state = dict(state)
        key = f"k{rng.randrange(12):02}"
        kind = rng.random()
        if kind < 0.6:
            state[key] = f"{number}" * rng.randint(1, 30)
            rig.submit((7, request(number, [key.encode(), state[key].encode(), 0])))
        elif kind < 0.85:
            state.pop(key, None)
            rig.submit((7, request(number, [key.encode(), None, 0])))
        else:
            state = {k: v for k, v in state.items() if not "k03" <= k < "k08"}
            rig.submit((7, request(number, clears=[b"k03", b"k08"])))
        states[rig.published] = state
        if rng.random() < 0.5:
            rig.reclaim()
            for version in range(max(states) + 1, rig.published + 1):
                states[version] = state
        for _, _, version in held:
            problems += _read_at(rig, version, states[version])
        if held and rng.random() < 0.2:
            mine, slot, _ = held.pop(rng.randrange(len(held)))
            mine.unpin(slot)
        if problems:
            return problems
    return sound(rig)


def _read_at(rig: Rig, version: int, expected: dict[str, str]) -> list[Problem]:
    try:
        found = rig.state(version)
        points = {k: f.value.decode(errors="replace") for k in expected if (f := rig.reader.find(k.encode(), version))}
    except (SnapshotExpiredError, CorruptionError, UnicodeDecodeError) as error:
        return (
            [] if rig.reclaimer.revoked else [("replay at snapshot", f"{type(error).__name__} at {version}: {error}")]
        )
    problems = compare("replay at snapshot", found, expected, f"a scan at {version}")
    return problems or compare("replay at snapshot", points, expected, f"point reads at {version}")


def revoked_snapshot(seed: int) -> list[Problem]:
    """A snapshot that was revoked for want of room reads what it should or raises, and never anything else."""
    rng = random.Random(seed)
    rig = Rig(Disk())
    slots = rig.attach()
    states = fill(rig, rng, 40)
    _, version = slots.pin(rig.words)
    rig.reclaimer.step(rig.now_ms / 1000)
    for number in range(41, 90):
        rig.put(number, **{f"k{rng.randrange(20):02}": "z" * rng.randrange(400)})
        rig.now_ms += 100
        rig.engine.free_more()
        rig.engine.make_version()
    return [p for p in _read_at(rig, version, states[version]) if "SnapshotExpired" not in p[1]]


def group_of_operations(_seed: int) -> list[Problem]:
    """Increments and appends of one group see each other, each client is told its own, and the log's chain is whole."""
    rig = Rig(Disk())
    increments = [(n, request(1, operations=[[INCREMENT, [COUNTER, n]]])) for n in (1, 2, 3)]
    answers = rig.submit(*increments)
    problems = compare("replay", [a[3] for a in answers], [[1], [3], [6]], "increments by 1, 2 and 3 of one group gave")
    for turn in (2, 3):
        answers = rig.submit(*((n, _append(turn, f"type{n}")) for n in (1, 2, 3)))
        sequences = [a[3][0][0][0] if a[3] else None for a in answers]
        first = 3 * (turn - 2)
        problems += compare("event chain", sequences, [first, first + 1, first + 2], "appends of one group were given")
    for client in (1, 2):  # the first in a commit of its own, with a write
        ((_, _, _, results),) = rig.submit((client, _append(4, "type1", [b"key", b"x", 0] if client == 1 else [])))
        problems += compare("event chain", [r[0][0] for r in results], [client + 5], "an append behind others was")
    found = rig.reader.find_latest(_LOG_KEY)
    metadata = decode_metadata(None if found is None else found.value)
    return problems + compare("event chain", metadata.next_sequence, 8, "after eight appends the next sequence is")


def _append(commit_id: int, event_type: str, writes: Sequence[Any] = ()) -> CommitSet:
    return request(commit_id, [*writes], operations=[[EVENT_APPEND, [_LOG_KEY, "xxh3", [[event_type, b"x"]]]]])


def resent_after_kill(_seed: int) -> list[Problem]:
    """A commit that was logged and not answered is done once: sent again, it is answered as it was decided."""
    rig = Rig(Disk())
    rig.put(1, 1, before="kill")
    single = [(1, request(2, operations=[[INCREMENT, [COUNTER, 5]]]))]
    joint = [(n, _append(2, f"t{n}")) for n in (2, 3)]
    told = rig.submit(*single) + rig.submit(*joint)
    following = Rig(rig.disk.after_kill())
    again = following.submit(*single) + following.submit(*joint)
    return compare("exactly once", again, told, "the answers to commits sent again")


def conflict_across_take_over(_seed: int) -> list[Problem]:
    """A transaction that began under a coordinator that died conflicts with what was committed since."""
    rig = Rig(Disk())
    rig.put(1, k="old")
    snapshot = rig.published
    rig.put(2, k="new")
    following = Rig(rig.disk.after_kill())
    answer = following.submit((8, request(1, [b"l", b"1", 0], snapshot=snapshot, keys=[b"k"])))[0]
    return compare("replay", answer[1], CONFLICT, "status of a commit that read what was changed before the take-over")


def conflict_with_clear(_seed: int) -> list[Problem]:
    """A commit that read a key, or scanned a range, that was cleared since conflicts."""
    rig = Rig(Disk())
    rig.put(1, k="old")
    snapshot = rig.published
    rig.submit((7, request(2, clears=[b"a", b"z"])))
    point = request(1, [b"l", b"1", 0], snapshot=snapshot, keys=[b"k"])
    ranged = request(2, [b"l", b"1", 0], snapshot=snapshot, ranges=[(b"j", b"m")])
    statuses = [rig.submit((8, each))[0][1] for each in (point, ranged)]
    problems = compare("replay", statuses, [CONFLICT] * 2, "statuses of commits that read what was cleared")
    return problems + compare("replay", rig.state(), {}, "after two refused commits the store has")


def validation(seed: int) -> list[Problem]:
    """A commit conflicts if, and only if, something that it read or scanned was written since its snapshot."""
    rng = random.Random(seed)
    rig = Rig(Disk())
    names = [f"k{i}".encode() for i in range(10)]
    written: list[set[bytes]] = [set()]  # by version
    for number in range(1, 120):
        snapshot = max(0, len(written) - 1 - rng.randrange(5))
        keys = rng.sample(names, rng.randrange(3))
        low = rng.randrange(10)
        ranges = [(names[low], names[min(9, low + rng.randrange(4))])] if rng.random() < 0.3 else []
        writes: list[Any] = [part for key in rng.sample(names, rng.randint(1, 2)) for part in (key, b"%d" % number, 0)]
        changed = set[bytes]().union(*written[snapshot + 1 :])
        conflicts = any(key in keys or any(a <= key < b for a, b in ranges) for key in changed)
        answer = rig.submit((7, request(number, writes, snapshot=snapshot, keys=keys, ranges=ranges)))[0]
        if answer[1] != (CONFLICT if conflicts else COMMITTED):
            what = f"read {keys} and {ranges} at {snapshot}, of which {changed} were written since"
            return [("replay", f"a commit that {what} was answered with status {answer[1]}")]
        if not conflicts:
            written.append(set(writes[::3]))
    return []


def expiry(_seed: int) -> list[Problem]:
    """A key is there until its moment, then a commit that counted on it conflicts; a renewed key stays."""
    rig = Rig(Disk())
    moment = rig.now_ms + 500
    rig.submit((7, request(1, [b"short", b"1", moment, b"renewed", b"1", moment])))
    rig.submit((7, request(2, [b"renewed", b"2", 0])))
    rig.engine.sweep_expired()
    rig.engine.finish_group()
    problems = compare(
        "replay", rig.engine._writer.newest(b"short", rig.now_ms) is not None, True, "before its moment it is there"
    )
    counted = request(1, [b"l", b"1", 0], snapshot=rig.published, keys=[b"short"], valid_until_ms=moment)
    rig.now_ms = moment + 1
    problems += compare("replay", rig.submit((8, counted))[0][1], CONFLICT, "status of a commit that read the expired")
    rig.engine.sweep_expired()
    rig.engine.finish_group()
    found = rig.reader.find(b"renewed", rig.published)
    return problems + compare(
        "replay", found is not None and found.value, b"2", "a key written again without an expiry is"
    )

"""What ``Database.info`` returns."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.primitives.engine import Store


@dataclass(frozen=True)
class StoreInfo:
    """The result of ``Database.info``.

    - ``path`` (str): where the store lies.
    - ``durability`` (str): ``"memory"``, ``"buffered"`` or ``"strict"``.
    - ``coordinator_pid`` (int): the process that serves it.
    - ``commit_version`` (int): the newest one.
    - ``keys`` (int): live keys; those of a range just deleted are counted until they are reclaimed.
    - ``bytes_used`` (int): of the store's memory.
    - ``clients`` (int): attached databases.
    - ``compiled`` (bool): whether this process runs the hot modules compiled, and not as plain Python.
    - ``history`` (float): for how many seconds past versions are kept; 0 if none are.
    - ``history_version`` (int or None): the oldest version that can be read; None if none are kept.
    - ``history_since`` (int or None): since when that was the newest version, ms since the epoch (UTC).
    - ``history_bytes`` (int): of the store's memory, taken by past versions, as the coordinator has counted them within
      the last second.

    Memory that is short shortens the history: compare ``history_since`` with what ``history`` asks for.

    >>> StoreInfo("fleet.db", "buffered", 4711, 12, 3, 16384, 1, False).keys
    3
    """

    path: str
    durability: str
    coordinator_pid: int
    commit_version: int
    keys: int
    bytes_used: int
    clients: int
    compiled: bool
    history: float = 0.0
    history_version: int | None = None
    history_since: int | None = None
    history_bytes: int = 0


def info_of(store: Store, compiled: bool) -> StoreInfo:
    """What a store says of itself now."""
    stats = store.stats()
    return StoreInfo(
        path=store.path,
        durability=store.durability,
        coordinator_pid=stats.coordinator_pid,
        commit_version=stats.commit_version,
        keys=stats.keys,
        bytes_used=stats.bytes_used,
        clients=stats.clients,
        compiled=compiled,
        history=stats.history_ms / 1000,
        history_version=stats.history_version if stats.history_ms else None,
        history_since=stats.history_since_us // 1000 if stats.history_ms else None,
        history_bytes=stats.history_bytes,
    )

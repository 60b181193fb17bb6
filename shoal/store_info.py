"""What ``Database.info`` returns."""

from __future__ import annotations

from dataclasses import dataclass


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

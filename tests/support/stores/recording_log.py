"""A log that keeps its records in memory, for an engine without a disk."""

from __future__ import annotations

from shoal.coordinator.log import format as wal_format
from shoal.coordinator.log.format import FileHead


class RecordingLog:
    """As much of a ``WalWriter`` as the engine asks for: whole records, kept."""

    def __init__(self) -> None:
        self.raw = wal_format.encode_file_head(FileHead(1, 1, 0, 0))
        self.clients: list[int] = []

    def has_room(self, body_bytes: int) -> bool:
        return True

    def append(self, version: int, client_id: int, commit_id: int, mutations: bytes, decided: bytes) -> None:
        self.raw += wal_format.encode_record(version, version - 1, 0, client_id, commit_id, mutations, decided)
        self.clients.append(client_id)

    def sync(self) -> None:
        pass

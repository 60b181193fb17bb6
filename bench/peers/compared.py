"""The stores that are compared. All ratios are of shoal, the first. A new peer is a file here and a line below."""

from __future__ import annotations

from .base import Peer
from .disk_cache import DiskCache
from .lmdb_peer import LmdbPeer
from .manager_dict import ManagerDict
from .postgres_server import PostgresServer
from .redis_server import RedisServer
from .shoal_store import ShoalStore
from .sqlite_wal import SqliteWal

SUBJECT: type[Peer] = ShoalStore
PEERS: tuple[type[Peer], ...] = (SUBJECT, LmdbPeer, SqliteWal, RedisServer, PostgresServer, ManagerDict, DiskCache)

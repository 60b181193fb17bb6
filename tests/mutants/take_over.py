"""Faults in going from one coordinator to the next."""

from __future__ import annotations

import os
from pathlib import Path

from shoal.coordinator.server import process_start
from shoal.shm.host.randomness import random_id
from shoal.workers.shared_memory.attachment import Attachment
from shoal.workers.shared_memory.channel import Channel
from shoal.workers.shared_memory.connection import StoreConnection
from tests.mutants.registry import WORKER, Patch, mutant


@mutant("take-over", "transactions_after_deaths", side=WORKER)
def resend_as_another(patch: Patch) -> None:
    """A commit that was cut off is sent again under another name, so nobody knows that it is done."""

    def attach(self: StoreConnection, channel: Channel, in_flight: bool, give_up_s: float) -> Attachment:
        channel.client_id = random_id()
        attachment: Attachment = sound(self, channel, in_flight, give_up_s)
        return attachment

    sound = patch.set(StoreConnection, "_attach", attach)


@mutant("take-over", "reader_of_two_coordinators", side=WORKER)
def keep_old_attachment(patch: Patch) -> None:
    """Who only reads goes on with the segment of a coordinator that has died."""
    patch.set(StoreConnection, "current", lambda self: self.attachment)


@mutant("take-over", "two_coordinators")
def serve_without_lock(patch: Patch) -> None:
    """Two coordinators may serve one store."""

    patch.set(process_start, "lock_file", lambda _path: os.open(os.devnull, os.O_RDONLY))

    def lock_directory(directory: Path, shared: bool) -> int:
        held: int | None = sound(directory, shared)
        return os.open(directory, os.O_RDONLY) if held is None else held

    sound = patch.set(process_start, "lock_directory", lock_directory)

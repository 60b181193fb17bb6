"""The one place where the simulated machine is put under shoal's modules.

Coordinators and clients get the machine through their ports (``host.py``). What both sides share calls ``os``,
``select`` and ``time`` itself; each of these modules is given another ``os`` here, under the name by which it calls it.
"""

from __future__ import annotations

import contextlib
import select
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from shoal import past_changes
from shoal.coordinator.log import format as wal_format
from shoal.coordinator.memory import ordered_index, reclaim, writer
from shoal.coordinator.memory.check_report import check_segment
from shoal.coordinator.server import coordinator, process_start
from shoal.primitives import identifiers, retry
from shoal.primitives.facades import event_log, leases, state_cell, task_queue
from shoal.primitives.facades.fleet import budget, idempotency
from shoal.primitives.rules import event_rules as event_operations
from shoal.primitives.rules import requests
from shoal.primitives.views import cells
from shoal.shm import clock
from shoal.shm.files import checkpoint
from shoal.shm.host import descriptors, pipe_signal, randomness, waiting
from shoal.shm.memory.segment import Segment
from shoal.shm.wire import pipe_messages
from shoal.workers import polling
from shoal.workers.presence import holding, watching
from shoal.workers.presence import waiting as presence_waiting
from shoal.workers.shared_memory import attachment, channel, connection, pipeline, take_over
from tests.mutants import Patch
from tests.mutants import answers as mutant_answers
from tests.mutants import recovery as mutant_recovery
from tests.simulation.world import fakes
from tests.simulation.world.control_socket import lock_file
from tests.simulation.world.disk import SimulatedStorage
from tests.simulation.world.machine import World
from tests.simulation.world.pipes import Poll, Thing
from tests.simulation.world.threads import SimulatedSleep, threads

# As small as the limits of the machine.
_RECORD_BYTES = 300
_TTL_MS = 50
# Modules that ask for the time or sleep.
_TIMED: tuple[Any, ...] = (
    waiting,
    pipe_messages,
    connection,
    channel,
    polling,
    retry,
    take_over,
    clock,
    cells,
    event_log,
    state_cell,
    mutant_answers,
    leases,
    task_queue,
    budget,
    idempotency,
    identifiers,
    holding,
    presence_waiting,
    watching,
    pipeline,
)


@contextlib.contextmanager
def under(world: World) -> Iterator[None]:
    """Have shoal run on this machine meanwhile."""
    patch = Patch()
    try:
        _install(world, patch)
        yield
    finally:
        for reference in world.attachments:
            left = reference()
            if left is not None:
                left.pipes.clear()  # nothing is left that it could close
        patch.restore()
        for segment in world.segments:
            segment.close_descriptor()


def _install(world: World, patch: Patch) -> None:
    fakes.SharedSegment.world = world
    fake_os, rng = fakes.Os(world), world.rng
    sim_time = SimpleNamespace(
        monotonic=lambda: world.now_s,
        perf_counter=lambda: world.now_s,
        time_ns=lambda: world.now_ms() * 1_000_000,
        sleep=world.sleep,
    )
    sim_select = SimpleNamespace(
        poll=lambda: Poll(world, world.descriptors),
        POLLIN=select.POLLIN,
        POLLOUT=select.POLLOUT,
        select=select.select,
    )
    for module in (
        pipe_messages,
        pipe_signal,
        connection,
        attachment,
        descriptors,
        waiting,
        requests,
        pipeline,
    ):
        patch.set(module, "os", fake_os)
    for module in (attachment, pipe_messages, presence_waiting):
        patch.set(module, "select", sim_select)
    for module in _TIMED:
        patch.set(module, "time", sim_time)
    sim_random = SimpleNamespace(uniform=rng.uniform)
    for module in (polling, retry):
        patch.set(module, "random", sim_random)
    patch.set(randomness, "random_bits", rng.getrandbits)
    patch.set(channel, "ANSWER_SPIN_S", 0.00005)
    patch.set(event_operations, "RECORD_BYTES", _RECORD_BYTES)
    _install_fleet(world, patch)
    _install_coordinator(world, patch)
    _install_client(world, patch)


def _install_fleet(world: World, patch: Patch) -> None:
    """What holds, waits and watches: threads of clients, ids, and how long things are held."""
    rng, sim_threads = world.rng, threads(world)
    for module in (connection, holding, pipeline):
        patch.set(module, "ReentrantLock", sim_threads.ReentrantLock)
    for module in (holding, pipeline, watching):
        patch.set(module, "thread", sim_threads)
    patch.set(holding, "Sleep", lambda: SimulatedSleep(world))
    patch.set(identifiers, "os", SimpleNamespace(urandom=rng.randbytes))
    patch.set(identifiers, "newest", 0)
    # Of a watch that is dropped while its process dies, or after it: it belongs to nobody.
    patch.set(watching, "os", SimpleNamespace(getpid=lambda: world.process.pid if world.lives else 0))
    patch.set(past_changes, "DiskStorage", lambda _directory: SimulatedStorage(world.disk))
    patch.set(budget, "TTL_MS", _TTL_MS)
    patch.set(idempotency, "LEASE_TTL_S", _TTL_MS / 1000)
    patch.set(event_log, "TTL_S", _TTL_MS / 1000)


def _install_coordinator(world: World, patch: Patch) -> None:
    def check_after_recovery(found: Any, segment: Segment, made: Any) -> None:
        world.recovered.append(found.version)
        for text in check_segment(segment, found.version, made):
            world.problems.append(("check() after recovery", text))

    module: Any = coordinator
    recover = module.recover

    def recover_and_check(storage: Any, made: Any, *others: Any) -> Any:
        found = recover(storage, made, *others)
        world.say(f"recovered up to {found.version}, from a checkpoint at {found.checkpoint_version}")
        check_after_recovery(found, made.segment, made)
        return found

    patch.set(coordinator, "recover", recover_and_check)
    # The lock files, which a mutant takes away (``serve_without_lock``).
    patch.set(process_start, "lock_file", lambda path: lock_file(world, path))
    patch.set(process_start, "HERE", fakes.Path(world, "store"))
    patch.set(process_start, "os", fakes.Os(world))
    patch.set(
        process_start,
        "lock_directory",
        lambda _directory, shared: world.descriptors.open(Thing(None, world.process)),
    )
    patch.set(wal_format, "boot_id", lambda: world.boot)
    checkpoint_os = fakes.CheckpointOs(world)
    patch.set(checkpoint, "os", checkpoint_os)
    patch.set(mutant_recovery, "os", checkpoint_os)
    patch.set(
        checkpoint,
        "private_file",
        lambda path, _flags: world.descriptors.open(Thing(world.disk.open(path.name), world.process)),
    )
    patch.set(checkpoint, "DiskStorage", lambda _directory: SimulatedStorage(world.disk))
    for module in (reclaim, writer, ordered_index):
        patch.set(module, "publish_barrier", world.step)
    patch.set(reclaim, "barrier", world.step)


def _install_client(world: World, patch: Patch) -> None:
    class Attachment(attachment.Attachment):
        """One that the world knows."""

        __slots__ = ()

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            world.attachments.append(weakref.ref(self))

    patch.set(connection, "Attachment", Attachment)
    patch.set(connection, "uninterrupted", lambda call: call())

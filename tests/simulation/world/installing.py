"""The one place where the simulated machine is put under shoal's modules.

The product keeps calling ``os``, ``select`` and ``time`` themselves: an injected edge would cost every commit a call
through Python. Each module is given another ``os`` here instead, under the name by which it calls it.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from shoal.coordinator.checkpoint import checkpointer
from shoal.coordinator.checkpoint import helper as checkpoint_helper
from shoal.coordinator.log import format as wal_format
from shoal.coordinator.log import writer as wal_writer
from shoal.coordinator.memory import hash_index, ordered_index, reclaim, writer
from shoal.coordinator.memory.check_report import check_segment
from shoal.coordinator.server import clients, process, served_meta, serving_epoch
from shoal.coordinator.server import loop as server
from shoal.primitives.facades import state_cell
from shoal.primitives.rules import event_rules as event_operations
from shoal.shm import clock, limits
from shoal.shm.files import checkpoint, store_files
from shoal.shm.host import descriptors, waiting
from shoal.shm.memory import integrity, reader, snapshots
from shoal.shm.memory.segment import Segment
from shoal.shm.memory.snapshots import SnapshotSlots
from shoal.shm.wire import frames
from shoal.workers import retry
from shoal.workers.shared_memory import attachment, autocommit, channel, connection, take_over
from tests.mutants import Patch
from tests.mutants import answers as mutant_answers
from tests.mutants import recovery as mutant_recovery
from tests.mutants import take_over as mutant_take_over
from tests.simulation.world import fakes
from tests.simulation.world.disk import SimulatedStorage
from tests.simulation.world.door import Door, knock, start_if_nobody_does
from tests.simulation.world.machine import World
from tests.simulation.world.pipes import Epoll, Poll, Thing

# As small as the limits of the machine.
_LEAF_ENTRIES, _BRANCH_ENTRIES, _BUCKET_FILL = 4, 4, 24
_RECORD_BYTES = 300


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
            os.close(segment._fd)
            segment._fd = -1


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
        epoll=lambda: Epoll(world, world.descriptors),
        POLLIN=select.POLLIN,
        POLLOUT=select.POLLOUT,
        EPOLLIN=select.EPOLLIN,
        EPOLLOUT=select.EPOLLOUT,
    )
    for module in (server, clients, frames, connection, attachment, descriptors, checkpointer, process, waiting):
        patch.set(module, "os", fake_os)
    for module in (server, clients, attachment, frames):
        patch.set(module, "select", sim_select)
    for module in (
        server,
        waiting,
        frames,
        connection,
        channel,
        autocommit,
        retry,
        take_over,
        clock,
        state_cell,
        mutant_answers,
        checkpointer,
    ):
        patch.set(module, "time", sim_time)
    sim_random = SimpleNamespace(uniform=rng.uniform)
    for module in (take_over, retry):
        patch.set(module, "random", sim_random)
    secrets = SimpleNamespace(randbits=rng.getrandbits)
    for module in (process, connection, channel, mutant_take_over):
        patch.set(module, "secrets", secrets)
    for name, value in world.limits.items():
        patch.set(limits, name, value)
    for module, name in (
        (wal_writer, "LOG_FILE_BYTES"),
        (checkpoint, "CHECKPOINT_BLOCK_BYTES"),
        (channel, "ANSWER_SPIN_S"),
    ):
        patch.set(module, name, world.limits[name])
    patch.set(event_operations, "RECORD_BYTES", _RECORD_BYTES)
    for module in (ordered_index, writer, integrity, reader):
        patch.set(module, "LEAF_ENTRIES", _LEAF_ENTRIES)
    for module in (ordered_index, integrity, reader):
        patch.set(module, "BRANCH_ENTRIES", _BRANCH_ENTRIES)
    patch.set(hash_index, "BUCKET_FILL", _BUCKET_FILL)
    _install_coordinator(world, patch)
    _install_client(world, patch)


def _install_coordinator(world: World, patch: Patch) -> None:
    def make_segment(max_bytes: int, seed: int) -> Segment:
        segment = fakes.SharedSegment.create(limits.MIN_STORE_BYTES, seed)
        world.segments.append(segment)
        return segment

    def check_after_recovery(found: Any, segment: Segment, made: Any) -> None:
        world.recovered.append(found.version)
        for text in check_segment(segment, found.version, made):
            world.problems.append(("check() after recovery", text))

    recover = process.recover

    def recover_and_check(storage: Any, made: Any, reclaimer: Any, meta: store_files.StoreMeta) -> Any:
        found = recover(storage, made, reclaimer, meta)
        world.say(f"recovered up to {found.version}, from a checkpoint at {found.checkpoint_version}")
        check_after_recovery(found, made.segment, made)
        return found

    new = store_files.StoreMeta(world.durability, limits.MIN_STORE_BYTES, bytes(range(store_files.STORE_ID_BYTES)))

    def read_meta(_directory: Any) -> store_files.StoreMeta | None:
        file = world.disk.names.get(store_files.META_FILE)
        return None if file is None else store_files.decode_meta(bytes(file.content), Path())

    patch.set(process, "_meta", lambda directory, _durability, _max_bytes: read_meta(directory) or new)
    patch.set(
        served_meta,
        "store_files",
        SimpleNamespace(META_FILE=store_files.META_FILE, encode_meta=store_files.encode_meta, read_meta=read_meta),
    )
    patch.set(
        process,
        "store_files",
        SimpleNamespace(
            **{name: value for name, value in vars(store_files).items() if name.isupper()},
            make_directory=lambda _directory: [],
            remove_directories=lambda _made: None,
            check_durability=lambda _durability: None,
            check_max_bytes=lambda _max_bytes: None,
            raise_if_read_only=lambda _directory, _error: None,
            read_meta=read_meta,
            check_epoch=lambda _directory: None,
        ),
    )
    patch.set(process, "recover", recover_and_check)
    patch.set(process, "DiskStorage", lambda _directory: SimulatedStorage(world.disk))
    patch.set(process, "Segment", SimpleNamespace(create=make_segment))
    patch.set(serving_epoch, "EpochWord", lambda _directory, writable: fakes.Epoch(world))
    patch.set(process, "ControlSocket", lambda _directory, admit: Door(world, admit))
    patch.set(process, "filelock", world.file_locks)
    patch.set(process, "HERE", fakes.Path(world, "store"))
    patch.set(process, "WorkingPlace", lambda _directory: fakes.Place())
    patch.set(
        process,
        "lock_directory",
        lambda _directory, shared: world.descriptors.open(Thing(None, world.process)),
    )
    patch.set(process, "Path", str)
    patch.set(process, "gc", SimpleNamespace(freeze=lambda: None, set_threshold=lambda *_: None))
    patch.set(process, "sys", SimpleNamespace(stderr=io.StringIO()))
    patch.set(process, "append_note", lambda *_: None)
    patch.set(
        process,
        "signal",
        SimpleNamespace(SIGINT=2, SIGTERM=15, signal=lambda *_: None, set_wakeup_fd=lambda *_args, **_options: None),
    )
    patch.set(process, "threading", SimpleNamespace(Event=lambda: fakes.Event(world)))

    def start_thread(target: Any, _arguments: tuple[()]) -> None:
        world.thread(world.process, "shoal-sync", target)

    patch.set(process, "_thread", SimpleNamespace(start_new_thread=start_thread))
    patch.set(wal_writer, "threading", SimpleNamespace(Lock=lambda: fakes.Lock(world)))
    patch.set(wal_format, "boot_id", lambda: world.boot)
    patch.set(
        clients,
        "snapshots",
        SimpleNamespace(new_page=lambda: world.descriptors.open(Thing(fakes.Page(), world.process))),
    )
    patch.set(clients, "SnapshotPage", lambda fd: _coordinators_page(world, fd))
    patch.set(clients, "_F_SETPIPE_SZ", None)
    patch.set(
        checkpointer,
        "subprocess",
        SimpleNamespace(Popen=lambda command, **options: fakes.Helper(world, command, **options), DEVNULL=-1),
    )
    patch.set(checkpointer, "_file_in_memory", io.BytesIO)
    patch.set(checkpointer, "_PAUSE_AFTER_FAILURE_S", 0.2)
    checkpoint_os = fakes.CheckpointOs(world)
    patch.set(checkpoint, "os", checkpoint_os)
    patch.set(mutant_recovery, "os", checkpoint_os)
    patch.set(
        checkpoint,
        "private_file",
        lambda path, _flags: world.descriptors.open(Thing(world.disk.open(path.name), world.process)),
    )
    patch.set(checkpoint, "DiskStorage", lambda _directory: SimulatedStorage(world.disk))
    patch.set(checkpoint_helper, "Path", lambda _directory: fakes.Path(world, "store"))
    patch.set(checkpoint_helper, "append_note", lambda *_: None)
    patch.set(
        checkpoint_helper,
        "sys",
        SimpleNamespace(stdin=SimpleNamespace(buffer=SimpleNamespace(read=lambda: world.inputs[world.process].read()))),
    )
    patch.set(checkpoint_helper, "Segment", SimpleNamespace(attach=lambda fd: world.descriptors.get(fd).content))
    for module in (reclaim, writer, ordered_index):
        patch.set(module, "publish_barrier", world.step)
    patch.set(reclaim, "barrier", world.step)
    patch.set(server, "_MAINTAIN_EVERY_S", 0.004)


def _coordinators_page(world: World, fd: int) -> Any:
    page = snapshots.SnapshotPage.__new__(snapshots.SnapshotPage)
    page._slots = world.descriptors.get(fd).content.words
    return page


def _install_client(world: World, patch: Patch) -> None:
    class Slots(SnapshotSlots):
        __slots__ = ()

        def __init__(self, fd: int) -> None:
            words: Any = fakes.SteppingWords(world.descriptors.get(fd).content.words, world)
            world.descriptors.close(fd)
            self._begin(words, 59)

        def close(self) -> None:
            """The pages belong to the machine."""

    def attach_segment(fd: int) -> Segment:
        segment: Segment = world.descriptors.get(fd).content
        world.descriptors.close(fd)
        return segment

    class Attachment(attachment.Attachment):
        __slots__ = ()

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            world.attachments.append(weakref.ref(self))

        def close_memory(self, why: str) -> None:
            """What is mapped here belongs to the machine."""
            self.why_closed = why
            self.retire()

        def close_segment(self) -> None:
            """Likewise."""
            self.retire()

    patch.set(connection, "Attachment", Attachment)
    patch.set(connection, "uninterrupted", lambda call: call())
    patch.set(attachment, "Segment", SimpleNamespace(attach=attach_segment))
    patch.set(attachment, "SnapshotSlots", Slots)
    patch.set(take_over, "EpochWord", lambda _directory, writable: fakes.Epoch(world))
    patch.set(connection, "StorePlace", lambda _directory, _store_id: fakes.Place())
    patch.set(connection, "words", SimpleNamespace(register_reader=world.step))
    patch.set(take_over, "_knock", lambda _directory, hello, deadline_s: knock(world, hello, deadline_s))
    patch.set(
        take_over,
        "_start_if_nobody_does",
        lambda _directory, hello, linger_s, deadline_s: start_if_nobody_does(world, hello, linger_s, deadline_s),
    )

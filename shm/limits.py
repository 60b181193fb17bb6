"""Every bound in shoal, with its unit. One home: code, messages, tests and docs take them from here.

Most bounds are constants. Those that a test or the simulation makes smaller are also fields of ``Limits``: the classes
that keep such a bound take a ``Limits`` when they are made, and the constant is the field's default.
"""

from __future__ import annotations

from typing import NamedTuple

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# --- what users may store -------------------------------------------------------------------------------------------
MAX_KEY_BYTES = 1024  # a user's key or name, as UTF-8
MAX_RUN_ID_BYTES = 128  # a run id, and each part of a namespace
MAX_VALUE_BYTES = 16 * MIB  # one value: the bytes of a str or bytes, of anything else its encoded form
MAX_ENCODED_VALUE_BYTES = MAX_VALUE_BYTES + 64 * KIB  # with what a primitive keeps beside it
MAX_COMMIT_BYTES = 64 * MIB  # all of one commit set, encoded
MAX_NESTING = 256  # lists and dicts inside each other
MAX_INTEGER = 2**64 - 1
MIN_INTEGER = -(2**63)
MAX_TIME_MS = 2**63 - 1  # a moment, ms since the epoch
MAX_IMPORTED_COUNT = 2**61  # a token, or a task's sequence number, to count on from: none was ever given, 2**62 end it

# Advice in the errors of the two limits that are checked in several places.
ADVICE_FOR_VALUES = "split it, or store it elsewhere and its path here"
ADVICE_FOR_COMMITS = "split the transaction, or the list given to one call, into several"

# --- what the engine stores -----------------------------------------------------------------------------------------
MAX_ENGINE_KEY_BYTES = 4 * KIB  # namespace, run, tag and a user's text (index keys hold two)
MIN_STORE_BYTES = 8 * MIB
MAX_STORE_BYTES = 1024 * GIB
DEFAULT_STORE_BYTES = 64 * GIB  # or half of the machine's memory, whichever is less

# --- segment --------------------------------------------------------------------------------------------------------
BLOCK_BYTES = 16 * KIB  # the heap's unit: one size class, or part of one large record
MEMORY_STEP_BYTES = 1 * MIB  # memory taken from the machine at a time: 64 MiB at once took 16 ms
LEAF_ENTRIES = 128  # ordered index: key nodes in a leaf, copied whole when a key appears
BRANCH_ENTRIES = 1000  # leaves in a branch
BUCKET_ENTRIES = 256  # hash index: entries in a bucket
BUCKET_FILL = 144  # entries and removed marks at which a bucket splits
MAX_SNAPSHOTS_PER_PROCESS = 4095  # slots in a process's page of pinned versions

KEY_LOCATIONS = 1 << 17  # key nodes that all key-location caches of a reader hold together: 20 MiB at most
TOMBSTONE_CHUNK_WORDS = BLOCK_BYTES // 8 - 2  # words of rows in a chunk of range tombstones: a block less its header
TOMBSTONE_BLOCK_BOUNDS = 64  # RangeTombstones: bounds in a block, which is copied when a range changes it
TOMBSTONES_REBUILT_AT = 16  # new ranges for each block, from which on all blocks are made anew

# --- commit and reclaim ---------------------------------------------------------------------------------------------
WINDOW_LEAST_KEYS = 100_000  # recent writes always kept, for snapshots taken under a dead coordinator
WINDOW_MOST_KEYS = 500_000  # kept at most, for old snapshots; a commit with older reads conflicts
RECLAIM_EVERY = 512  # obsolete records that make a reclaim step worth its barrier
RECLAIM_SLICE = 2_000  # records freed, or keys removed, in one step
CLEAR_SLICE = 256  # keys under range tombstones looked at in one step
MAX_RANGE_TOMBSTONES = 65_536  # kept for old snapshots: 200 bytes each in every process that reads
HISTORY_BYTES = 32 * MIB  # history that old snapshots may hold beyond the size of the live data
SNAPSHOT_GRACE_S = 1.0  # a younger snapshot is never revoked
SWEEP_EVERY_MS = 50  # how often expired keys are looked for
SWEEP_SLICE = 256  # expired keys deleted in one commit
UPKEEP_EVERY_S = 2.0  # how often what the store itself is to remove is looked for, at most
UPKEEP_SLICE = 32  # keys looked at for that between two groups of commits
MAX_CLIENT_BACKLOG_BYTES = 1 * MIB  # unread answers beyond what the pipe holds, then the client is dropped
CLIENT_SESSIONS = 65_536  # clients whose last commit is kept, so that one sent again is not done twice

MAX_PIPELINE_DEPTH = 1_024  # commits of one pipeline in flight; each takes one of the client sessions
# Requests of one pipeline in flight. An answer may be 8 times as large as its request (append_many of empty events),
# and all answers together must not exceed MAX_CLIENT_BACKLOG_BYTES. A larger commit is sent when it is the only one.
PIPELINE_BYTES = 128 * KIB

# --- log ------------------------------------------------------------------------------------------------------------
LOG_FILE_BYTES = 4 * MIB
LEAST_LOG_FILE_BYTES = 64 * KIB  # where the disk is short
LOG_FILES_PER_DISK = 32  # a log file takes at most one part in 32 of the disk
CHECKPOINT_LOG_BYTES = 32 * MIB  # log since the last checkpoint that starts the next, at least
CHECKPOINT_LOG_FILES = 32  # likewise, whatever is in them
CHECKPOINT_BLOCK_BYTES = 256 * KIB
CHECKPOINT_EXTRA_BYTES = 128 * KIB  # what a checkpoint has beside its keys: heads, last outcomes of clients
CHECKPOINT_WAIT_S = 2.0  # the longest wait of a commit for a checkpoint that frees disk space
CHECKPOINT_PAUSE_S = 2.0  # after a checkpoint that failed, before the next is begun
RESERVE_STEP_BYTES = 64 * MIB  # the most that is reserved on the disk ahead of need
FILL_STEP_BYTES = 128 * KIB  # strict: zeros that are written ahead of the records at a time, for 0.2 ms
FILL_PAUSE_S = 0.005  # between two such steps, so that commits are not held up
SYNC_EVERY_MS = 100  # buffered: how much a power cut may take

# --- check ----------------------------------------------------------------------------------------------------------
# What the coordinator tells a check in one answer, between two groups of commits: 1 ms at most on an idle processor.
CHECK_BLOCKS = 16
CHECK_BLOCKS_LOOKED_AT = 10_000  # blocks in use may be few among many
CHECK_BUCKETS = 32
CHECK_REFERENCES = 4_096
MAX_CHECKS = 32  # under way at a time, in all processes; beyond it the oldest begins again
MAX_CHECK_ALLOCATIONS = 1 << 23  # noted for checks (64 MiB); then all begin again

# --- processes ------------------------------------------------------------------------------------------------------
OPEN_TIMEOUT_S = 10.0
MAX_BATCH = 64  # operations that become one commit
MAX_BATCH_MUTATIONS_BYTES = 64 * KIB  # of one such operation
KNOWN_BATCHES = 64  # keys whose batched operation is kept for the next batch
KNOWN_BATCH_NODES = 512  # key nodes kept with each
SINGLE_CALL_TIMEOUT_S = 30.0  # how long a facade repeats a call that conflicts
IDLE_TIMEOUT_S = 1.0  # how long a coordinator stays after its last client: ``linger`` of ``shoal.open``
REMAKE_AFTER_S = 0.5  # how long a removed file of a served store is missing before it is made again
FIRST_CLIENT_S = 2.0  # the shortest wait of a coordinator for the client that started it
THREAD_START_S = 5.0
MAX_DEATHS_PER_COMMIT = 2  # a commit that killed so many coordinators is not sent again
DROPPED_PAUSE_S = 0.01  # before a pipelined client comes again to a coordinator that dropped it without an answer
ANSWER_SPIN_S = 0.001  # how long a client looks for its answer before it sleeps
# The same with two clients or more for each processor, where no answer waits for the disk. Who looks takes the time of
# the client whose turn it is: 8 that changed one cell did 13,000 changes a second, and 16,400 with this.
CROWDED_ANSWER_SPIN_S = 0.0002
IDLE_WAIT_S = 0.5  # the longest sleep of an idle coordinator
REQUEST_SPIN_S = 0.0006  # how long the coordinator looks for the next request before it sleeps
CROWDED_REQUEST_SPIN_S = 0.0001  # the same with more clients than processors: looking takes their time
KEEP_PROCESSOR_S = 0.00004  # how long either looks before it offers its processor, if clients are fewer
LONG_OFFER_S = 0.0025  # an offer of the processor that took longer: another process may want it for long
FEW_OFFERS = 64  # a long offer after fewer short ones than this since the last long one: the machine is busy
FIRST_REST_S = 0.05  # then sleep without looking so long
LONGER_REST = 4  # if the machine is as busy after the rest, rest so many times as long, up to
LONGEST_REST_S = 4.0
MAX_GROUP_DELAY_S = 0.001  # group-commit delay: the longest wait for clients that commit in a loop
TURN_S = 0.002  # how long a client that changes a contended key in a loop goes before the others
RETURN_S = 0.001  # how soon such a client sends again
PIPE_BYTES = 1 * MIB  # asked of the kernel for each pipe; less is fine


class Limits(NamedTuple):
    """The bounds that a test may make smaller; in production all have their defaults.

    Nothing durable depends on them: a store written under some limits is read under any others.
    """

    # Segment. Its writer must not exceed what readers accept, which is the constants above.
    leaf_entries: int = LEAF_ENTRIES
    branch_entries: int = BRANCH_ENTRIES
    bucket_fill: int = BUCKET_FILL
    tombstone_chunk_words: int = TOMBSTONE_CHUNK_WORDS
    tombstone_block_bounds: int = TOMBSTONE_BLOCK_BOUNDS
    tombstones_rebuilt_at: int = TOMBSTONES_REBUILT_AT
    key_locations: int = KEY_LOCATIONS
    memory_step_bytes: int = MEMORY_STEP_BYTES
    # Reclaim.
    reclaim_every: int = RECLAIM_EVERY
    reclaim_slice: int = RECLAIM_SLICE
    clear_slice: int = CLEAR_SLICE
    max_range_tombstones: int = MAX_RANGE_TOMBSTONES
    history_bytes: int = HISTORY_BYTES
    snapshot_grace_s: float = SNAPSHOT_GRACE_S
    # Commit.
    window_least_keys: int = WINDOW_LEAST_KEYS
    window_most_keys: int = WINDOW_MOST_KEYS
    sweep_every_ms: int = SWEEP_EVERY_MS
    sweep_slice: int = SWEEP_SLICE
    upkeep_every_s: float = UPKEEP_EVERY_S
    upkeep_slice: int = UPKEEP_SLICE
    known_batches: int = KNOWN_BATCHES
    known_batch_nodes: int = KNOWN_BATCH_NODES
    client_sessions: int = CLIENT_SESSIONS
    # Log and checkpoint.
    log_file_bytes: int = LOG_FILE_BYTES
    checkpoint_log_bytes: int = CHECKPOINT_LOG_BYTES
    checkpoint_log_files: int = CHECKPOINT_LOG_FILES
    checkpoint_block_bytes: int = CHECKPOINT_BLOCK_BYTES
    checkpoint_pause_s: float = CHECKPOINT_PAUSE_S
    fill_step_bytes: int = FILL_STEP_BYTES
    sync_every_ms: int = SYNC_EVERY_MS
    # Check.
    check_blocks: int = CHECK_BLOCKS
    check_buckets: int = CHECK_BUCKETS
    check_references: int = CHECK_REFERENCES
    max_checks: int = MAX_CHECKS
    max_check_allocations: int = MAX_CHECK_ALLOCATIONS
    # Processes.
    first_client_s: float = FIRST_CLIENT_S
    idle_wait_s: float = IDLE_WAIT_S
    thread_start_s: float = THREAD_START_S
    request_spin_s: float = REQUEST_SPIN_S
    crowded_request_spin_s: float = CROWDED_REQUEST_SPIN_S


DEFAULT_LIMITS = Limits()

"""The parts of a check of a segment: what the process that walks it asks the coordinator for.

In the order in which they must be asked for. All but BEGIN and END in slices: an answer begins with the
position to ask for next, 0 when there is no more.
"""

BEGIN = "begin"  # at 1 it insists (``Reclaimer``); version, horizon, live keys, words in use, records waiting; problems
BLOCKS = "blocks"  # blocks in use, as Heap.blocks_from has them
BUCKETS = "buckets"  # references of buckets; problems
BRANCHES = "branches"  # problems
WAITING = "waiting"  # references of what waits to be reclaimed, in the order in which it was noted
ALLOCATED = "allocated"  # references allocated since the check began
END = "end"  # newest version

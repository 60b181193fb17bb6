"""The parts of a check of a segment: what the process that walks the segment asks the coordinator for.

They must be asked for in this order. All but BEGIN and END are answered in slices: an answer begins with the position
to ask for next, 0 when there is no more.
"""

# Position 1 insists (``Reclaimer``). Answer: version, horizon, live keys, words in use, records that wait, problems.
BEGIN = "begin"
BLOCKS = "blocks"  # blocks in use, as Heap.blocks_from returns them
BUCKETS = "buckets"  # references of buckets; problems
BRANCHES = "branches"  # problems
WAITING = "waiting"  # references of what waits to be reclaimed, in the order in which it was noted
ALLOCATED = "allocated"  # references allocated since the check began
END = "end"  # newest version

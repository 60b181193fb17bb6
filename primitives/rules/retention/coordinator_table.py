"""The table of operations as a coordinator has it: with what the coordinator removes by itself.

A client performs operations in its transactions and removes nothing, so it does not import that.
"""

from __future__ import annotations

from shoal.primitives.rules.registry import TABLE
from shoal.primitives.rules.retention.upkeep import upkeep

COORDINATOR_TABLE = TABLE._replace(upkeep=upkeep)

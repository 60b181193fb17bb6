"""Entry point of the coordinator process that a client starts: the server and the operations of the primitives.

It imports rules and no facade, so that a coordinator starts fast.
"""

from __future__ import annotations

import sys

from shoal.coordinator.server.process import main
from shoal.primitives.rules.retention.coordinator_table import COORDINATOR_TABLE

if __name__ == "__main__":
    sys.exit(main(COORDINATOR_TABLE, apart=True))

"""``python -m shoal.cli``: the ``shoal`` command, as ``python -m shoal``."""

import sys

from shoal.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

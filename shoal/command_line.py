"""How the commands read their arguments: what is wrong is said in one line, as every error of theirs."""

from __future__ import annotations

import argparse
from typing import NoReturn

BAD_USAGE = 2


class OneLineParser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command line, and where help is, and ends with status 2."""

    def error(self, message: str) -> NoReturn:
        """Called by ``argparse``."""
        self.exit(BAD_USAGE, f"{self.prog}: error: {' '.join(message.split())}; see {self.prog} --help\n")

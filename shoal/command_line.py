"""Parsing of command lines: an error is one line on stderr, as all errors of the commands are."""

from __future__ import annotations

import argparse
from typing import NoReturn

BAD_USAGE = 2


class OneLineParser(argparse.ArgumentParser):
    """Reports a bad command line in one line, with a hint to ``--help``, and exits with status 2."""

    def error(self, message: str) -> NoReturn:
        """Report and exit; ``argparse`` calls this."""
        self.exit(BAD_USAGE, f"{self.prog}: error: {' '.join(message.split())}; see {self.prog} --help\n")

"""Parsing of command lines: an error is one line on stderr, as all errors of the commands are."""

from __future__ import annotations

import argparse
from typing import NoReturn

BAD_USAGE = 2


def one_line(text: str) -> str:
    """A message in one line. What cannot be printed is escaped: control characters would act on the terminal."""
    line = " ".join(text.split())
    return line if line.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


class OneLineParser(argparse.ArgumentParser):
    """Reports a bad command line in one line, with a hint to ``--help``, and exits with status 2."""

    def error(self, message: str) -> NoReturn:
        """Report and exit; ``argparse`` calls this."""
        self.exit(BAD_USAGE, f"{self.prog}: error: {one_line(message)}; see {self.prog} --help\n")

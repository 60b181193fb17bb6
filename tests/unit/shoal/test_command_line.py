"""Bad usage of a command."""

from __future__ import annotations

import pytest

from shoal.command_line import BAD_USAGE, OneLineParser


def test_it_is_one_line(capsys):
    """Program, problem and where help is, in one line on stderr; status 2."""
    parser = OneLineParser(prog="shoal test")
    parser.add_argument("--count", type=int)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--count", "no\nnumber"])
    assert ended.value.code == BAD_USAGE
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("shoal test: error: argument --count: invalid int value")
    assert error.endswith("; see shoal test --help\n")
    assert error.count("\n") == 1

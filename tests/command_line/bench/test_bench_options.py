"""Every option of ``python -m bench``, with tiny sizes: what it changes, and what it refuses."""

from __future__ import annotations

import importlib
import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

for needed in ("lmdb", "redis", "tabulate"):
    pytest.importorskip(needed)


from shoal.bench import arguments  # noqa: E402
from shoal.bench.__main__ import _chosen, main  # noqa: E402
from shoal.bench.host import machine  # noqa: E402
from shoal.bench.operations import OPERATIONS  # noqa: E402
from shoal.bench.peers import PEERS  # noqa: E402
from shoal.bench.scenarios import SCENARIOS, backlog, growth, runs, stages  # noqa: E402
from tests.support.slow import slow  # noqa: E402

TINY = ("--rounds", "1", "--seconds", "0.05", "--keys", "1000", "--clients", "2")
Bench = Callable[..., tuple[int, str, str]]


@pytest.fixture(name="bench")
def in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Runs the command with shoal and one peer: its exit status, stdout and stderr."""
    monkeypatch.setattr("shoal.bench.harness.PEERS", PEERS[:2])
    for module, name, tiny in (
        *((machine, "_SYNCS", 3), (machine, "_ROUND_TRIPS", 10), (stages, "_PUTS", 400)),
        *((growth, "_SAMPLES", 100), (growth, "_SETTLE_TIMEOUT_S", 0.1), (runs, "_SAMPLES", 20)),
        (backlog, "_SAMPLES", 20),
    ):
        monkeypatch.setattr(module, name, tiny)
    monkeypatch.chdir(tmp_path)

    def bench(*given: str) -> tuple[int, str, str]:
        status = main(list(given))
        told = capsys.readouterr()
        return status, told.out, told.err

    return bench


def chosen(*given: str) -> tuple[Any, Any, list[str]]:
    return _chosen(arguments.parser().parse_args(list(given)))


@pytest.mark.plain
def test_what_is_measured_when_nothing_is_asked() -> None:
    """All operations at both durabilities, and all scenarios with a million keys."""
    plan, scale, scenarios = chosen()
    assert [operation.name for operation in plan.operations] == list(OPERATIONS)
    assert (plan.durabilities, plan.processes, plan.busy) == (("buffered", "strict"), (1, 4, 8), 0)
    assert (scale.keys, scale.clients, scenarios) == (1_000_000, (64, 256), list(SCENARIOS))


@pytest.mark.plain
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--quick"], {"rounds": 3, "seconds_s": 0.3, "keys": 50_000, "clients": (16,)}),
        (["--large"], {"keys": 10_000_000}),
        (["--keys", "2000"], {"keys": 2_000}),
        (["--clients", "3,5"], {"clients": (3, 5)}),
        (["--rounds", "9"], {"rounds": 9}),
        (["--seconds", "0.5"], {"seconds_s": 0.5}),
        (
            ["--quick", "--rounds", "2", "--keys", "1000"],
            {"rounds": 2, "keys": 1_000, "seconds_s": 0.3, "clients": (16,)},
        ),
    ],
    ids=str,
)
def test_how_much_is_measured(given: list[str], expected: dict[str, Any]) -> None:
    """Each option changes what it says, for rates and scenarios alike, and nothing else."""
    plan, scale, _ = chosen(*given)
    default = {"rounds": 7, "seconds_s": 2.0, "keys": 1_000_000, "clients": (64, 256)}
    assert vars(scale) == {**default, **expected}
    assert (plan.rounds, plan.seconds_s) == (scale.rounds, scale.seconds_s)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("given", "operations", "processes", "durabilities"),
    [
        (["--busy"], ["put"], (1, 4), ("buffered",)),
        (["--busy", "--quick"], ["put"], (1, 4), ("buffered",)),
        (["--quick", "--only", "get"], ["get"], (1, 8), ("buffered", "strict")),
        (["--busy", "2", "--only", "get,put"], ["get", "put"], (1, 4), ("buffered",)),
        (["--only", "put,put", "--processes", "2,2,1"], ["put"], (2, 1), ("buffered", "strict")),
        (["--busy", "--durability", "strict", "--processes", "3"], ["put"], (3,), ("strict",)),
    ],
    ids=str,
)
def test_which_rates_are_measured(given: list[str], operations: Any, processes: Any, durabilities: Any) -> None:
    """A busy machine has defaults of its own; what is given wins."""
    plan, _, scenarios = chosen(*given)
    assert [operation.name for operation in plan.operations] == operations
    assert (plan.processes, plan.durabilities, scenarios) == (processes, durabilities, [])
    assert (plan.busy > 0) == ("--busy" in given)


@pytest.mark.long
def test_a_run_prints_what_it_writes(bench: Bench, tmp_path: Path) -> None:
    """Head, tables, JSON and page have the same figures; nothing else is left in the directory."""
    page = tmp_path / "page.md"
    page.write_text("before\n" + _marks() + "\nafter\n")
    measured = tmp_path / "disk"
    measured.mkdir()
    status, told, errors = bench(
        *("--only", "put,hot,stages", "--processes", "1,2", "--durability", "buffered", *TINY, "--seconds", "0.3"),
        *("--directory", str(measured), "--json", "new.json", "--markdown", str(page)),
    )
    assert (status, errors) == (0, "")
    for said in ("fdatasync ", "idle: nothing beside", "\nput: ", "\nhot: ", " even", "\nstages: ", "\napply "):
        assert said in told
    assert re.search(r"^shoal +[\d.]+, (plain Python|compiled)$", told, re.MULTILINE)
    document = json.loads((tmp_path / "new.json").read_text())
    rows = {(figure["operation"], figure["peer"], figure["processes"]) for figure in document["figures"]}
    assert rows == {(name, peer.name, n) for name in ("put", "hot") for peer in PEERS[:2] for n in (1, 2)}
    for figure in document["figures"]:
        assert figure["median_per_s"] > 0
        assert list(figure["percentiles_s"]) == ["p50", "p90", "p99", "p99.9", "longest"]
        assert 0 <= figure["slowest_to_fastest"][0] <= 1
    text = page.read_text()
    assert text.startswith("before\n<!-- figures: begin")
    assert text.endswith("<!-- figures: end -->\nafter\n")
    assert f"{document['figures'][0]['median_per_s']:,.0f}" in told.replace("\n", " ")
    assert "### put: " in text
    assert list(measured.iterdir()) == []


@pytest.mark.plain
@pytest.mark.parametrize("name", ["runs", *slow(*(name for name in SCENARIOS if name != "runs"))])
def test_each_scenario(bench: Bench, tmp_path: Path, name: str) -> None:
    """It measures something, all of it above or at 0, and leaves nothing behind."""
    status, told, errors = bench("--only", name, *TINY, "--json", "new.json")
    assert (status, errors) == (0, "")
    assert f"\n{name}: " in told
    (result,) = json.loads((tmp_path / "new.json").read_text())["scenarios"]
    assert result["name"] == name
    assert result["figures"]
    assert all(figure["value"] >= 0 for figure in result["figures"] if figure["unit"] != "bytes")
    assert [path.name for path in tmp_path.iterdir()] == ["new.json"]


@pytest.mark.long
@pytest.mark.plain
def test_beside_endless_loops(bench: Bench, tmp_path: Path) -> None:
    """The head and the JSON say so; rates are measured all the same."""
    status, told, _ = bench("--busy", "1", "--processes", "1", *TINY, "--json", "busy.json")
    assert status == 0
    assert "busy: 1 endless loop(s) beside everything" in told
    document = json.loads((tmp_path / "busy.json").read_text())
    assert document["busy"] == 1
    assert {figure["operation"] for figure in document["figures"]} == {"put"}


@pytest.mark.plain
@pytest.mark.parametrize("name", ["stages", "growth", "stall"])
def test_modules_with_a_name_of_their_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``python -m bench.stages`` and its kin are ``--only stages``, with all options."""
    asked: list[list[str]] = []

    def main(given: list[str]) -> int:
        asked.append(given)
        return 7

    monkeypatch.setattr(importlib.import_module("bench.__main__"), "main", main)
    monkeypatch.setattr(sys, "argv", ["-m", "--rounds", "2"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"bench.{name}", run_name="__main__")
    assert ended.value.code == 7
    assert asked == [["--only", name, "--rounds", "2"]]


@pytest.mark.plain
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--only", "put,nothing"], "'nothing' is not one of get, "),
        (["--processes", "0"], "'0' is not a whole number from 1"),
        (["--clients", "a"], "'a' is not a whole number from 1"),
        (["--durability", "memory"], "'memory' is not one of buffered, strict"),
        (["--rounds", "-1"], "'-1' is not a whole number from 1"),
        (["--seconds", "inf"], "'inf' is not a number of seconds above 0"),
        (["--keys", "999"], "'999' is less than 1,000"),
        (["--keys", "1000", "--large"], "not allowed with argument --keys"),
        (["--directory", "nowhere"], "there is no directory nowhere"),
        (["--json", "nowhere/a.json"], "nowhere/a.json is not a file in an existing directory"),
        (["--markdown", "."], ". is not a file in an existing directory"),
        (["--plot", "no/where"], "no/where is not a directory in an existing directory"),
        (["--read", "nothing.json"], "there is no file nothing.json"),
        (["--compare", "nothing.json"], "expected 2 arguments"),
        (["--compare", "nothing.json", "nothing.json"], "there is no file nothing.json"),
        (["--busy", "0"], "'0' is not a whole number from 1"),
    ],
    ids=str,
)
def test_bad_values_are_refused(given: list[str], said: str, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is measured: exit 2, and one line that says what is wrong."""
    with pytest.raises(SystemExit) as refused:
        bench(*given)
    assert refused.value.code == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert errors.count("\n") == 1


def _marks() -> str:
    from shoal.bench.reports import page

    return f"{page.BEGIN}\n{page.END}"

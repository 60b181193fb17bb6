"""Reports of ``python -m bench`` from figures that were measured before: comparison, pages, plots."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

for needed in ("lmdb", "redis", "tabulate"):
    pytest.importorskip(needed)


from shoal.bench.__main__ import main  # noqa: E402
from shoal.bench.harness import Figure, Trial  # noqa: E402
from shoal.bench.peers import PEERS  # noqa: E402
from shoal.bench.reports import document, page  # noqa: E402
from shoal.bench.reports.document import Document  # noqa: E402
from shoal.bench.scenarios import Measured, Result  # noqa: E402
from tests.support.slow import slow  # noqa: E402

pytestmark = pytest.mark.plain

MACHINE = {
    "cpu": "a processor",
    "cores": 2,
    "kernel": "Linux 6",
    "python": "CPython 3",
    "load_before": 0.1,
    "shoal": "1",
    "shoal_compiled": True,
    "lmdb": "1",
    "py_lmdb": "1",
    "sqlite": "3",
    "redis": None,
    "redis_py": "5",
    "file_system": "ext4",
    "fdatasync_s": 0.0005,
    "pipe_round_trip_s": 1e-5,
}
Write = Callable[..., str]


def figure(peer: int, processes: int, rate_per_s: float, operation: str = "put") -> Figure:
    made = Figure(PEERS[peer].name, operation, "buffered", processes, "a setting")
    percentiles_s = {"p50": 0.001, "p90": 0.002, "p99": 0.003, "p99.9": 0.004, "longest": 0.005}
    made.add(Trial(rate_per_s, percentiles_s, 0.5))
    return made


@pytest.fixture(name="write")
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file of --json with the given rates of shoal and times of scenarios; its name."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, rate: float = 1000, get_us: float = 5.0, longest_us: float = 50.0, busy: int = 0) -> str:
        figures = [
            *(figure(0, 1, rate), figure(0, 4, 3 * rate), figure(1, 1, 500), figure(1, 4, 500)),
            *(figure(0, 1, 1e5, "get"), figure(1, 1, 5e4, "get")),
        ]
        grown = Result("growth", "growth: of something", "a note")
        grown.figures += [Measured("get, median", f"{keys:,} keys", get_us, "us") for keys in (1_000, 10_000)]
        grown.figures.append(Measured("insert, longest", "1,000 keys", longest_us, "us", noisy=True))
        timeline = Result("timeline", "timeline: of commits", "")
        timeline.figures.append(Measured("commits a second", "all", 9.0, "a second", higher_is_better=True))
        timeline.series = {"points": [[0.5, 10.0, 0.001], [1.5, 8.0, 0.002]], "checkpoints": [[0.2, 0.8]]}
        document.write(tmp_path / name, Document(dict(MACHINE), 1, 0.5, busy, figures, [grown, timeline]))
        return name

    return write


def test_what_is_written_is_read(write: Write, tmp_path: Path) -> None:
    """Nothing is lost on the way through JSON."""
    first = document.read(tmp_path / write("a.json"))
    document.write(tmp_path / "b.json", first)
    assert json.loads((tmp_path / "b.json").read_text()) == json.loads((tmp_path / "a.json").read_text())
    assert document.read(tmp_path / "b.json") == first


def test_equal_runs_compare_as_equal(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """Every row of shoal has the ratio 1, no peer has a row, and the exit status is 0."""
    assert main(["--compare", write("old.json"), write("new.json")]) == 0
    told = capsys.readouterr().out
    rows = [line for line in told.splitlines() if re.match(r"(put|get|growth|timeline),", line)]
    assert len(rows) == 7
    assert all(" 1.00" in row for row in rows)
    assert "LMDB" not in told
    assert "slower\n" not in told


@pytest.mark.parametrize(
    ("changed", "row"),
    [({"rate": 940.0}, "put, buffered, 1"), ({"get_us": 5.4}, "growth, get, median, 1,000 keys")],
    ids=str,
)
def test_what_is_slower_is_found(
    changed: dict[str, Any], row: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """Less of a rate and more of a time: the row is named, and the exit status is 1; the other way round it is 0."""
    old, new = write("old.json"), write("new.json", **changed)
    assert main(["--compare", old, new]) == 1
    slower = [line for line in capsys.readouterr().out.splitlines() if line.endswith("slower")]
    assert any(line.startswith(row) for line in slower)
    assert main(["--compare", new, old]) == 0


def test_a_little_slower_is_not_slower(write: Write) -> None:
    """From 0.95 on."""
    assert main(["--compare", write("old.json"), write("new.json", rate=951.0)]) == 0


def test_what_chance_makes_is_not_judged(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """The longest wait may be ten times longer: it is shown."""
    assert main(["--compare", write("old.json"), write("new.json", longest_us=500.0)]) == 0
    assert re.search(r"^growth, insert, longest.* 0\.10 +noisy$", capsys.readouterr().out, re.MULTILINE)


def test_a_difference_of_the_machine_is_said(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs on other machines, in other modes, or with another load are compared, with a warning."""
    old, new = write("old.json"), write("new.json", busy=2)
    content = json.loads((tmp_path / new).read_text())
    content["machine"]["shoal_compiled"] = False
    (tmp_path / new).write_text(json.dumps(content))
    assert main(["--compare", old, new]) == 0
    told = capsys.readouterr().out
    assert "Not the same: shoal_compiled: True and False." in told
    assert "Not the same: the machine was idle and busy." in told


def test_runs_that_share_no_row_are_refused(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was compared, so it is no success."""
    new = write("new.json")
    content = json.loads((tmp_path / new).read_text())
    (tmp_path / new).write_text(json.dumps({**content, "figures": [], "scenarios": []}))
    assert main(["--compare", write("old.json"), new]) == 1
    assert capsys.readouterr().err == "shoal bench: the two files have no row in common\n"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"machine": {}, "rounds": 1}', '{"figures": 3}'])
def test_files_without_figures_are_refused(
    content: str, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names the file."""
    (tmp_path / "bad.json").write_text(content)
    for given in (["--read", "bad.json"], ["--compare", write("good.json"), "bad.json"]):
        assert main(given) == 1
        errors = capsys.readouterr().err
        assert errors.startswith("shoal bench: bad.json has no figures of this benchmark: ")
        assert errors.count("\n") == 1


def test_reading_measures_nothing(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """The tables are those of the files, one after the other, with mode and state of the machine in each head."""
    assert main(["--read", write("idle.json"), write("busy.json", busy=2)]) == 0
    told = capsys.readouterr().out
    assert told.count("1, compiled") == 2
    assert told.index("idle: nothing beside") < told.index("busy: 2 endless loop(s)")
    assert told.count("growth: of something") == 2
    assert "2.00" in told  # of the peer's rate
    assert "500 us median, on ext4" in told


def test_two_runs_of_the_same_kind_are_not_reported_together(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """Their plots would have the same names."""
    assert main(["--read", write("a.json"), write("b.json")]) == 1
    assert "same state of the machine and the same mode" in capsys.readouterr().err


def test_figures_of_several_runs_are_no_one_file(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """--json has one run."""
    assert main(["--read", write("idle.json"), write("busy.json", busy=2), "--json", "both.json"]) == 1
    assert "--json writes the figures of one run" in capsys.readouterr().err


def test_a_page_keeps_what_stands_around_its_figures(write: Write, tmp_path: Path) -> None:
    """Figures are replaced as often as one likes; a page that is not there is made."""
    (tmp_path / "page.md").write_text(f"# Title\n\n{page.BEGIN}\nold\n{page.END}\n\n## After\n")
    given = ["--read", write("idle.json"), write("busy.json", busy=2), "--markdown"]
    for _ in range(2):
        assert main([*given, "page.md"]) == 0
    text = (tmp_path / "page.md").read_text()
    assert text.startswith(f"# Title\n\n{page.BEGIN}\n\n## Figures: idle machine, compiled\n")
    assert text.endswith(f"{page.END}\n\n## After\n")
    assert text.count("## Figures: busy machine, compiled") == text.count("## Figures: idle machine, compiled") == 1
    assert "\nold\n" not in text
    assert main([*given, "new.md"]) == 0
    assert page.BEGIN in (tmp_path / "new.md").read_text()


@pytest.mark.parametrize("content", ["", page.BEGIN, page.END + page.BEGIN, (page.BEGIN + page.END) * 2], ids=len)
def test_a_page_without_a_place_is_left_alone(
    content: str, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said before anything is measured."""
    (tmp_path / "page.md").write_text(content)
    assert main(["--read", write("a.json"), "--markdown", "page.md"]) == 1
    assert "page.md has no place for figures" in capsys.readouterr().err
    assert (tmp_path / "page.md").read_text() == content


@pytest.mark.long
@pytest.mark.parametrize("states", [["idle"], *slow(["idle", "busy"])], ids=len)
def test_plots(write: Write, tmp_path: Path, states: list[str]) -> None:
    """A file of each kind for each state of the machine, the same for the same figures, shown in the page."""
    pytest.importorskip("matplotlib")
    files = [write(f"{state}.json", busy=2 if state == "busy" else 0) for state in states]
    assert main(["--read", *files, "--plot", "plots", "--markdown", "page.md"]) == 0
    plots = {path.name: path.read_bytes() for path in (tmp_path / "plots").iterdir()}
    kinds = ("throughput", "latency", "growth", "timeline")
    assert set(plots) == {f"{kind}-{state}-compiled.svg" for kind in kinds for state in states}
    assert all(b"</svg>" in content for content in plots.values())
    links = re.findall(r"!\[[^]]+\]\(([^)]+)\)", (tmp_path / "page.md").read_text())
    assert sorted(links) == sorted(f"plots/{name}" for name in plots)
    assert main(["--read", "idle.json", "--plot", "plots"]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "plots").iterdir()} == plots


def test_plots_without_their_library(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said before anything is measured: exit 2."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["--read", write("a.json"), "--plot", "plots"]) == 2
    assert capsys.readouterr().err == "shoal bench: --plot needs matplotlib; pip install '.[plot]' in a clone\n"

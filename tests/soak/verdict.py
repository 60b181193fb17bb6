"""What the samples say: are memory, files and latency flat, and a summary.

Memory and files are judged by a line fitted to a later part of each series. ``growth`` is what the line gains over the
part that is judged; it must stay below ``BOUNDS``: an absolute allowance plus a share of the mean. A part shorter than
``SHORTEST_S`` is not judged, and the summary says so.

The 99th percentile of commits has outliers at kills, which would tilt a line. So the median of a run's last quarter is
compared with that of its first. The factor is generous: the machine has other work, and the coordinator is killed in
one half only. A run shorter than ``LATENCY_SHORTEST_S`` says nothing of it, so no test asserts wall time.
"""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Any, NamedTuple

from tests.soak.auditing.breach import KINDS
from tests.soak.samples import latest

MIB = 1024 * 1024
SHORTEST_S = 120.0
LATENCY_SHORTEST_S = 600.0
FEWEST_SAMPLES = 20
# A coordinator remembers the last 100,000 keys written, and first has to have so many.
WARM_UP_S = 300.0
Series = list[tuple[float, float]]


class Bound(NamedTuple):
    """How much a series may grow over the part that is judged."""

    unit: str
    scale: float
    absolute: float  # in units
    share: float  # of the mean


BOUNDS = {
    "own memory": Bound("MiB", MIB, 3.0, 0.10),
    # A watcher has 42 to 51 of them, by what its senses wait for just now, which alone tilts a line by 2.
    "descriptors": Bound("", 1.0, 2.0, 0.05),
    "segment": Bound("MiB", MIB, 4.0, 0.10),
    # The log grows to 32 MiB and falls back with each checkpoint: a saw's teeth tilt a line by up to one tooth.
    "disk": Bound("MiB", MIB, 40.0, 0.10),
    "commit p99": Bound("ms", 1.0, 5.0, 2.0),  # of the first quarter: three times as long, and 5 ms
}


class Finding(NamedTuple):
    """One series, judged."""

    store: str
    what: str
    samples: int
    seconds: float
    mean: float
    growth: float
    allowed: float
    unit: str
    shortest_s: float

    @property
    def verdict(self) -> str:
        """One word or two."""
        if self.seconds < self.shortest_s or self.samples < FEWEST_SAMPLES:
            return "not judged: too short"
        return "flat" if self.growth <= self.allowed else "GROWS"


def judge(store: str, what: str, bound: Bound, series: Series) -> Finding:
    """Fit a line through a series and compare what it gains with the bound."""
    times, values = [when for when, _ in series], [value / bound.scale for _, value in series]
    seconds = times[-1] - times[0] if times else 0.0
    mean = statistics.fmean(values) if values else 0.0
    growth = statistics.linear_regression(times, values).slope * seconds if seconds else 0.0
    allowed = bound.absolute + bound.share * mean
    return Finding(store, what, len(series), seconds, mean, growth, allowed, bound.unit, SHORTEST_S)


def judge_quarters(store: str, what: str, bound: Bound, series: Series) -> Finding:
    """Compare the median of a series' last quarter with that of its first, which is the mean that is told."""
    seconds = series[-1][0] - series[0][0] if series else 0.0
    quarter_s = seconds / 4
    first = [value for when, value in series if when <= series[0][0] + quarter_s]
    last = [value for when, value in series if when >= series[-1][0] - quarter_s]
    begin, end = (statistics.median(part) / bound.scale if part else 0.0 for part in (first, last))
    allowed = bound.absolute + bound.share * begin
    return Finding(store, what, len(series), seconds, begin, end - begin, allowed, bound.unit, LATENCY_SHORTEST_S)


def findings(samples: list[dict[str, Any]], stores: list[str]) -> list[Finding]:
    """All series of all stores. The second half is judged; of a coordinator its longest life, of latency the whole."""
    middle = samples[-1]["time"] / 2 if samples else 0.0
    found = []
    for store in stores:
        of = [{"time": sample["time"], **sample["stores"][store]} for sample in samples]
        late = [sample for sample in of if sample["time"] >= middle]
        life = _longest_life(of)
        for who, part in (("worker 0", late), ("watcher 0", late), ("auditor", late), ("coordinator", life)):
            for key, what in (("anonymous", "own memory"), ("descriptors", "descriptors")):
                series = latest(part, "processes", who, key)
                found.append(judge(store, f"{who}: {what}", BOUNDS[what], series))
        found.append(judge(store, "segment", BOUNDS["segment"], latest(late, "segment_bytes")))
        found.append(judge(store, "store directory", BOUNDS["disk"], latest(late, "disk_bytes")))
        found.append(judge_quarters(store, "commit p99", BOUNDS["commit p99"], latest(of, "commit_ms", "p99")))
    own = [sample for sample in samples if sample["time"] >= middle]
    for key, what in (("anonymous", "own memory"), ("descriptors", "descriptors")):
        found.append(judge("", f"this process: {what}", BOUNDS[what], latest(own, "process", key)))
    return found


def _longest_life(of: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The samples of the coordinator that lived longest, but for the time in which it fills its memory."""
    pids = [pid for _, pid in latest(of, "processes", "coordinator", "pid")]
    if not pids:
        return []
    longest = Counter(pids).most_common(1)[0][0]
    life = [sample for sample in of if sample["processes"].get("coordinator", {}).get("pid") == longest]
    warm = life[0]["time"] + WARM_UP_S
    return [sample for sample in life if sample["time"] >= warm]


def breaches(oracles: dict[str, dict[str, int]], found: list[Finding]) -> dict[str, int]:
    """How many of each kind over all stores; all zero is a pass."""
    counts = {kind: sum(counts[kind] for counts in oracles.values()) for kind in KINDS}
    return counts | {"growing": sum(finding.verdict == "GROWS" for finding in found)}


def summary(title: str, samples: list[dict[str, Any]], oracles: dict[str, dict[str, int]], found: list[Finding]) -> str:
    """The whole run on a page."""
    lines = [title, ""]
    for store, counts in oracles.items():
        lines += [
            store,
            "  audited       {acknowledged:,} acknowledged, {refused:,} refused, {untold:,} untold, "
            "in {windows:,} windows".format(**counts),
            "  histories     {transactions:,} list-append transactions, {replayed:,} transactions replayed, "
            "{backups:,} backups opened".format(**counts),
            "  fleets        {sightings:,} sightings, {gaps:,} gaps in them, {doubts:,} doubts".format(**counts),
            *(_measured(samples, store) if samples else []),
        ]
    lines += ["", f"{'series':<34} {'samples':>7} {'mean':>10} {'growth':>10} {'allowed':>10}  verdict"]
    for finding in found:
        numbers = " ".join(f"{value:>10.2f}" for value in (finding.mean, finding.growth, finding.allowed))
        name = f"{finding.store} {finding.what}".strip()
        lines.append(f"{name:<34} {finding.samples:>7} {numbers}  {finding.verdict} {finding.unit}".rstrip())
    counts = breaches(oracles, found)
    lines += ["", ", ".join(f"{count} {kind}" for kind, count in counts.items())]
    short = sum(finding.verdict not in ("flat", "GROWS") for finding in found)
    passed = f"PASS, but {short} series are too short to be judged" if short else "PASS"
    lines.append("FAIL: see breaches.txt, and the table above" if any(counts.values()) else passed)
    return "\n".join(lines)


def _measured(samples: list[dict[str, Any]], store: str) -> list[str]:
    of = [{"time": sample["time"], **sample["stores"][store]} for sample in samples]

    def median(*path: str) -> float:
        return statistics.median(value for _, value in latest(of, *path))

    done = ", ".join(f"{name} {count:,}" for name, count in sorted(of[-1]["done"].items()))
    rates = ", ".join(f"{median(f'{what}_per_s'):,.0f} {what}/s" for what in ("commits", "reads", "conflicts"))
    lines = [f"  done to it    {done or 'nothing'}", f"  rates         {rates} (medians of samples)"]
    for kind in ("commit", "read"):
        shown = ", ".join(f"{share} {median(f'{kind}_ms', share):g}" for share in ("p50", "p99", "p99.9"))
        longest = max(value for _, value in latest(of, f"{kind}_ms", "max"))
        lines.append(f"  {kind:<13} {shown} ms (medians of samples), longest {longest:g} ms")
    return lines

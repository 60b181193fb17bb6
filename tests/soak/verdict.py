"""What the samples say: is memory flat, and a summary. Flat is judged by a line fitted to a later part of each series.

``growth`` is what the line gains over the part that is judged; it must stay below ``BOUNDS``: an absolute allowance
plus a share of the mean. A part shorter than ``SHORTEST_S`` is not judged, and the summary says so.
"""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Any, NamedTuple

from tests.soak.auditing.breach import KINDS
from tests.soak.samples import latest

MIB = 1024 * 1024
SHORTEST_S = 120.0
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
    "descriptors": Bound("", 1.0, 2.0, 0.0),
    "segment": Bound("MiB", MIB, 4.0, 0.10),
    # The log grows to 32 MiB and falls back with each checkpoint: a saw's teeth tilt a line by up to one tooth.
    "disk": Bound("MiB", MIB, 40.0, 0.10),
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

    @property
    def verdict(self) -> str:
        """One word or two."""
        if self.seconds < SHORTEST_S or self.samples < FEWEST_SAMPLES:
            return "not judged: too short"
        return "flat" if self.growth <= self.allowed else "GROWS"


def judge(store: str, what: str, bound: Bound, series: Series) -> Finding:
    """Fit a line through a series and compare what it gains with the bound."""
    times, values = [when for when, _ in series], [value / bound.scale for _, value in series]
    seconds = times[-1] - times[0] if times else 0.0
    mean = statistics.fmean(values) if values else 0.0
    growth = statistics.linear_regression(times, values).slope * seconds if seconds else 0.0
    return Finding(store, what, len(series), seconds, mean, growth, bound.absolute + bound.share * mean, bound.unit)


def findings(samples: list[dict[str, Any]], stores: list[str]) -> list[Finding]:
    """All series of all stores, judged over the second half; a coordinator's over its longest life."""
    middle = samples[-1]["time"] / 2 if samples else 0.0
    found = []
    for store in stores:
        of = [{"time": sample["time"], **sample["stores"][store]} for sample in samples]
        late = [sample for sample in of if sample["time"] >= middle]
        life = _longest_life(of)
        for who, part in (("worker 0", late), ("auditor", late), ("coordinator", life)):
            for key, what in (("anonymous", "own memory"), ("descriptors", "descriptors")):
                series = latest(part, "processes", who, key)
                found.append(judge(store, f"{who}: {what}", BOUNDS[what], series))
        found.append(judge(store, "segment", BOUNDS["segment"], latest(late, "segment_bytes")))
        found.append(judge(store, "store directory", BOUNDS["disk"], latest(late, "disk_bytes")))
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

"""The curves of a comparison: what its runs recorded, averaged over seeds, as pictures."""

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ensue.errors import RunError
from ensue.runs import Run
from ensue.tasks import Kind
from ensue.tasks.measures import Measure
from ensue.views.axes import Number
from ensue.views.lines import Line, Panel
from ensue.views.plots import read_curves, spread
from ensue.views.text import power, short

FIELDS = ("step", "tokens", "flops", "seconds", "score")
"""What is known of each evaluation."""
POINTS = 100
"""Of a line at most: 15 runs in four pictures, each evaluated 500 times, would be a megabyte."""

Moment = dict[str, float]
"""One evaluation, by `FIELDS`; 0 is what nobody knows."""


@dataclass(frozen=True)
class Track:
    """The evaluations of a candidate's runs."""

    name: str
    """Whose."""
    seeds: dict[int, list[Moment]]
    """Of each run that has any."""
    mean: list[Moment]
    """Over the finished runs, or over all while none is; empty: nothing is recorded."""


def read_track(folder: Path, candidate: Mapping[str, Any], kind: Kind) -> Track:
    """Read the runs of a candidate, as far as they are there."""
    seeds: dict[int, list[Moment]] = {}
    finished = []
    for entry in candidate.get("runs") or ():
        run = Run(folder / entry["run"])
        curves = read_curves(run.read_metrics(), kind)
        try:
            per_step = float(run.read_plan().get("flops_per_step") or 0.0)
        except RunError:  # not begun, or half-copied: the other curves are still worth showing
            per_step = 0.0
        records = [*curves.evals, curves.final] if curves.final else curves.evals
        moments = [
            {
                "step": float(step),
                "tokens": curves.at(step, "tokens"),
                "flops": step * per_step,
                "seconds": curves.at(step, "seconds"),
                "score": float(record[kind.followed_by.key]),
            }
            for step, record in {r["step"]: r for r in records}.items()
        ]
        if moments:
            seeds[entry["seed"]] = moments
            finished += [moments] if curves.final else []
    return Track(candidate["name"], seeds, _mean(finished or list(seeds.values())))


def _mean(runs: Sequence[list[Moment]]) -> list[Moment]:
    """Average runs of slightly different length: each is read at the same shares of its length."""
    if not runs:
        return []
    first = max(run[0]["step"] / run[-1]["step"] for run in runs)
    longest = max(runs, key=len)
    shares = [moment["step"] / longest[-1]["step"] for moment in longest]
    read = [[_at(run, share) for run in runs] for share in shares if share >= first]
    return [{key: fmean(moment[key] for moment in row) for key in FIELDS} for row in read]


def _at(run: list[Moment], share: float) -> Moment:
    """Read a run between its evaluations."""
    step = share * run[-1]["step"]
    i = min(bisect.bisect_left(run, step, key=lambda m: m["step"]), len(run) - 1)
    before, after = run[max(0, i - 1)], run[i]
    width = after["step"] - before["step"]
    passed = (step - before["step"]) / width if width else 1.0
    return {key: before[key] + passed * (after[key] - before[key]) for key in FIELDS}


@dataclass(frozen=True)
class Scale:
    """The range of scores that the curves show."""

    low: float
    high: float
    cut: bool
    """Whether a curve begins above it."""
    floor: float
    """0: there is none."""


def choose_scale(floor: float, tracks: Sequence[Track]) -> Scale:
    """Choose a range in which close ends can be told apart.

    The steep start is cut, and so is what lies far above: further from the middle one than 4 times
    the middle distance, and than a quarter of its score. What is better is always shown.
    """
    lines = [[m["score"] for m in track.mean] for track in tracks if track.mean]
    ends = sorted([line[-1] for line in lines] + ([floor] if floor else []))
    if not lines:
        return Scale(0.0, 1.0, False, floor)
    middle = ends[len(ends) // 2]
    reach = max(4 * sorted(abs(e - middle) for e in ends)[len(ends) // 2], middle / 4)
    shown = [line for line in lines if line[-1] - middle <= reach] or lines
    values = [e for e in ends if abs(e - middle) <= reach]
    low, high = min(*values, *map(min, shown)), max(values)
    room = max(0.6 * (high - low), 0.06 * high) or 0.1
    peak = max(map(max, lines))
    top = min(high + room, max(peak, high) + room / 4)
    return Scale(low - 0.08 * (top - low), top, peak > top, floor)


def curve_panels(scale: Scale, tracks: Sequence[Track], measure: Measure, read: str) -> list[Panel]:
    """Draw the curves over steps, what was read, operations and time, as far as they are known."""
    longest = max((m["seconds"] for t in tracks for m in t.mean), default=0.0)
    unit, per = ("s", 1) if longest < 120 else ("min", 60) if longest < 7200 else ("h", 3600)
    axes: tuple[tuple[str, str, str, int, Callable[[Number], str]], ...] = (
        ("step", "steps", "steps", 1, short),
        ("tokens", read, f"{read} read", 1, short),
        ("flops", "operations", "training FLOPs", 1, power),
        ("seconds", "time", f"time in updates, {unit}", per, "{:g}".format),
    )
    panels = []
    for key, over, x_title, divisor, x_words in axes:
        lines = []
        for i, track in enumerate(tracks):
            mean, *seeds = (
                [(m[key] / divisor, m["score"]) for m in spread(run, POINTS) if m[key] > 0]
                for run in (track.mean, *track.seeds.values())
            )
            if mean:
                lines.append(Line(track.name, mean, i, seeds if len(seeds) > 1 else ()))
        if not lines:
            continue
        ends = [line.points[-1][0] for line in lines]
        ends_apart = max(ends) > 4 * min(ends)  # else some would be pressed into a corner
        panels.append(
            Panel(
                name=f"curves-{key}",
                title=f"{measure.title} over {over}",
                words=_curve_words(lines, over, scale, x_words),
                x_title=x_title + (", logarithmic" if ends_apart else ""),
                lines=lines,
                low=scale.low,
                high=scale.high,
                x_min=min(line.points[0][0] for line in lines) if ends_apart else 0,
                x_max=max(ends),
                x_log=ends_apart,
                x_words=x_words,
                level=("floor", scale.floor) if scale.floor else None,
            )
        )
    return panels


def _curve_words(
    lines: Sequence[Line], over: str, scale: Scale, x_words: Callable[[Number], str]
) -> str:
    ends = sorted(lines, key=lambda line: line.points[-1][1])
    words = "; ".join(
        f"{line.name} from {line.points[0][1]:.3f} to {line.points[-1][1]:.3f}"
        f" at {x_words(line.points[-1][0])}"
        for line in ends
    )
    floor = f" Floor: {scale.floor:.3f}." if scale.floor else ""
    return f"Validation over {over}, best first: {words}.{floor}"

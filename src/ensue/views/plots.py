"""The curves of a run: read once, drawn as SVG for its report.

The training loss is in nats for each token, the score of a text in bits for each byte. Both stand
on one axis, in bits per byte, where an evaluation tells how many bytes a token spells.
"""

import bisect
import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from ensue.tasks import Kind
from ensue.tasks.measures import BITS, Measure
from ensue.views.axes import (
    Axes,
    Number,
    Point,
    even_ticks,
    frame,
    line,
    log_ticks,
)
from ensue.views.text import clock, duration, visible

POINTS = 500
"""Points of a drawn line: about one for each pixel or two, however many steps there were."""
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#767676"
"""Okabe and Ito's palette, told apart by all kinds of colour vision."""

T = TypeVar("T")


@dataclass(frozen=True)
class Curves:
    """What a run has recorded, ready to be drawn."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    """Records of updates whose loss is a number."""
    evals: list[dict[str, Any]] = field(default_factory=list)
    """Records of evaluations whose score is a number."""
    final: dict[str, Any] = field(default_factory=dict)
    """Record of the last evaluation; empty: the run is not finished."""
    measure: Measure = BITS
    """What evaluations are shown by."""
    per_nat: float = 0.0
    """Turns the training loss into that; 0: no evaluation tells."""
    target: str = "token"
    """What one loss is of."""

    @property
    def unit(self) -> str:
        """What the vertical axis shows."""
        return self.measure.unit if self.per_nat else f"nats per {self.target}"

    @cached_property
    def loss(self) -> list[Point]:
        """The training loss over steps, in `unit`."""
        scale = self.per_nat or 1.0
        return [(r["step"], r["loss"] * scale) for r in self.steps]

    @cached_property
    def even(self) -> list[Point]:
        """The training loss, smoothed."""
        return smooth(self.loss)

    @property
    def valid(self) -> list[Point]:
        """The score over steps."""
        return [(r["step"], r[self.measure.key]) for r in self.evals]

    @property
    def averaged(self) -> list[Point]:
        """The score of the averaged weights, where there are any."""
        key = f"{self.measure.key}_averaged"
        return [(r["step"], r[key]) for r in self.evals if is_number(r.get(key))]

    @property
    def lr(self) -> list[Point]:
        """The learning rate over steps."""
        return [(r["step"], r["lr"]) for r in self.steps if is_number(r.get("lr"))]

    @property
    def kept(self) -> Point | None:
        """Step and score of the weights that were kept."""
        if not self.final:
            return None
        return self.final.get("kept_step", self.final["step"]), self.final[self.measure.key]

    @property
    def seconds(self) -> float:
        """Seconds spent in updates."""
        return self.at(self.steps[-1]["step"], "seconds") if self.steps else 0.0

    def at(self, step: Number, key: str) -> float:
        """Give what had added up (seconds, tokens) when a step was done; 0: nobody knows."""
        if not self.steps or step <= 0:
            return 0.0
        i = bisect.bisect_left(self.steps, step, key=lambda r: r["step"])
        return float(self.steps[min(i, len(self.steps) - 1)].get(key) or 0.0)


def read_curves(records: Iterable[dict[str, Any]], kind: Kind) -> Curves:
    """Sort a run's records; those without a number (a torn or non-finite one) are left out.

    Args:
        records: What ``metrics.jsonl`` holds.
        kind: What the run learns.
    """
    curves, measure = Curves(), kind.followed_by
    final: dict[str, Any] = {}
    for record in records:
        if not is_number(record.get("step")) or not is_number(record.get("loss")):
            continue
        what = record.get("kind")
        if what == "step":
            curves.steps.append(record)
        elif what == "eval" and is_number(record.get(measure.key)):
            curves.evals.append(record)
        elif what == "final" and is_number(record.get(measure.key)):
            final = record
    scored = [*curves.evals, final] if final else curves.evals
    last = scored[-1] if scored else {}
    per_nat = float(last[measure.key] / last["loss"]) if last.get("loss") else 0.0
    return Curves(curves.steps, curves.evals, final, measure, per_nat, kind.target)


def is_number(value: object) -> bool:
    """Say whether a value of a record is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def smooth(points: Sequence[Point]) -> list[Point]:
    """Average each point with its neighbours, 2 % of the run on both sides.

    Fewer where the curve begins: it is steep there, and a one-sided mean would lag behind it.
    """
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    reach = max(1, len(points) // 50) if len(points) > 10 else 0
    result = []
    for i, (x, _) in enumerate(points):
        first, last = i - min(i, reach), min(len(points), i + min(i, reach) + 1)
        result.append((x, (sums[last] - sums[first]) / (last - first)))
    return result


def thin(points: Sequence[Point], limit: int = POINTS) -> list[Point]:
    """Keep at most `limit` points: the lowest and highest of each stretch, so no spike is lost."""
    if len(points) <= limit:
        return list(points)
    kept = [points[0]]
    stretches = (limit - 2) // 2
    for i in range(stretches):
        first, last = (len(points) * j // stretches for j in (i, i + 1))
        stretch = points[first:last]
        kept += sorted({min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])})
    return [*kept, points[-1]]


def spread(items: Sequence[T], limit: int) -> list[T]:
    """Take at most `limit` of the items, evenly, with the first and the last."""
    if len(items) <= limit:
        return list(items)
    return [items[i * (len(items) - 1) // (limit - 1)] for i in range(limit)]


def gist(curves: Curves, floor: dict[str, Any] | None = None) -> str:
    """Say in words what the curve shows, for those who do not see it."""
    if not curves.steps:
        return "No step has been recorded."
    even, last = curves.even, curves.steps[-1]["step"]
    steps = f"{last:,} steps" if last != 1 else "one step"
    words = [f"Curve over {steps} ({duration(curves.seconds)})."]
    if len(even) > 1:
        words.append(f"Training loss from {even[0][1]:.2f} to {even[-1][1]:.2f} {curves.unit}.")
    else:
        words.append(f"Training loss {even[0][1]:.2f} {curves.unit}.")
    if curves.valid:
        low = min(curves.valid, key=lambda p: p[1])
        words.append(
            f"Validation from {curves.valid[0][1]:.2f} to {curves.valid[-1][1]:.2f}"
            f" {curves.measure.unit}, lowest {low[1]:.2f} at step {low[0]:,}."
        )
    if curves.kept:
        words.append(f"Final score {curves.measure.shown(curves.kept[1])}.")
    if floor:
        bound = floor[curves.measure.key]
        words.append(f"Floor ({floor['name']}) {bound:.2f} {curves.measure.unit}.")
    return " ".join(words)


def loss_axes(curves: Curves, floor: dict[str, Any] | None, width: int, height: int) -> Axes:
    """Choose the range: all that is smoothed or scored fits; single spikes may be cut."""
    raw, even = sorted(y for _, y in curves.loss), [y for _, y in curves.even]
    shown = [*even, *(y for _, y in (*curves.valid, *curves.averaged)), raw[len(raw) // 100]]
    shown += [curves.kept[1]] if curves.kept else []
    shown += [float(floor[curves.measure.key])] if floor and curves.per_nat else []
    low, high = min(shown), max(shown)
    # Above a factor of 2.5 a linear axis would press the end of the curve, which matters, flat.
    if low > 0 and high / low > 2.5:
        room = (high / low) ** 0.06
        return Axes(width, height, _last(curves), low / room, high * room, log=True)
    room = (high - low) * 0.08 or max(abs(high) * 0.1, 0.1)
    return Axes(width, height, _last(curves), max(0.0, low - room), high + room)


def _last(curves: Curves) -> int:
    return max(1, int(curves.steps[-1]["step"]))


def _loss_ticks(axes: Axes, count: int) -> list[Number]:
    if axes.log:
        return log_ticks(axes.low, axes.high, axes.y)
    return even_ticks(axes.low, axes.high, count)


# --- SVG ------------------------------------------------------------------------------------------


def loss_svg(curves: Curves, floor: dict[str, Any] | None, width: int, height: int) -> str:
    """Draw the loss curve; the page's style sheet gives the classes their colours."""
    axes = loss_axes(curves, floor, width, height)
    raw, even = curves.loss, curves.even
    marks = [line(axes, thin(raw), "raw"), line(axes, thin(even), "train")]
    if floor and curves.per_nat:
        bound = float(floor[curves.measure.key])
        marks.append(line(axes, [(0, bound), (axes.x_max, bound)], "floor"))
    marks.append(_dots(axes, curves.averaged, "averaged", curves))
    marks.append(_dots(axes, curves.valid, "valid", curves))
    if curves.kept:
        step, score = curves.kept
        x, y = axes.x(step), axes.y(score)
        side = ("end", x - 8) if x > width * 0.8 else ("start", x + 8)
        marks.append(
            f'<circle class="kept" cx="{x:.1f}" cy="{y:.1f}" r="5.5"/><text class="score"'
            f' x="{side[1]:.1f}" y="{y - 11:.1f}" text-anchor="{side[0]}">{score:.3f}</text>'
        )
    ticks = _loss_ticks(axes, height // 55)
    return _svg(axes, ticks, marks, curves, gist(curves, floor))


def lr_svg(curves: Curves, width: int, height: int) -> str:
    """Draw the learning rate over the same steps."""
    top = max((y for _, y in curves.lr), default=0.0) or 1.0
    axes = Axes(width, height, _last(curves), 0.0, top * 1.1)
    label = f"Learning rate over steps: at most {top:g}."
    if curves.lr:
        label += f" It begins at {curves.lr[0][1]:.2g} and ends at {curves.lr[-1][1]:.2g}."
    ticks = even_ticks(0, axes.high, 3)
    return _svg(axes, ticks, [line(axes, thin(curves.lr), "rate")], curves, label)


def _dots(axes: Axes, points: Sequence[Point], name: str, curves: Curves) -> str:
    few = spread(points, 60)
    dots = "".join(
        f'<circle class="dot {name}" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="3">'
        f"<title>step {x:,} ({_time(curves, x)}): {curves.measure.shown(y)}</title></circle>"
        for x, y in few
    )
    return (line(axes, few, name) if len(few) > 1 else "") + dots


def _svg(axes: Axes, ticks: list[Number], marks: list[str], curves: Curves, label: str) -> str:
    steps = [t for t in even_ticks(0, axes.x_max, axes.width // 95) if t == int(t)]
    below = [(t, (f"{t:,.0f}", _time(curves, t))) for t in steps or [0.0, axes.x_max]]
    return (
        f'<svg class="{"wide" if axes.width > 500 else "narrow"}" role="img" aria-label="'
        f'{html.escape(visible(label))}" viewBox="0 0 {axes.width} {axes.height}">'
        f"{frame(axes, [(t, f'{t:g}') for t in ticks], below, marks)}</svg>"
    )


def _time(curves: Curves, step: Number) -> str:
    seconds = curves.at(step, "seconds")
    return clock(seconds) if curves.seconds >= 20 else f"{seconds:.1f} s"

"""The curves of a run: read once, drawn as SVG for the report and as PNG for elsewhere.

The training loss is in nats for each token, the score in bits for each byte. Both stand on one
axis, in bits per byte, where an evaluation tells how many bytes a token spells.
"""

import bisect
import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from ensue.errors import MissingExtraError
from ensue.files import replacing, writing
from ensue.runs import Run
from ensue.views.text import clock, duration, visible

POINTS = 500
"""Points of a drawn line: about one for each pixel or two, however many steps there were."""
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#00795a", "#767676"
"""Okabe and Ito's palette, told apart by all kinds of colour vision (the green darkened)."""

Number = int | float
Point = tuple[Number, Number]
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
    bits_per_nat: float = 0.0
    """Turns nats for each token into bits for each byte; 0: no evaluation tells."""

    @property
    def unit(self) -> str:
        """What the vertical axis shows."""
        return "bits per byte" if self.bits_per_nat else "nats per token"

    @cached_property
    def loss(self) -> list[Point]:
        """The training loss over steps, in `unit`."""
        scale = self.bits_per_nat or 1.0
        return [(r["step"], r["loss"] * scale) for r in self.steps]

    @cached_property
    def even(self) -> list[Point]:
        """The training loss, smoothed."""
        return smooth(self.loss)

    @property
    def valid(self) -> list[Point]:
        """The score over steps."""
        return [(r["step"], r["bits_per_byte"]) for r in self.evals]

    @property
    def averaged(self) -> list[Point]:
        """The score of the averaged weights, where there are any."""
        key = "bits_per_byte_averaged"
        return [(r["step"], r[key]) for r in self.evals if _is_number(r.get(key))]

    @property
    def lr(self) -> list[Point]:
        """The learning rate over steps."""
        return [(r["step"], r["lr"]) for r in self.steps if _is_number(r.get("lr"))]

    @property
    def kept(self) -> Point | None:
        """Step and score of the weights that were kept."""
        if not self.final:
            return None
        return self.final.get("kept_step", self.final["step"]), self.final["bits_per_byte"]

    @property
    def seconds(self) -> float:
        """Seconds spent in updates."""
        return float(self.steps[-1].get("seconds") or 0.0) if self.steps else 0.0

    def seconds_at(self, step: Number) -> float:
        """Give the seconds spent in updates up to a step."""
        if not self.steps or step <= 0:
            return 0.0
        i = bisect.bisect_left(self.steps, step, key=lambda r: r["step"])
        return float(self.steps[min(i, len(self.steps) - 1)].get("seconds") or 0.0)


def read_curves(records: Iterable[dict[str, Any]]) -> Curves:
    """Sort a run's records; those without a number (a torn or non-finite one) are left out."""
    curves = Curves()
    final: dict[str, Any] = {}
    for record in records:
        if not _is_number(record.get("step")) or not _is_number(record.get("loss")):
            continue
        kind = record.get("kind")
        if kind == "step":
            curves.steps.append(record)
        elif kind == "eval" and _is_number(record.get("bits_per_byte")):
            curves.evals.append(record)
        elif kind == "final" and _is_number(record.get("bits_per_byte")):
            final = record
    scored = [*curves.evals, final] if final else curves.evals
    last = scored[-1] if scored else {}
    scale = float(last["bits_per_byte"] / last["loss"]) if last.get("loss") else 0.0
    return Curves(curves.steps, curves.evals, final, scale)


def _is_number(value: object) -> bool:
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
    line, last = curves.even, curves.steps[-1]["step"]
    steps = f"{last:,} steps" if last != 1 else "one step"
    words = [f"Curve over {steps} ({duration(curves.seconds)})."]
    if len(line) > 1:
        words.append(f"Training loss from {line[0][1]:.2f} to {line[-1][1]:.2f} {curves.unit}.")
    else:
        words.append(f"Training loss {line[0][1]:.2f} {curves.unit}.")
    if curves.valid:
        low = min(curves.valid, key=lambda p: p[1])
        words.append(
            f"Validation from {curves.valid[0][1]:.2f} to {curves.valid[-1][1]:.2f} bits per byte,"
            f" lowest {low[1]:.2f} at step {low[0]:,}."
        )
    if curves.kept:
        words.append(f"Final score {curves.kept[1]:.3f} bits per byte.")
    if floor:
        words.append(f"Floor ({floor['name']}) {floor['bits_per_byte']:.2f} bits per byte.")
    return " ".join(words)


# --- axes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axes:
    """Maps steps and values to pixels."""

    width: int
    height: int
    x_max: Number
    low: Number
    high: Number
    log: bool = False
    left: int = 44
    right: int = 14
    top: int = 10
    bottom: int = 42

    def x(self, step: Number) -> float:
        """Pixels from the left."""
        return self.left + (self.width - self.left - self.right) * step / self.x_max

    def y(self, value: Number) -> float:
        """Pixels from the top."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        share = (value - low) / (high - low)
        return self.height - self.bottom - (self.height - self.bottom - self.top) * share

    def path(self, points: Sequence[Point]) -> str:
        """A line through the points."""
        return "M" + "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)


def loss_axes(curves: Curves, floor: dict[str, Any] | None, width: int, height: int) -> Axes:
    """Choose the range: all that is smoothed or scored fits; single spikes may be cut."""
    raw, even = sorted(y for _, y in curves.loss), [y for _, y in curves.even]
    shown = [*even, *(y for _, y in (*curves.valid, *curves.averaged)), raw[len(raw) // 100]]
    shown += [curves.kept[1]] if curves.kept else []
    shown += [float(floor["bits_per_byte"])] if floor and curves.bits_per_nat else []
    low, high = min(shown), max(shown)
    # Above a factor of 2.5 a linear axis would press the end of the curve, which matters, flat.
    if low > 0 and high / low > 2.5:
        room = (high / low) ** 0.06
        return Axes(width, height, _last(curves), low / room, high * room, log=True)
    room = (high - low) * 0.08 or max(abs(high) * 0.1, 0.1)
    return Axes(width, height, _last(curves), max(0.0, low - room), high + room)


def _last(curves: Curves) -> int:
    return max(1, int(curves.steps[-1]["step"]))


def _ticks(low: Number, high: Number, count: int) -> list[Number]:
    """Round numbers in a range: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / max(1, count)
    power: float = 10.0 ** math.floor(math.log10(rough))
    step = next(power * f for f in (1, 2, 5, 10) if power * f >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(axes: Axes) -> list[Number]:
    """Round numbers at least 22 pixels apart; the roundest first."""
    span = range(math.floor(math.log10(axes.low)), math.ceil(math.log10(axes.high)) + 1)
    chosen: list[Number] = []
    for factor in (1, 2, 5, 3, 4, 8, 6, 1.5, 2.5, 7, 9, 3.5, 1.2, 1.8):
        for value in (factor * 10.0**power for power in span):
            inside = axes.low <= value <= axes.high
            if inside and all(abs(axes.y(value) - axes.y(c)) >= 22 for c in chosen):
                chosen.append(value)
    return sorted(chosen)


# --- SVG ------------------------------------------------------------------------------------------


def loss_svg(curves: Curves, floor: dict[str, Any] | None, width: int, height: int) -> str:
    """Draw the loss curve; the page's style sheet gives the classes their colours."""
    axes = loss_axes(curves, floor, width, height)
    raw, even = curves.loss, curves.even
    marks = [_line(axes, thin(raw), "raw"), _line(axes, thin(even), "train")]
    if floor and curves.bits_per_nat:
        bound = float(floor["bits_per_byte"])
        marks.append(_line(axes, [(0, bound), (axes.x_max, bound)], "floor"))
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
    ticks = _log_ticks(axes) if axes.log else _ticks(axes.low, axes.high, height // 55)
    return _svg(axes, ticks, marks, curves, gist(curves, floor))


def lr_svg(curves: Curves, width: int, height: int) -> str:
    """Draw the learning rate over the same steps."""
    top = max((y for _, y in curves.lr), default=0.0) or 1.0
    axes = Axes(width, height, _last(curves), 0.0, top * 1.1)
    label = f"Learning rate over steps: at most {top:g}."
    if curves.lr:
        label += f" It begins at {curves.lr[0][1]:.2g} and ends at {curves.lr[-1][1]:.2g}."
    return _svg(
        axes, _ticks(0, axes.high, 3), [_line(axes, thin(curves.lr), "rate")], curves, label
    )


def _line(axes: Axes, points: Sequence[Point], name: str) -> str:
    if len(points) == 1:  # a line through one point is invisible
        x, y = points[0]
        return f'<circle class="dot {name}" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="3"/>'
    return f'<path class="{name}" d="{axes.path(points)}"/>' if points else ""


def _dots(axes: Axes, points: Sequence[Point], name: str, curves: Curves) -> str:
    few = spread(points, 60)
    dots = "".join(
        f'<circle class="dot {name}" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="3">'
        f"<title>step {x:,} ({_time(curves, x)}): {y:.3f} bits per byte</title></circle>"
        for x, y in few
    )
    return (_line(axes, few, name) if len(few) > 1 else "") + dots


def _svg(axes: Axes, ticks: list[Number], marks: list[str], curves: Curves, label: str) -> str:
    floor_y, right = axes.height - axes.bottom, axes.width - axes.right
    parts = [
        f'<svg class="{"wide" if axes.width > 500 else "narrow"}" role="img" aria-label="'
        f'{html.escape(visible(label))}" viewBox="0 0 {axes.width} {axes.height}">'
    ]
    for tick in ticks:
        y = f"{axes.y(tick):.1f}"
        parts.append(
            f'<path class="grid" d="M{axes.left} {y}H{right}"/>'
            f'<text x="{axes.left - 7}" y="{y}" dy=".32em" text-anchor="end">{tick:g}</text>'
        )
    for tick in _step_ticks(axes):
        x, end = axes.x(tick), "end" if axes.x(tick) > right - 12 else "middle"
        parts.append(
            f'<path class="grid" d="M{x:.1f} {floor_y}v5"/>'
            f'<text x="{x:.1f}" y="{floor_y + 18}" text-anchor="{end}">{tick:,.0f}</text>'
            f'<text class="time" x="{x:.1f}" y="{floor_y + 33}" text-anchor="{end}">'
            f"{_time(curves, tick)}</text>"
        )
    # A frame of its own cuts what lies outside of the range, without an id to keep unique.
    frame = (
        f'<svg x="{axes.left}" y="0" width="{right - axes.left + 8}" height="{floor_y}"'
        f' viewBox="{axes.left} 0 {right - axes.left + 8} {floor_y}">'
    )
    parts += [frame, *marks, "</svg>", f'<path class="axis" d="M{axes.left} {floor_y}H{right}"/>']
    return "".join([*parts, "</svg>"])


def _time(curves: Curves, step: Number) -> str:
    seconds = curves.seconds_at(step)
    return clock(seconds) if curves.seconds >= 20 else f"{seconds:.1f} s"


def _step_ticks(axes: Axes) -> list[Number]:
    ticks = [t for t in _ticks(0, axes.x_max, axes.width // 95) if t == int(t)]
    return ticks or [0.0, axes.x_max]


# --- PNG ------------------------------------------------------------------------------------------


def write_curve_png(run: Run, path: Path | str, floor: dict[str, Any] | None = None) -> Path:
    """Draw the loss curve as a picture.

    Args:
        run: The run; one without a recorded step gives an empty picture.
        path: Where the PNG goes.
        floor: A score to beat, as in `ensue.views.report.write_report`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # an extra, and half a second to import
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots") from error
    curves, target = read_curves(run.read_metrics()), Path(path)
    figure = Figure(figsize=(7.5, 4.2), dpi=150, layout="constrained")  # no pyplot: no global state
    plot = figure.subplots()
    _plot(plot, curves, floor)
    with writing(target, 0), replacing(target) as temporary:
        figure.savefig(temporary, format="png")
    return target


def _plot(plot: Any, curves: Curves, floor: dict[str, Any] | None) -> None:
    draw: Callable[..., Any] = plot.plot
    plot.set_xlabel("step")
    plot.set_ylabel(curves.unit)
    if not curves.steps:
        plot.set_title("no step has been recorded")
        return
    axes = loss_axes(curves, floor, 750, 420)
    plot.set_yscale("log" if axes.log else "linear")
    plot.set_ylim(axes.low, axes.high)
    ticks = _log_ticks(axes) if axes.log else _ticks(axes.low, axes.high, 7)
    plot.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    plot.set_yticks([], minor=True)
    draw(*zip(*thin(curves.loss), strict=True), color=BLUE, alpha=0.25, lw=0.8)
    draw(*zip(*thin(curves.even), strict=True), color=BLUE, label="train")
    if curves.valid:
        draw(*zip(*curves.valid, strict=True), "o-", color=ORANGE, ms=4, label="valid")
    if curves.averaged:
        draw(*zip(*curves.averaged, strict=True), "s:", color=GREEN, ms=3, label="valid, averaged")
    if floor and curves.bits_per_nat:
        plot.axhline(floor["bits_per_byte"], ls="--", color=GREY, label=floor["name"])
    plot.legend(frameon=False)
    plot.spines[["top", "right"]].set_visible(False)

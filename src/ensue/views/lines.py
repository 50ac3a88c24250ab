"""Several lines in one picture, told apart without colour: each has a dash, a marker and its name.

The name stands at the end of the line, on the right; names that would cover each other move apart,
and what ends outside of the range is named at its edge with an arrow.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensue.views.axes import (
    Axes,
    Number,
    Point,
    even_ticks,
    frame,
    line,
    log_ticks,
    new_figure,
    save_png,
)
from ensue.views.page import escaped
from ensue.views.plots import GREY, spread
from ensue.views.text import visible

WIDTH, HEIGHT = 420, 290
"""Of one picture, in its own pixels: 11 px text on a phone, 14 px in two columns on a desk."""
MARKS = 10
"""Markers on a line at most: more of them would hide the dashes."""
NAME = 17
"""Letters of a name at the end of a line."""
GAP = 14
"""Pixels from one name to the next."""


@dataclass(frozen=True)
class Style:
    """How a line looks."""

    light: str
    """Colour on white: 3:1 or more, so the orange, sky and yellow of the palette are darker."""
    dark: str
    """Colour on black."""
    dash: tuple[int, ...]
    """Lengths of strokes and gaps; none: solid."""
    shape: tuple[Point, ...]
    """Corners of the marker in units of its radius; none: a circle."""
    marker: str
    """What matplotlib calls the marker."""


_PLUS = (
    *((-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4)),
    *((0.4, 1.2), (-0.4, 1.2), (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4)),
)
_CROSS = tuple((0.75 * (x - y), 0.75 * (x + y)) for x, y in _PLUS)
_STAR = (
    *((0.0, -1.4), (0.35, -0.48), (1.33, -0.43), (0.57, 0.18), (0.82, 1.13)),
    *((0.0, 0.6), (-0.82, 1.13), (-0.57, 0.18), (-1.33, -0.43), (-0.35, -0.48)),
)

STYLES = (
    Style("#0072b2", "#56b4e9", (), (), "o"),
    Style("#d55e00", "#ff8a4c", (7, 3), ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)), "s"),
    Style("#00795a", "#3fc79a", (2, 3), ((0.0, -1.2), (1.1, 0.8), (-1.1, 0.8)), "^"),
    Style("#a8487f", "#e39cc4", (9, 3, 2, 3), ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)), "D"),
    Style("#946200", "#e69f00", (14, 4), ((0.0, 1.2), (1.1, -0.8), (-1.1, -0.8)), "v"),
    Style("#1b1f24", "#e6e9ec", (4, 2, 1, 2), _CROSS, "X"),
    Style("#2a84b8", "#a9dcff", (12, 3, 5, 3), _PLUS, "P"),
    Style("#7a7000", "#f0e442", (8, 2, 2, 2, 2, 2), _STAR, "*"),
)
"""Okabe and Ito's palette, with a dash and a marker for each colour."""


@dataclass(frozen=True)
class Line:
    """What one model did."""

    name: str
    """What stands at the end of it."""
    points: Sequence[Point]
    """At least one, from left to right."""
    style: int
    """Number of its style; past the last they begin anew, with other markers."""
    around: Sequence[Sequence[Point]] = ()
    """What it is the mean of: drawn thin."""
    spreads: Sequence[Number] = ()
    """Of each point, where it is a mean: drawn as a bar from so much below it to so much above."""

    @property
    def look(self) -> Style:
        """Colour and dash."""
        return STYLES[self.style % len(STYLES)]

    @property
    def mark(self) -> Style:
        """The marker: one further in each round, so that no two lines look the same."""
        return STYLES[(self.style + self.style // len(STYLES)) % len(STYLES)]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture: lines on common axes."""

    name: str
    """Its id on the page."""
    title: str
    """What it shows."""
    words: str
    """What one sees in it, for those who do not."""
    x_title: str
    """What the horizontal axis counts."""
    lines: Sequence[Line]
    """In the order of their styles."""
    low: Number
    """Lower end of the vertical axis."""
    high: Number
    """Upper end of it; what lies above is cut."""
    x_max: Number
    """Right end of the horizontal axis."""
    x_min: Number = 0
    """Left end of it."""
    log: bool = False
    """Whether values are spread by their logarithm."""
    x_log: bool = False
    """The same from left to right."""
    x_ticks: Sequence[Number] = ()
    """Where the horizontal axis has words; none: at round numbers."""
    x_words: Callable[[Number], str] = "{:g}".format
    """Words of a number on the horizontal axis."""
    y_words: Callable[[Number], str] = "{:g}".format
    """Words of a number on the vertical axis."""
    level: tuple[str, Number] | None = None
    """Name and value of a dashed horizontal line."""

    @property
    def axes(self) -> Axes:
        """Where all stands: on the right is room for the longest name."""
        names = [_short(x.name) for x in self.lines] + ([self.level[0]] if self.level else [])
        return Axes(
            WIDTH,
            HEIGHT,
            self.x_max,
            self.low,
            self.high,
            log=self.log,
            x_min=self.x_min,
            x_log=self.x_log,
            left=52,
            right=32 + 7 * max(map(len, names), default=0),
            top=36,
            bottom=44,
        )

    def ticks(self, axes: Axes) -> tuple[list[tuple[Number, str]], list[tuple[Number, str]]]:
        """Give values and words on the vertical and the horizontal axis."""
        if self.x_ticks:
            across = list(self.x_ticks)
        elif self.x_log:
            across = log_ticks(axes.x_min, axes.x_max, axes.x, 48)
        else:
            across = even_ticks(axes.x_min, axes.x_max, (axes.x_end - axes.left) // 50)
        if self.log:
            up = log_ticks(axes.low, axes.high, axes.y, 24)
        else:
            up = even_ticks(axes.low, axes.high, (axes.y_end - axes.top) // 36)
        return [(t, self.y_words(t)) for t in up], [(t, self.x_words(t)) for t in across]


@dataclass(frozen=True)
class _Name:
    """A name on the right."""

    words: str
    wanted: Number
    """Pixels from the top at which its line ends, within the frame."""
    place: Number
    """Pixels from the top at which it stands."""
    x: float
    """Pixels from the left at which its line ends."""
    line: Line | None
    """None: the level."""


def apart(wanted: Sequence[Number], gap: Number, top: Number, bottom: Number) -> list[Number]:
    """Move places apart: down past their upper neighbour, then up from the bottom."""
    gap = min(gap, (bottom - top) / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    placed, lowest, highest = list(wanted), top, bottom
    for i in order:
        placed[i] = max(placed[i], lowest)
        lowest = placed[i] + gap
    for i in reversed(order):
        placed[i] = min(placed[i], highest)
        highest = placed[i] - gap
    return placed


def _short(name: str) -> str:
    words = visible(" ".join(name.split()))
    return words if len(words) <= NAME else words[: NAME - 1] + "…"


def _names(panel: Panel, axes: Axes) -> list[_Name]:
    ends = [(_short(x.name), *x.points[-1], x) for x in panel.lines]
    found: list[tuple[str, Number, Number, Line | None]] = list(ends)
    if panel.level:
        found.append((panel.level[0], axes.x_max, panel.level[1], None))
    wanted = [min(max(axes.y(y), axes.top), axes.y_end) for _, _, y, _ in found]
    places = apart(wanted, GAP, axes.top, axes.y_end)
    names = []
    for (words, x, y, of), want, place in zip(found, wanted, places, strict=True):
        arrow = " ↑" if y > axes.high else " ↓" if y < axes.low else ""
        names.append(_Name(words + arrow, want, place, axes.x(x), of))
    return names


# --- SVG ------------------------------------------------------------------------------------------


def picture(panel: Panel) -> str:
    """Draw a panel for a page that has `STYLE`."""
    return (
        f'<svg role="img" aria-labelledby="{panel.name}-title {panel.name}-words"'
        f' viewBox="0 0 {WIDTH} {HEIGHT}">'
        f'<title id="{panel.name}-title">{escaped(panel.title)}</title>'
        f'<desc id="{panel.name}-words">{escaped(panel.words)}</desc>{_draw(panel)}</svg>'
    )


def sheet(title: str, panels: Sequence[Panel]) -> str:
    """Draw panels as one SVG file, two in a row, on white."""
    rows = (len(panels) + 1) // 2
    width, height = WIDTH * min(2, len(panels)), HEIGHT * rows
    words = " ".join(panel.words for panel in panels)
    drawn = "".join(
        f'<g transform="translate({WIDTH * (i % 2)} {HEIGHT * (i // 2)})">{_draw(panel)}</g>'
        for i, panel in enumerate(panels)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="title words"'
        f' width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f'<title id="title">{escaped(title)}</title><desc id="words">{escaped(words)}</desc>'
        f"<style>{_PLAIN}{_SHAPES}{LIGHT}</style>"
        f'<rect width="{width}" height="{height}" fill="#fff"/>{drawn}</svg>\n'
    )


def _draw(panel: Panel) -> str:
    axes = panel.axes
    up, across = panel.ticks(axes)
    marks = []
    if panel.level:
        ends = [(x, panel.level[1]) for x in (axes.x_min, axes.x_max)]
        marks.append(line(axes, ends, "level"))
    for one in panel.lines:
        marks += [line(axes, seed, f"seed {_class(one)}") for seed in one.around]
    for one in panel.lines:
        marks.append(line(axes, one.points, f"mean {_class(one)}"))
        for (x, y), by in zip(one.points, one.spreads, strict=bool(one.spreads)):
            marks.append(line(axes, [(x, y - by), (x, y + by)], f"bar {_class(one)}"))
        marks += [_mark(one, axes.x(x), axes.y(y)) for x, y in spread(one.points, MARKS)]
    middle = (axes.left + axes.x_end) / 2
    parts = [
        f'<text class="head" x="8" y="18">{escaped(panel.title)}</text>',
        frame(axes, up, [(t, (words,)) for t, words in across], marks),
        f'<text x="{middle:.0f}" y="{axes.y_end + 36}" text-anchor="middle">'
        f"{escaped(panel.x_title)}</text>",
    ]
    for name in _names(panel, axes):
        start, end = min(name.x + 5, axes.x_end), axes.x_end
        parts.append(
            f'<path class="lead" d="M{start:.1f} {name.wanted:.1f}H{end}L{end + 8}'
            f' {name.place:.1f}"/><text class="name" x="{end + 22}" y="{name.place:.1f}"'
            f' dy=".32em">{escaped(name.words)}</text>'
        )
        if name.line:
            parts.append(_mark(name.line, end + 14, name.place))
    return "".join(parts)


def _class(one: Line) -> str:
    return f"s{one.style % len(STYLES)}"


def _mark(one: Line, x: Number, y: Number, r: float = 3.6) -> str:
    if one.mark.shape:
        d = "M" + "L".join(f"{x + r * a:.1f} {y + r * b:.1f}" for a, b in one.mark.shape)
    else:
        d = f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0"
    return f'<path class="mark {_class(one)}" d="{d}Z"/>'


_DASHES = "".join(
    f"path.mean.s{i} {{ stroke-dasharray: {' '.join(map(str, style.dash)) or 'none'}; }}\n"
    for i, style in enumerate(STYLES)
)
_SHAPES = (
    """
path.mean, path.seed, path.bar { stroke: currentColor; stroke-linejoin: round; }
path.mean { stroke-width: 2; } path.seed { stroke-width: 1; opacity: .4; }
path.bar { stroke-width: 1.5; }
path.mark, circle.mean, circle.seed { fill: currentColor; }
path.level { stroke-width: 1.6; stroke-dasharray: 5 4; } path.lead { stroke-dasharray: 1 3; }
"""
    + _DASHES
)
LIGHT = "".join(f".s{i} {{ color: {style.light}; }}\n" for i, style in enumerate(STYLES))
"""The colours of the styles, on white."""
_DARK = "".join(f".s{i} {{ color: {style.dark}; }}\n" for i, style in enumerate(STYLES))
_PLAIN = """
text { font: 12px system-ui, sans-serif; fill: #57606a; } .head { font-weight: 600; }
.head, .name { fill: #1b1f24; } path { fill: none; } .grid { stroke: #d7dce1; }
.axis, .level, .lead { stroke: #57606a; }"""

STYLE = f"""
.panels {{ display: grid; gap: 1.5rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }}
.panels svg {{ max-width: 34rem; }}
svg .head, svg .name {{ fill: var(--ink); }} svg .head {{ font-weight: 600; }}
.level, .lead {{ stroke: var(--soft); }}
{_SHAPES}{LIGHT}@media (prefers-color-scheme: dark) {{
{_DARK}}}
@media print {{
{LIGHT}}}
"""
"""Rules of a page with pictures."""


# --- PNG ------------------------------------------------------------------------------------------


def write_png(panels: Sequence[Panel], path: Path) -> Path:
    """Draw panels as one picture, two in a row.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    columns, rows = min(2, len(panels)), (len(panels) + 1) // 2
    figure = new_figure(5.6 * columns, 3.8 * rows)
    plots = list(figure.subplots(rows, columns, squeeze=False).flat)
    for plot, panel in zip(plots, panels, strict=False):
        _plot(plot, panel)
    for plot in plots[len(panels) :]:
        plot.set_axis_off()
    return save_png(figure, path)


def _plot(plot: Any, panel: Panel) -> None:
    axes = panel.axes
    plot.set_title(panel.title, loc="left", fontsize=10)
    plot.set_xlabel(panel.x_title)
    up, across = panel.ticks(axes)
    for axis, log, ends, ticks in (
        ("x", panel.x_log, (axes.x_min, 1.02 * axes.x_max), across),  # room for half a marker
        ("y", panel.log, (axes.low, axes.high), up),
    ):
        getattr(plot, f"set_{axis}scale")("log" if log else "linear")
        getattr(plot, f"set_{axis}ticks")(*zip(*ticks, strict=True))
        getattr(plot, f"set_{axis}ticks")([], minor=True)
        getattr(plot, f"set_{axis}lim")(*ends)
    plot.grid(axis="y", alpha=0.4)
    plot.spines[["top", "right"]].set_visible(False)
    if panel.level:
        plot.axhline(panel.level[1], ls="--", lw=1.2, color=GREY)
    for one in panel.lines:
        color, marker = one.look.light, one.mark.marker
        for seed in one.around:
            plot.plot(*zip(*seed, strict=True), color=color, alpha=0.4, lw=0.8)
        if one.spreads:
            plot.errorbar(*zip(*one.points, strict=True), one.spreads, fmt="none", ecolor=color)
        dash = (0, one.look.dash) if one.look.dash else "-"
        plot.plot(*zip(*one.points, strict=True), color=color, ls=dash, lw=1.6)
        plot.plot(*zip(*spread(one.points, MARKS), strict=True), marker, color=color, ms=5)
    for name in _names(panel, axes):
        share = (axes.y_end - name.place) / (axes.y_end - axes.top)
        # parse_math: a name with a dollar sign is not a formula.
        plot.annotate(
            name.words,
            (1.05, share),
            xycoords="axes fraction",
            va="center",
            fontsize=9,
            parse_math=False,
        )
        if name.line:
            color, marker = name.line.look.light, name.line.mark.marker
            at = plot.transAxes
            plot.plot([1.025], [share], marker, color=color, ms=5, transform=at, clip_on=False)

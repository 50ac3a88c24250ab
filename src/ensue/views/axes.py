"""What every picture stands on: axes in pixels, round numbers along them, frame and PNG file."""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensue.errors import MissingExtraError
from ensue.files import replacing, writing

Number = int | float
Point = tuple[Number, Number]

FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK KR", "Noto Sans Devanagari"),
    *("Noto Sans Thai", "Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo", "Yu Gothic"),
    *("Microsoft YaHei", "Malgun Gothic", "Nirmala UI", "Leelawadee UI", "Arial Unicode MS"),
)
"""Of Linux, macOS and Windows: for Chinese, Japanese, Korean, Hindi and Thai in a PNG."""
ROUND = (1, 2, 5, 3, 4, 8, 6, 1.5, 2.5, 7, 9, 3.5, 1.2, 1.8)
"""Factors of a power of ten, the roundest first."""


@dataclass(frozen=True)
class Axes:
    """Maps values to pixels."""

    width: int
    height: int
    x_max: Number
    low: Number
    high: Number
    log: bool = False
    """Whether values are spread by their logarithm from bottom to top."""
    x_min: Number = 0
    x_log: bool = False
    """The same from left to right."""
    left: int = 44
    right: int = 14
    top: int = 10
    bottom: int = 42

    @property
    def x_end(self) -> int:
        """Pixels from the left to the end of the horizontal axis."""
        return self.width - self.right

    @property
    def y_end(self) -> int:
        """Pixels from the top to the horizontal axis."""
        return self.height - self.bottom

    def x(self, value: Number) -> float:
        """Pixels from the left."""
        share = _share(value, self.x_min, self.x_max, self.x_log)
        return self.left + (self.x_end - self.left) * share

    def y(self, value: Number) -> float:
        """Pixels from the top."""
        return self.y_end - (self.y_end - self.top) * _share(value, self.low, self.high, self.log)

    def path(self, points: Sequence[Point]) -> str:
        """A line through the points."""
        return "M" + "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)


def _share(value: Number, first: Number, last: Number, log: bool) -> float:
    if log:
        first, last, value = math.log(first), math.log(last), math.log(value)
    return (value - first) / (last - first)


def even_ticks(low: Number, high: Number, count: int) -> list[Number]:
    """Round numbers in a range: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / max(1, count)
    power: float = 10.0 ** math.floor(math.log10(rough))
    step = next(power * f for f in (1, 2, 5, 10) if power * f >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(
    low: Number, high: Number, place: Callable[[Number], float], gap: Number = 22
) -> list[Number]:
    """Round numbers in a range, the roundest first, whose places are `gap` pixels apart."""
    span = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    chosen: list[Number] = []
    for factor in ROUND if high < 1000 * low else ROUND[:1]:  # over decades, only their ends
        for value in (factor * 10.0**power for power in span):
            if low <= value <= high and all(abs(place(value) - place(c)) >= gap for c in chosen):
                chosen.append(value)
    return sorted(chosen)


def frame(
    axes: Axes,
    y_ticks: Iterable[tuple[Number, str]],
    x_ticks: Iterable[tuple[Number, Sequence[str]]],
    marks: Iterable[str],
) -> str:
    """Draw axes and grid as SVG around what stands in them.

    Args:
        axes: Where all stands.
        y_ticks: Values and their words, on the left.
        x_ticks: Values and the lines of words below them.
        marks: SVG; what lies outside of the range is cut.
    """
    parts = []
    for tick, words in y_ticks:
        y = f"{axes.y(tick):.1f}"
        parts.append(
            f'<path class="grid" d="M{axes.left} {y}H{axes.x_end}"/>'
            f'<text x="{axes.left - 7}" y="{y}" dy=".32em" text-anchor="end">{words}</text>'
        )
    for tick, lines in x_ticks:
        x = axes.x(tick)
        end = "end" if axes.width - x < 26 else "middle"
        parts.append(f'<path class="grid" d="M{x:.1f} {axes.y_end}v5"/>')
        for i, words in enumerate(lines):
            second = ' class="second"' if i else ""
            parts.append(
                f'<text{second} x="{x:.1f}" y="{axes.y_end + 18 + 15 * i}"'
                f' text-anchor="{end}">{words}</text>'
            )
    # A frame of its own cuts what lies outside of the range, without an id to keep unique. It is
    # larger by a marker.
    top, width = axes.top - 8, axes.x_end - axes.left + 8
    place = (axes.left, top, width, axes.y_end - top)
    parts += [
        '<svg x="{}" y="{}" width="{}" height="{}" viewBox="{} {} {} {}">'.format(*place, *place),
        *marks,
        f'</svg><path class="axis" d="M{axes.left} {axes.y_end}H{axes.x_end}"/>',
    ]
    return "".join(parts)


def line(axes: Axes, points: Sequence[Point], name: str) -> str:
    """Draw a line as SVG, or a dot where there is but one point.

    Args:
        axes: Where it stands.
        points: From left to right.
        name: Its classes in the style sheet.
    """
    if len(points) == 1:  # a line through one point is invisible
        x, y = points[0]
        return f'<circle class="dot {name}" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="3"/>'
    return f'<path class="{name}" d="{axes.path(points)}"/>' if points else ""


def new_figure(width: float, height: float) -> Any:
    """Give an empty figure of matplotlib.

    Args:
        width: In inches.
        height: In inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # an extra, and half a second to import
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots") from error
    return Figure(figsize=(width, height), dpi=150, layout="constrained")  # no pyplot: no state


@contextlib.contextmanager
def many_scripts() -> Iterator[None]:
    """Draw letters that matplotlib's own font lacks with fonts of this machine, if any."""
    import matplotlib  # an extra: see `new_figure`
    from matplotlib.font_manager import get_font_names

    found = set(get_font_names())
    families = ["DejaVu Sans", *(name for name in FONTS if name in found)]
    with matplotlib.rc_context({"font.family": families}):
        yield


def save_png(figure: Any, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all."""
    with writing(path, 0), replacing(path) as temporary, warnings.catch_warnings():
        # A font without a name's script draws boxes: no reason to refuse the picture.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(temporary, format="png")
    return path

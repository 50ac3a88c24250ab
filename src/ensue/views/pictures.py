"""Pictures of what a model does: shaded cells and bars here, lines from `ensue.views.lines`.

A picture is plain numbers with names, words and a table. In a page its panels stand as wide as they
need to be read, and scroll on their own where the screen is narrower; in a file of its own they
stand side by side.
"""

import contextlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ensue.errors import MissingExtraError
from ensue.files import write_atomic
from ensue.views import lines
from ensue.views.axes import many_scripts, new_figure, save_png
from ensue.views.page import ROWS, escaped, folded
from ensue.views.plots import BLUE, ORANGE
from ensue.views.scatter import SHAPES, Scatter

SHADES = 20
"""Steps of a shade: each is one path, however many cells have it."""
WIDE = 1400
"""Pixels in which the panels of one file stand side by side."""
LARGEST = 26.0
"""Inches of a PNG's longer side; at 150 points an inch 3,900."""
UNLABELLED = 224.0
"""Pixels of the longer side of what has no labels, if that may be."""
TITLE, LETTER = 22, 6.4
"""Pixels: height of a panel's title, and width of a letter."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What is seen, how to read it, and its numbers."""

    name: str
    """Stem of its files."""
    title: str
    """Its heading."""
    caption: str
    """How to read it."""
    heads: Sequence[str]
    """Heads of its table."""
    rows: Sequence[Sequence[str]]
    """The numbers; none: the page has them elsewhere."""
    panels: "Sequence[Cells] | lines.Panel"
    """Cells, bars and points, or lines."""

    def section(self, beside: str) -> str:
        """Give a section of a page that has `STYLE`; all rows of a long table are in `beside`."""
        if isinstance(self.panels, lines.Panel):
            shown = f'<div class="panels">{lines.picture(self.panels)}</div>'
        else:
            drawn = (f"<div>{_panel(panel)}</div>" for panel in self.panels)
            shown = f'<div class="cells">{"".join(drawn)}</div>'
        numbers = (
            folded(self.title, self.heads, self.rows[:ROWS], len(self.rows), beside)
            if self.rows
            else ""
        )
        return (
            f"<section><h2>{escaped(self.title)}</h2><figure>{shown}"
            f"<figcaption>{escaped(self.caption)}</figcaption></figure>{numbers}</section>"
        )

    def save(self, folder: Path) -> list[Path]:
        """Write it as SVG, and as PNG where matplotlib is installed."""
        svg, png = (folder / f"{self.name}.{kind}" for kind in ("svg", "png"))
        write_atomic(svg, self.svg())
        paths = [svg]
        with contextlib.suppress(MissingExtraError):
            if isinstance(self.panels, lines.Panel):
                paths.append(lines.write_png([self.panels], png))
            else:
                paths.append(_write_png(self.panels, png))
        return paths

    def svg(self) -> str:
        """Give a file of its own, in the colours of paper."""
        if isinstance(self.panels, lines.Panel):
            return lines.sheet(self.title, [self.panels])
        grid = _Grid(self.panels)
        drawn = "".join(_panel(panel, grid.place(i)) for i, panel in enumerate(self.panels))
        width, height = grid.size
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}"'
            f' width="{width:.0f}" height="{height:.0f}" role="img">'
            f"<title>{escaped(self.title)}</title><desc>{escaped(self.caption)}</desc>"
            f"<style>{_PLAIN}{_SHAPES}</style>"
            f'<rect width="100%" height="100%" fill="#fff"/>{drawn}</svg>\n'
        )

    def _repr_svg_(self) -> str:
        return self.svg()  # a notebook shows it


class _Grid:
    """Panels in rows of even columns."""

    def __init__(self, panels: "Sequence[Cells]") -> None:
        self.width = max(panel.size[0] for panel in panels) + 20
        self.room = max(panel.size[1] for panel in panels)
        self.height = self.room + TITLE + 16
        self.columns = max(1, min(len(panels), int(WIDE // self.width)))
        self.rows = -(-len(panels) // self.columns)

    @property
    def size(self) -> tuple[float, float]:
        """Pixels of all."""
        return self.columns * self.width, self.rows * self.height

    def place(self, i: int) -> str:
        """Say in SVG where a panel stands."""
        row, column = divmod(i, self.columns)
        return f' x="{column * self.width + 10:.0f}" y="{row * self.height + 8:.0f}"'


def _panel(panel: "Cells", place: str = "") -> str:
    width, height = panel.size
    height += TITLE
    return (
        f'<svg class="panel"{place} role="img"'
        f' aria-label="{escaped(f"{panel.title}. {panel.gist()}")}" width="{width:.0f}"'
        f' height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">'
        f'<text class="head" x="0" y="13">{escaped(panel.title)}</text>'
        f'<g transform="translate(0 {TITLE})">{panel.marks()}</g></svg>'
    )


def _write_png(panels: "Sequence[Cells]", path: Path) -> Path:
    grid = _Grid(panels)
    inches = [pixels / 80 for pixels in grid.size]
    shrink = min(1.0, LARGEST / max(inches))
    figure = new_figure(inches[0] * shrink, inches[1] * shrink)
    with many_scripts():
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)  # the longest label fits to the pixel
        plots = list(figure.subplots(grid.rows, grid.columns, squeeze=False).flat)
        for plot, panel in zip(plots, panels, strict=False):
            plot.set_title(panel.title, fontsize=9, loc="left", parse_math=False)
            panel.draw(plot)
            if isinstance(panel, Bars):  # as thick as beside the longest panel they would be walls
                plot.set_ylim(max(len(panel.labels), grid.room / Bars.ROW) - 0.5, -0.5)
        for plot in plots[len(panels) :]:
            plot.set_axis_off()
        return save_png(figure, path)


def _room(labels: Sequence[str]) -> float:
    """Pixels that the longest of these labels takes."""
    return max(map(_length, labels), default=0.0) + 8


def _length(label: str) -> float:
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in label)
    return LETTER * (len(label) + 0.8 * wide)


@dataclass(frozen=True)
class Heat:
    """Numbers as shades: what is negative has a second colour."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Float[np.ndarray, "R C"]
    full: float
    """The absolute value that has the full colour."""

    @property
    def cell(self) -> float:
        """Pixels of a cell's side: labels must not touch, and 64 of them should fit a screen."""
        longest = max(self.values.shape)
        if not any((*self.rows, *self.columns)):
            return min(10.0, max(2.0, UNLABELLED / longest))
        return 14.0 if longest <= 32 else 12.0

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels."""
        rows, columns = self.values.shape
        width = _room(self.rows) + columns * self.cell + 2
        return max(width, 1.2 * _length(self.title)), rows * self.cell + _room(self.columns)

    def gist(self) -> str:
        """Name the strongest cell, for those who do not see it."""
        row, column = divmod(int(np.abs(self.values).argmax()), self.values.shape[1])
        return f"Strongest: {self.rows[row]}, {self.columns[column]}."

    def marks(self) -> str:
        """Draw one path for each shade, a stroke for each run of cells that have it."""
        cell, left, (rows, columns) = self.cell, _room(self.rows), self.values.shape
        shades = np.rint(np.clip(self.values / self.full, -1, 1) * SHADES).astype(int)
        paths = [
            f'<path class="{"shade" if shade > 0 else "shade minus"}"'
            f' stroke-opacity="{abs(shade) / SHADES:g}" d="{_runs(shades == shade)}"/>'
            for shade in np.unique(shades)
            if shade
        ]
        labels = [
            f'<text x="{left - 5:.1f}" y="{(r + 0.5) * cell:.1f}" dy=".34em" text-anchor="end">'
            f"{escaped(label)}</text>"
            for r, label in enumerate(self.rows)
        ]
        labels += [
            f'<text transform="translate({left + (c + 0.5) * cell:.1f} {rows * cell + 5:.1f})'
            f' rotate(-90)" dy=".34em" text-anchor="end">{escaped(label)}</text>'
            for c, label in enumerate(self.columns)
        ]
        return (
            f'<g transform="translate({left:.1f} 0) scale({cell:g})">{"".join(paths)}</g>'
            f'<path class="axis" d="M{left:.1f} 0h{columns * cell:g}v{rows * cell:g}'
            f'h-{columns * cell:g}z"/>{"".join(labels)}'
        )

    def draw(self, plot: Any) -> None:
        """Draw it on matplotlib's axes."""
        from matplotlib.colors import LinearSegmentedColormap  # an extra: see `new_figure`

        colours = LinearSegmentedColormap.from_list("", [ORANGE, "#ffffff", BLUE])
        plot.imshow(self.values, cmap=colours, vmin=-self.full, vmax=self.full)
        for axis, labels in ((plot.xaxis, self.columns), (plot.yaxis, self.rows)):
            # parse_math: a token with a dollar sign is not a formula.
            axis.set_ticks(range(len(labels)), labels, fontsize=6, parse_math=False)
            axis.set_tick_params(length=0)
        plot.tick_params(axis="x", labelrotation=90)


def _runs(mask: Any) -> str:
    """Stroke the cells of a mask, neighbours in a row with one stroke."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    (rows, starts), (_, ends) = np.nonzero(edges == 1), np.nonzero(edges == -1)
    return "".join(
        f"M{start} {row}.5h{end - start}"
        for row, start, end in zip(rows, starts, ends, strict=True)
    )


@dataclass(frozen=True)
class Bars:
    """One bar for each label, downwards; what is negative goes to the left, in a second colour."""

    title: str
    labels: Sequence[str]
    values: Sequence[float]
    notes: Sequence[str]
    """Words after each bar."""
    full: float = 0.0
    """The longest bar's value at least: where all are nearly nothing, all are short."""

    ROW, LENGTH = 16, 190

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels."""
        width = _room(self.labels) + self.LENGTH + _room(self.notes) + 4
        return max(width, 1.2 * _length(self.title)), float(self.ROW * len(self.labels))

    @property
    def _ends(self) -> tuple[float, float]:
        """Values at both ends of the bars' room."""
        least = min(0.0, *self.values)
        most = max(0.0, least + self.full, *self.values)
        return least, most if most > least else 1.0

    def gist(self) -> str:
        """Name the longest bar, for those who do not see it."""
        i = int(np.argmax(np.abs(self.values)))
        return f"Longest: {self.labels[i]}: {self.values[i]:.2g}."

    def marks(self) -> str:
        """Draw label, bar and words of each row."""
        left, (least, most) = _room(self.labels), self._ends
        scale = self.LENGTH / (most - least)
        zero = left - least * scale
        parts = []
        rows = zip(self.labels, self.values, self.notes, strict=True)
        for i, (label, value, note) in enumerate(rows):
            y, start, end = i * self.ROW, min(value, 0.0) * scale, max(value, 0.0) * scale
            kind = "bar minus" if value < 0 else "bar"
            parts.append(
                f'<text x="{left - 5:.1f}" y="{y + 8}" dy=".34em" text-anchor="end">'
                f'{escaped(label)}</text><rect class="{kind}" x="{zero + start:.1f}"'
                f' y="{y + 2}" width="{end - start:.1f}" height="{self.ROW - 4}"/>'
                f'<text x="{zero + end + 5:.1f}" y="{y + 8}" dy=".34em">'
                f"{escaped(note)}</text>"
            )
        return "".join(parts)

    def draw(self, plot: Any) -> None:
        """Draw it on matplotlib's axes."""
        places, (least, most) = range(len(self.labels)), self._ends
        plot.barh(places, self.values, color=[ORANGE if v < 0 else BLUE for v in self.values])
        plot.set_yticks(places, self.labels, fontsize=7, parse_math=False)
        for place, value, note in zip(places, self.values, self.notes, strict=True):
            at = max(value, 0.0)
            plot.text(at, place, f" {note}", va="center", fontsize=7, parse_math=False)
        plot.set_ylim(len(self.labels) - 0.5, -0.5)
        plot.set_xlim(1.02 * least, most + 0.35 * (most - least))
        plot.spines[["top", "right"]].set_visible(False)


Cells = Heat | Bars | Scatter
"""What stands in a panel that is as large as it needs to be."""

_SHAPES = f"""
.panel .shade {{ stroke: currentColor; stroke-width: 1; shape-rendering: crispEdges; }}
.panel .bar {{ fill: currentColor; }}
{SHAPES}"""
_PLAIN = f"""
text {{ font: 11px system-ui, sans-serif; fill: #57606a; }} path {{ fill: none; }}
.head {{ font-size: 13px; font-weight: 600; fill: #1b1f24; }} .axis {{ stroke: #57606a; }}
.shade, .bar {{ color: {BLUE}; }} .minus {{ color: {ORANGE}; }}
.tag {{ fill: #1b1f24; stroke: #fff; }}
{lines.LIGHT}"""

STYLE = f"""{lines.STYLE}{_SHAPES}
svg.panel text.tag {{ fill: var(--ink); stroke: var(--paper); }}
svg.panel text {{ font-size: 11px; }} svg.panel text.head {{ font-size: 13px; }}
.shade, .bar {{ color: {BLUE}; }} .minus {{ color: {ORANGE}; }}
@media (prefers-color-scheme: dark) {{ .shade, .bar {{ color: #56b4e9; }}
  .minus {{ color: #f0a04b; }} }}
.cells {{ display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; margin: .5rem 0; }}
.cells > div {{ overflow-x: auto; max-width: 100%; }}
.cells > div > svg.panel {{ width: auto; max-width: none; }}
"""
"""Rules of a page with pictures, beside those that all pages share."""

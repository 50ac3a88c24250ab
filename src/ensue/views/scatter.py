"""Points in two dimensions: groups told apart by colour and shape, and named where they stand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ensue.views.lines import STYLES
from ensue.views.page import escaped

RAMP = ("#0072b2", "#008b96", "#3a9a4a", "#8c9000", "#cc7a00", "#c8321f")
"""Colours of an order, from low to high; each is seen on white and on black."""
NAMED = 2 * len(STYLES)
"""Groups with a look of their own: each colour is round once, and square once."""
GAP, KEY = 11.0, 17
"""Pixels between names in the picture, and from one line of the legend to the next."""
LETTER = 6.4
"""Pixels of a letter."""
TIP = 90
"""Letters of a text that is shown where the mouse rests on its point."""


@dataclass(frozen=True)
class Cloud:
    """Points of one group."""

    name: str
    points: Float[np.ndarray, "N 2"]
    texts: Sequence[str]
    """What each point stands for; empty: not said."""
    look: str
    """Its classes in the style sheet: ``s0`` … by group, ``r0`` … by order, ``rest``."""
    square: bool = False

    @property
    def colour(self) -> str:
        """The same for matplotlib."""
        kind, number = self.look[0], self.look[1:]
        if self.look == "rest":
            return REST
        return STYLES[int(number)].light if kind == "s" else RAMP[int(number)]

    @property
    def middle(self) -> Float[np.ndarray, " 2"]:
        """Where its name stands: half of its points are on either side."""
        found: Float[np.ndarray, " 2"] = np.median(self.points, axis=0)
        return found


REST = "#b3bac1"
"""Points that are there for comparison."""


def look_of(number: int) -> tuple[str, bool]:
    """Give the look of a group by its number: colour, and whether it is square."""
    return f"s{number % len(STYLES)}", number >= len(STYLES)


@dataclass(frozen=True)
class Scatter:
    """Clouds over the same two directions; a step is as long in both."""

    title: str
    clouds: Sequence[Cloud]
    """What is drawn later lies above."""
    across: str
    """What the horizontal axis is."""
    up: str
    """What the vertical axis is."""
    low: Float[np.ndarray, " 2"]
    """The lower left corner."""
    high: Float[np.ndarray, " 2"]
    """The upper right corner."""
    side: int = 480
    """Pixels of the longer side."""
    legend: bool = True
    """Whether groups are named, in a legend and where they stand."""

    @property
    def _scale(self) -> float:
        return float(self.side / max((self.high - self.low).max(), 1e-12))

    @property
    def _area(self) -> tuple[float, float]:
        width, height = (self.high - self.low) * self._scale
        return float(max(width, 40.0)), float(max(height, 40.0))

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels."""
        width, height = self._area
        if not self.legend:
            return width + 2, height + 2
        names = max((len(cloud.name) for cloud in self.clouds), default=0)
        return width + 46 + LETTER * names + 20, max(height + 24, KEY * len(self.clouds) + 4.0)

    def gist(self) -> str:
        """Count the points, for those who do not see them."""
        named = [f"{cloud.name} {len(cloud.points):,}" for cloud in self.clouds]
        return f"Points: {', '.join(named)}."

    def marks(self) -> str:
        """Draw frame, points and names."""
        width, height = self._area
        parts = [f'<path class="axis" d="M1 1h{width:.0f}v{height:.0f}h-{width:.0f}z"/>']
        parts += [self._points(cloud) for cloud in self.clouds]
        if not self.legend:
            return "".join(parts)
        for cloud, (x, y) in self._names():
            parts.append(
                f'<text class="tag" x="{x:.1f}" y="{y:.1f}" dy=".34em" text-anchor="middle">'
                f"{escaped(cloud.name)}</text>"
            )
        for i, cloud in enumerate(self.clouds):
            x, y = width + 20, KEY * i + 10
            parts.append(
                f'<path class="point key {_classes(cloud)}" d="M{x:.0f} {y}h0"/>'
                f'<text x="{x + 10:.0f}" y="{y}" dy=".34em">{escaped(cloud.name)}</text>'
            )
        parts.append(
            f'<text x="1" y="{height + 17:.0f}">'
            f"{escaped(f'{self.across}; upwards: {self.up}')}</text>"
        )
        return "".join(parts)

    def _places(self, points: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
        """Give pixels from the upper left corner."""
        places = (points - self.low) * self._scale
        places[:, 1] = self._area[1] - places[:, 1]
        return places + 1

    def _points(self, cloud: Cloud) -> str:
        """Draw strokes without length: their ends are the points."""
        name = f"point {_classes(cloud)}"
        if not cloud.texts:  # whole pixels, each once: a third less of a large file
            spots = dict.fromkeys(f"M{x:.0f} {y:.0f}h0" for x, y in self._places(cloud.points))
            return f'<path class="{name}" d="{"".join(spots)}"/>'
        places = [f"M{x:.1f} {y:.1f}h0" for x, y in self._places(cloud.points)]
        drawn = "".join(
            f'<path d="{place}"><title>{escaped(_tip(text))}</title></path>'
            for place, text in zip(places, cloud.texts, strict=True)
        )
        return f'<g class="{name}">{drawn}</g>'

    def _names(self) -> list[tuple[Cloud, tuple[float, float]]]:
        """Place the names of groups in their middles, moved down where one covers another."""
        found: list[tuple[Cloud, tuple[float, float]]] = []
        named = [c for c in self.clouds if c.look != "rest" and len(self.clouds) > 1]
        for cloud in sorted(named, key=lambda c: -float(c.middle[1])):
            x, y = (float(p) for p in self._places(cloud.middle[None].copy())[0])
            while any(
                abs(x - a) < LETTER * (len(cloud.name) + len(other.name) + 2) / 2
                and abs(y - b) < GAP
                for other, (a, b) in found
            ):
                y += 1
            found.append((cloud, (x, y)))
        return found

    def draw(self, plot: Any) -> None:
        """Draw it on matplotlib's axes."""
        for cloud in self.clouds:
            plot.scatter(
                *cloud.points.T,
                s=9 if self.legend else 3,
                color=cloud.colour,
                marker="s" if cloud.square else "o",
                linewidths=0,
            )
        plot.set_xlim(self.low[0], self.high[0])
        plot.set_ylim(self.low[1], self.high[1])
        plot.set_aspect("equal")
        plot.set_xticks([])
        plot.set_yticks([])
        if not self.legend:
            return
        plot.set_xlabel(f"{self.across}; upwards: {self.up}", fontsize=8, parse_math=False)
        for cloud, (x, y) in self._names():
            at = (np.array([x - 1, self._area[1] - y + 1]) / self._scale) + self.low
            box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.6}
            plot.text(
                *at, cloud.name, fontsize=7, ha="center", va="center", bbox=box
            ).set_parse_math(False)
        if len(self.clouds) > 1:
            # Given by hand: matplotlib itself leaves out names that begin with an underscore.
            legend = plot.legend(
                plot.collections,
                [cloud.name for cloud in self.clouds],
                loc="center left",
                bbox_to_anchor=(1.0, 0.5),
                fontsize=7,
                frameon=False,
            )
            for text in legend.get_texts():
                text.set_parse_math(False)


def _classes(cloud: Cloud) -> str:
    return f"{cloud.look}{' square' if cloud.square else ''}"


def _tip(text: str) -> str:
    return text if len(text) <= TIP else f"{text[: TIP - 1]}…"


SHAPES = f"""
.panel .point {{ stroke: currentColor; stroke-width: 4.5; stroke-linecap: round; opacity: .8; }}
.panel .square {{ stroke-linecap: square; stroke-width: 3.6; }}
.panel .key {{ stroke-width: 9; opacity: 1; }} .panel .key.square {{ stroke-width: 7; }}
.panel .rest {{ color: {REST}; opacity: .5; }}
.panel text.tag {{ font-weight: 600; paint-order: stroke; stroke-width: 3px; }}
{"".join(f".r{i} {{ color: {colour}; }} " for i, colour in enumerate(RAMP))}
"""
"""Rules of points, in a page and in a file of their own."""

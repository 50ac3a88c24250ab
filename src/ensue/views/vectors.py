"""The page of sentences in two dimensions, coloured by what a person names."""

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ensue.files import write_atomic
from ensue.views.looks import percent, write_pictures
from ensue.views.page import escaped, facts, footer, page
from ensue.views.pictures import STYLE, Picture
from ensue.views.scatter import NAMED, RAMP, Cloud, Scatter, look_of
from ensue.views.text import visible

LONGEST = 18
"""Letters of a group's name."""
ALONE = 48
"""Groups that are drawn alone at most."""
MARGIN = 0.04
"""Share of the picture around the outermost points."""


def write_vectors(folder: Path, seen: Mapping[str, Any], version: str) -> list[Path]:
    """Write vectors.html, .csv, .svg and, with matplotlib, .png.

    Args:
        folder: Made where it is missing.
        seen: As `ensue.vectors.Vectors.to_json` gives it.
        version: Of ensue.
    """
    drawn = vector_pictures(seen)
    numbers = io.StringIO()
    rows = csv.writer(numbers, lineterminator="\n")
    rows.writerow(["text", seen["grouped_by"], "x", "y"])
    rows.writerows(_rows(seen))
    paths = write_pictures(folder, "vectors.html", _page(seen, drawn, version), drawn)
    write_atomic(folder / "vectors.csv", numbers.getvalue())
    return [*paths, folder / "vectors.csv"]


def _rows(seen: Mapping[str, Any]) -> list[list[str]]:
    groups = seen["groups"] or [""] * len(seen["texts"])
    return [
        [text, group, f"{x:.4f}", f"{y:.4f}"]
        for text, group, (x, y) in zip(seen["texts"], groups, seen["points"], strict=True)
    ]


def vector_pictures(seen: Mapping[str, Any]) -> list[Picture]:
    """Draw all in one picture, and each group alone above the others."""
    points = np.array(seen["points"])
    room = MARGIN * (points.max(axis=0) - points.min(axis=0)).max()
    across, up = (
        f"{name} component, {percent(share)} of the variance"
        for name, share in zip(("first", "second"), seen["shares"], strict=True)
    )
    by = _short(seen["grouped_by"])
    clouds = _clouds(seen["groups"], seen["texts"], points)
    of = f", coloured by {by}" if seen["groups"] else ""
    corners = points.min(axis=0) - room, points.max(axis=0) + room
    whole = Scatter(f"vectors{of}", clouds, across, up, *corners)
    words = (
        "Each point is a sentence: its vector, seen along the two directions in which the vectors"
        " differ most. A step is as long in both. Where the mouse rests on a point, the page shows"
        " its sentence."
    )
    pictures = [
        Picture(
            name="vectors",
            title=f"{len(points):,} sentences{of}",
            caption=words + (f" A name stands in the middle of its {by}." if of else ""),
            panels=[whole],
            heads=["sentence", by, "x", "y"],
            rows=_rows(seen),
        )
    ]
    if len(set(seen["groups"])) > 1:
        pictures.append(_alone(seen["groups"], points, by, whole))
    return pictures


def _alone(
    groups: Sequence[str], points: Float[np.ndarray, "N 2"], by: str, whole: Scatter
) -> Picture:
    """Draw each group alone: of many that lie one above another none is hidden."""
    ranges = _ranges(groups)
    labels = np.array([ranges.get(group, group) for group in groups])
    names = _in_order(labels.tolist())
    panels = []
    for name in names[:ALONE]:
        own = labels == name
        panels.append(
            replace(
                whole,
                title=f"{_short(name)} ({int(own.sum()):,})",
                clouds=[
                    Cloud("others", points[~own], (), "rest"),
                    Cloud(_short(name), points[own], (), "s0"),
                ],
                side=150,
                legend=False,
            )
        )
    left = f" Of {len(names)} the first {ALONE} are shown." if len(names) > ALONE else ""
    often = Counter(labels.tolist())
    return Picture(
        name="vectors-each",
        title=f"Each {by} alone",
        caption=f"The same points; those of one {by} in blue, all others in grey.{left}",
        panels=panels,
        heads=[by, "sentences"],
        rows=[[_short(name), f"{often[name]:,}"] for name in names],
    )


def _clouds(
    groups: Sequence[str], texts: Sequence[str], points: Float[np.ndarray, "N 2"]
) -> list[Cloud]:
    if not groups:
        return [Cloud("sentences", points, texts, "s0")]
    ranges = _ranges(groups)
    labels = [ranges.get(group, group) for group in groups]
    names = _in_order(labels)
    named = names
    if len(names) > NAMED:
        often = Counter(labels)
        named = sorted(sorted(names, key=lambda n: -often[n])[:NAMED], key=names.index)
    looks = {name: look_of(i) for i, name in enumerate(named)}
    if ranges:
        looks = {name: (f"r{i}", False) for i, name in enumerate(named)}

    def cloud(name: str, chosen: Sequence[int], look: tuple[str, bool]) -> Cloud:
        return Cloud(_short(name), points[chosen], [texts[i] for i in chosen], *look)

    places: dict[str, list[int]] = {name: [] for name in named}
    rest: list[int] = []
    for i, label in enumerate(labels):
        places.get(label, rest).append(i)
    others = [cloud(f"{len(names) - len(named)} others", rest, ("rest", False))] if rest else []
    return others + [cloud(name, places[name], looks[name]) for name in named]


def _ranges(groups: Sequence[str]) -> dict[str, str]:
    """Give numbers that are more than have a look of their own the range in which they lie."""
    try:
        values = {group: float(group) for group in set(groups)}
    except ValueError:
        return {}
    if len(values) <= NAMED or not np.isfinite(list(values.values())).all():
        return {}
    order = sorted(values, key=values.__getitem__)
    parts = [part.tolist() for part in np.array_split(np.array(order), len(RAMP))]
    return {group: f"{part[0]} to {part[-1]}" for part in parts for group in part}


def _in_order(names: Sequence[str]) -> list[str]:
    """Give the different names, numbers in them by their size."""

    def key(name: str) -> list[tuple[int, float, str]]:
        parts = re.split(r"(\d+(?:\.\d+)?)", name)
        return [(0, float(p), "") if i % 2 else (1, 0.0, p) for i, p in enumerate(parts)]

    return sorted(set(names), key=key)


def _short(name: str) -> str:
    words = visible(" ".join(name.split())) or "(none)"
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 1]}…"


def vector_words(seen: Mapping[str, Any]) -> str:
    """Say in words what the picture shows of the vectors, and what it does not."""
    both = sum(seen["shares"])
    words = (
        f"The picture shows {percent(both)} of the variance of {len(seen['points']):,} vectors of"
        f" {seen['dimensions']:,} numbers."
    )
    if seen["groups"]:
        by = _short(seen["grouped_by"])
        words += (
            f" The nearest neighbour of a sentence is of the same {by} in"
            f" {percent(seen['neighbours'])} of all cases, in the two dimensions of the picture in"
            f" {percent(seen['drawn_neighbours'])}, by lot in {percent(seen['chance'])}."
        )
    return words


def _page(seen: Mapping[str, Any], drawn: Sequence[Picture], version: str) -> str:
    grouped = bool(seen["groups"])
    body = [
        '<header><p class="over">ensue inspect --vectors</p>'
        f"<h1>{escaped(seen['title'])}</h1></header>",
        facts(
            {
                "sentences": f"{len(seen['points']):,}",
                "of the variance shown": percent(sum(seen["shares"])),
                "neighbours alike": percent(seen["neighbours"]) if grouped else "",
                "by lot": percent(seen["chance"]) if grouped else "",
            }
        ),
        f"<p>{escaped(vector_words(seen))}</p>",
        *(f"<p>{escaped(notice)}</p>" for notice in seen["notices"]),
        *(picture.section("vectors.csv") for picture in drawn),
        footer(version),
    ]
    return page(f"{seen['title']} · ensue", "\n".join(body), STYLE)

"""Pictures of classifiers: what was taken for what, filters, their maps, reasons for an answer."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from ensue.views.page import escaped, footer, page
from ensue.views.pictures import STYLE, Bars, Heat, Picture
from ensue.views.text import visible

SHOWN_FILTERS, SHOWN_MAPS = 32, 12
"""Filters of the first layer, and maps of each layer, that are drawn."""


def confusion_picture(
    names: Sequence[str], confusion: Sequence[Sequence[int]], split: str
) -> Picture:
    """Draw how often each class (row) was taken for each (column).

    Args:
        names: Of the classes.
        confusion: Counts.
        split: What was scored, by name.
    """
    counts = np.array(confusion, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown = [visible(name) for name in names]
    return Picture(
        name=f"confusion-{split}",
        title="What was taken for what",
        caption="Rows: what it is; columns: what it was taken for. The darker, the larger the share"
        " of the row.",
        panels=[Heat(f"{split}, {int(counts.sum()):,} examples", shown, shown, shares, 1.0)],
        heads=["is", *shown],
        rows=[[name, *(f"{n:,}" for n in row)] for name, row in zip(shown, confusion, strict=True)],
    )


Shade = Float[np.ndarray, "H W"]


def _shaded(title: str, values: Shade) -> Heat:
    """Draw a small picture, each by its own strongest place."""
    height, width = values.shape
    most = float(np.abs(values).max()) or 1.0
    return Heat(title, [""] * height, [""] * width, values, most)


def look_pictures(
    shown: Shade,
    speaks: Shade,
    top: Sequence[tuple[str, float]],
    filters: Float[np.ndarray, "F K L"],
    maps: Mapping[str, Float[np.ndarray, "C I J"]],
) -> list[Picture]:
    """Draw what a classifier was shown, what speaks for its answer, its filters and their maps.

    Args:
        shown: The picture, brightness around the mean of the training pictures, over channels.
        speaks: Gradient of the answer's logit times the picture, over channels.
        top: The likeliest classes, with their confidence.
        filters: Weights of the first layer, a small picture each.
        maps: What each layer found, by its name; empty: it has no places.
    """
    answer = visible(top[0][0])
    drawn = [
        Picture(
            name="answer",
            title="What was seen, and what was said",
            caption="The picture as the model is shown it (blue: brighter than the mean of the"
            " training pictures, orange: darker); where it speaks for the answer (blue) and"
            " against it (orange): the slope of the answer's logit, mean over copies with a little"
            " noise, times the picture; and how sure the model is.",
            panels=[
                _shaded("the picture", shown),
                _shaded(f"for and against {answer}", speaks),
                Bars(
                    "confidence",
                    [visible(label) for label, _ in top],
                    [share for _, share in top],
                    [f"{share:.1%}" for _, share in top],
                    1.0,
                ),
            ],
            heads=("class", "confidence"),
            rows=[(visible(label), f"{share:.4f}") for label, share in top],
        ),
        _filters_picture(filters),
    ]
    return [*drawn, *(_maps_picture(name, found) for name, found in maps.items())]


def _filters_picture(filters: Float[np.ndarray, "F K L"]) -> Picture:
    strongest = np.argsort(-np.abs(filters).sum(axis=(1, 2)), kind="stable")[:SHOWN_FILTERS]
    return Picture(
        name="filters",
        title="What the first layer looks for",
        caption=f"Weights of {len(strongest)} of its {len(filters)} filters or hidden units, the"
        " strongest first, mean over channels; blue adds, orange takes away.",
        panels=[_shaded(f"{i + 1}", filters[i]) for i in strongest],
        heads=(),
        rows=(),
    )


def _maps_picture(name: str, maps: Float[np.ndarray, "C I J"]) -> Picture:
    strongest = np.argsort(-np.abs(maps).mean(axis=(1, 2)), kind="stable")[:SHOWN_MAPS]
    return Picture(
        name=f"maps-{name.replace('.', '-')}",
        title=f"What {name} found, and where",
        caption=f"The {len(strongest)} strongest of its {len(maps)} maps, in this picture.",
        panels=[_shaded(f"{i + 1}", maps[i]) for i in strongest],
        heads=(),
        rows=(),
    )


def look_page(title: str, said: str, drawn: Sequence[Picture], version: str) -> str:
    """Make the page.

    Args:
        title: Which model.
        said: What it said of which picture.
        drawn: What was seen.
        version: Of ensue.
    """
    body = [
        f'<header><p class="over">ensue inspect</p><h1>{escaped(title)}</h1>'
        f"<p>{escaped(said)}</p></header>",
        *(picture.section("the --json output") for picture in drawn),
        footer(version),
    ]
    return page(f"{title} · ensue", "\n".join(body), STYLE)
